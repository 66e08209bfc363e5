// Package memstore keeps records in the memory of one process. It is for tests, for programs of one process, and the
// reference for the model tests of the other stores. Nothing survives the process, and nothing is shared with another.
//
// It is sharded, so that goroutines at different keys rarely wait for each other, and really forgets what has expired:
// an expired record is never read, and while a shard grows it looks at a few others of its records for each new one and
// drops those.
package memstore

import (
	"context"
	"hash/maphash"
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// Config has the settings of a [Store]. Its zero value works.
type Config struct {
	// Clock is the store's clock. It must be safe for concurrent use. Defaults to time.Now.
	Clock func() time.Time
	// Compact keeps only a digest of 16 bytes, the expiry and half of the fingerprint of a key that is consumed without a
	// result and without steps, at its first generation and for at least two seconds longer than its lease: at most 90 bytes a
	// key, where a record takes 500. Its record stays for one lease more, so that a repeated Settle succeeds; after that
	// it is dedup.ErrLeaseLost, the key is answered without fence, nonce and times, and List does not show it. Another payload
	// is taken for the same with odds of 1 to 2^64; of a billion keys, two are taken for one with odds of 1 to 10^20. Defaults
	// to false.
	Compact bool
}

const (
	shards     = 64
	sweepEvery = 8  // new records of a shard, and then it is swept
	sweepSteps = 16 // records that a sweep looks at; more than there are new ones, so that sweeping outruns growing
	shrinkFrom = 64 // records of a shard; smaller maps are not worth moving
	shrinkTo   = 4  // a map is moved to a smaller one when less than this part of its peak is left
)

// Store is a [dedup.Store] in memory. It is safe for concurrent use and has no goroutine.
type Store struct {
	clock   func() time.Time
	epoch   time.Time // what times are counted from
	compact bool
	seed    maphash.Seed
	shard   [shards]shard
}

type shard struct {
	mu      sync.Mutex
	records map[dedup.Key]*kept
	steps   map[dedup.Key][]dedup.SavedStep // of these records; see step.go
	// scratch is where a record is changed, so that one that is only read, or is there already, needs no memory.
	scratch dedup.Record
	// fence is the largest one ever given in this shard. It makes fences grow across expiry and Forget also when the
	// clock stands still.
	fence    dedup.Fence
	fresh    int                           // records that are new since the last sweep
	peak     int                           // the most records since the map was made; Go's maps grow and never shrink
	watchers map[dedup.Key][]chan struct{} // nil before the first Watch
	// traces are of consumed keys, if the store is compact; see digest.go.
	traces     map[digest]trace
	peakTraces int
}

var (
	_ dedup.Store     = (*Store)(nil)
	_ dedup.Batcher   = (*Store)(nil)
	_ dedup.Inspector = (*Store)(nil)
	_ dedup.Describer = (*Store)(nil)
)

// New returns an empty store.
func New(cfg Config) *Store {
	s := &Store{clock: cfg.Clock, compact: cfg.Compact, seed: maphash.MakeSeed()}
	if s.clock == nil {
		s.clock = time.Now
	}
	s.epoch = s.clock()
	for i := range s.shard {
		s.shard[i].records = map[dedup.Key]*kept{}
	}
	return s
}

// Describe returns "memory://".
func (s *Store) Describe() string { return "memory://" }

// Len returns how many records are held, expired ones that are not swept yet included; digests do not count.
func (s *Store) Len() int {
	n := 0
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		n += len(sh.records)
		sh.mu.Unlock()
	}
	return n
}

// shardOf goes by the ID alone: scopes are few.
func (s *Store) shardOf(k dedup.Key) *shard { return &s.shard[maphash.String(s.seed, k.ID)%shards] }

// change is changeAs without a fingerprint.
func (s *Store) change(ctx context.Context, k dedup.Key, f func(r *dedup.Record, now time.Time, next dedup.Fence) bool) error {
	return s.changeAs(ctx, k, dedup.Fingerprint{}, f)
}

// changeAs runs f on the record of a key, the zero Record if there is none, and keeps it if f says that it changed.
func (s *Store) changeAs(ctx context.Context, k dedup.Key, fp dedup.Fingerprint, f func(r *dedup.Record, now time.Time, next dedup.Fence) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sh := s.shardOf(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.clock()
	r, stored := &sh.scratch, sh.records[k]
	s.unpack(r, k, stored, now)
	if r.State == dedup.Absent && len(sh.steps) > 0 {
		delete(sh.steps, k) // of a record that has expired
	}
	var d digest
	var before dedup.Record
	if s.compact {
		d = digestOf(k)
		sh.recall(r, k, d, fp, now)
		before = *r
	}
	next := transition.NextFence(max(sh.fence, r.Fence), now)
	if f(r, now, next) {
		if r.Fence == next {
			sh.fence = next
		}
		if s.compact {
			sh.condense(r, d, &before, now)
		}
		known := len(sh.records)
		switch {
		case r.State == dedup.Absent:
			delete(sh.records, k)
			delete(sh.steps, k)
		case stored != nil:
			s.pack(stored, r)
		default:
			fresh := new(kept)
			s.pack(fresh, r)
			sh.records[k] = fresh
		}
		if len(sh.watchers) > 0 && r.State != dedup.Acquired { // neither a grant nor an extension
			sh.tell(k)
		}
		if len(sh.records) > known {
			sh.fresh++
		}
		if sh.fresh == sweepEvery {
			sh.fresh = 0
			s.sweep(sh, now)
			sh.sweepTraces(now)
		}
	}
	r.Result = nil // the record's alone
	return nil
}

// sweep drops expired records among a few that the map happens to begin with; a map's order is random.
func (s *Store) sweep(sh *shard, now time.Time) {
	sh.peak = max(sh.peak, len(sh.records))
	n := 0
	for k, r := range sh.records {
		if !s.lives(r, now) {
			delete(sh.records, k)
			delete(sh.steps, k)
		}
		if n++; n == sweepSteps {
			break
		}
	}
	if sh.peak >= shrinkFrom && len(sh.records) < sh.peak/shrinkTo {
		moved := make(map[dedup.Key]*kept, len(sh.records))
		maps.Copy(moved, sh.records)
		sh.records, sh.peak = moved, len(moved)
	}
}

// answer returns the record as a caller may keep it.
func answer(r *dedup.Record, now time.Time) dedup.Record {
	c := r.Clone()
	c.ReadAt = now
	return c
}

// Acquire claims a key.
func (s *Store) Acquire(ctx context.Context, c dedup.Claim) (v dedup.Verdict, out dedup.Record, err error) {
	err = s.changeAs(ctx, c.Key, c.Fingerprint, func(r *dedup.Record, now time.Time, next dedup.Fence) (changed bool) {
		v, changed = transition.Acquire(r, c, now, next)
		out = answer(r, now)
		return changed
	})
	return v, out, err
}

// Extend restarts the lease.
func (s *Store) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	return s.held(ctx, h.Key, func(r *dedup.Record, now time.Time) (bool, error) {
		return transition.Extend(r, h, lease, now)
	})
}

// Settle ends the claim for good.
func (s *Store) Settle(ctx context.Context, h dedup.Hold, st dedup.Settlement) error {
	st.Result = append([]byte(nil), st.Result...)
	return s.held(ctx, h.Key, func(r *dedup.Record, now time.Time) (bool, error) {
		return transition.Settle(r, h, st, now)
	})
}

// Release ends the claim so that it can be retried.
func (s *Store) Release(ctx context.Context, h dedup.Hold, rel dedup.Release) error {
	return s.held(ctx, h.Key, func(r *dedup.Record, now time.Time) (bool, error) {
		return transition.Release(r, h, rel, now)
	})
}

// LetterSent finishes a death.
func (s *Store) LetterSent(ctx context.Context, k dedup.Key, f dedup.Fence) error {
	return s.held(ctx, k, func(r *dedup.Record, now time.Time) (bool, error) {
		return transition.LetterSent(r, f, now)
	})
}

func (s *Store) held(ctx context.Context, k dedup.Key, f func(*dedup.Record, time.Time) (bool, error)) (err error) {
	cerr := s.change(ctx, k, func(r *dedup.Record, now time.Time, _ dedup.Fence) (changed bool) {
		changed, err = f(r, now)
		return changed
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// AcquireMany claims the keys one after another; in memory there is no round trip to save.
func (s *Store) AcquireMany(ctx context.Context, claims []dedup.Claim) []dedup.Acquisition {
	out := make([]dedup.Acquisition, len(claims))
	for i, c := range claims {
		out[i].Verdict, out[i].Record, out[i].Err = s.Acquire(ctx, c)
	}
	return out
}

// SettleMany settles the claims one after another.
func (s *Store) SettleMany(ctx context.Context, settlements []dedup.HeldSettlement) []error {
	out := make([]error, len(settlements))
	for i, st := range settlements {
		out[i] = s.Settle(ctx, st.Hold, st.Settlement)
	}
	return out
}

// Get returns the record, or dedup.ErrNotFound.
func (s *Store) Get(ctx context.Context, k dedup.Key) (out dedup.Record, err error) {
	err = s.held(ctx, k, func(r *dedup.Record, now time.Time) (bool, error) {
		if r.State == dedup.Absent {
			return false, dedup.ErrNotFound
		}
		out = answer(r, now)
		return false, nil
	})
	return out, err
}

// List returns the records that the filter selects, shard by shard.
func (s *Store) List(ctx context.Context, f dedup.Filter) iter.Seq2[dedup.Record, error] {
	return func(yield func(dedup.Record, error) bool) {
		for i := range s.shard {
			if err := ctx.Err(); err != nil {
				yield(dedup.Record{}, err)
				return
			}
			for _, r := range s.selected(&s.shard[i], f, s.clock()) {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

func (s *Store) selected(sh *shard, f dedup.Filter, now time.Time) []dedup.Record {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var out []dedup.Record
	var r dedup.Record
	for k, stored := range sh.records {
		s.unpack(&r, k, stored, now)
		if r.State != dedup.Absent && f.Selects(&r) {
			c := answer(&r, now)
			if s.compact {
				sh.recall(&c, k, digestOf(k), dedup.Fingerprint{}, now)
			}
			out = append(out, c)
		}
	}
	return out
}

// Forget removes the record.
func (s *Store) Forget(ctx context.Context, k dedup.Key, force bool) error {
	return s.held(ctx, k, func(r *dedup.Record, now time.Time) (bool, error) {
		switch {
		case r.State == dedup.Absent:
			return false, dedup.ErrNotFound
		case r.State == dedup.Acquired && r.LeaseUntil.After(now) && !force:
			return false, dedup.ErrLeaseRunning
		}
		*r = dedup.Record{}
		return true, nil
	})
}

// Reopen makes a dead key ready for a replay.
func (s *Store) Reopen(ctx context.Context, q dedup.ReopenRequest) (out dedup.Reopening, err error) {
	err = s.change(ctx, q.Key, func(r *dedup.Record, now time.Time, next dedup.Fence) (changed bool) {
		out, changed = transition.Reopen(r, q, now, next)
		return changed
	})
	return out, err
}
