package redisstore

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup"
)

// Config has the settings of a [Store]. Its zero value is safe.
type Config struct {
	// Prefix is what the names of all keys begin with. Two programs with one prefix and one scope share their memory.
	// Defaults to "idemq:".
	Prefix string
	// WaitReplicas makes every write wait until this many replicas have it (WAIT). A write that too few have in time is
	// an indeterminate *dedup.StoreError. Defaults to 0, which does not wait.
	WaitReplicas int
	// WaitTimeout is how long it waits. It must be shorter than the client's ReadTimeout and the Deduper's StoreTimeout, or
	// these end the wait first. Defaults to 1 s.
	WaitTimeout time.Duration
	// NoCoalescing sends every call on its own. Otherwise calls of many goroutines travel together while the server is busy
	// with earlier ones; a call that comes alone is sent at once in either case. Defaults to false.
	NoCoalescing bool
	// Layout is how consumed keys are remembered; see the package comment. All workers of a scope must have one that fits
	// the others'. Defaults to [Readable].
	Layout Layout
	// Buckets is how many hashes the consumed keys of a scope are spread over with Layout [Compact]: a power of two, from 64
	// to 16777216, and on a Cluster at least 16384, one for each slot; other values are rounded up. A bucket should come to
	// some 10 to 400 keys: with fewer it costs memory, with more than the server's hash-max-listpack-entries, too. All
	// workers of a scope must have the same number, and keys are forgotten if it is changed. Defaults to 4096 on one server
	// and in a Sentinel group, which is good for 50 thousand to 1.6 million keys a scope, and to 16384 on a Cluster, for 200
	// thousand to 6 million.
	Buckets int
}

const (
	defaultPrefix      = "idemq:"
	defaultWaitTimeout = time.Second
)

// Store is a [dedup.Store] in Redis. It is safe for concurrent use. A goroutine for each server sends what callers have
// queued; it ends when nobody is waiting, so there is nothing to close. Others run while keys are watched, and for some
// seconds after; they end with the client.
type Store struct {
	rdb    redis.UniversalClient
	cfg    Config
	single bool   // one server holds all keys, so that one script may touch many
	where  string // what Describe says, if the client cannot tell

	lane  lane     // if single
	lanes sync.Map // else by the address of each master
	queue bool     // who comes alone queues too; tests set it

	granted       granted
	compareAndSet atomic.Int32 // what the server knows of SET … IFEQ; see native.go
	watching      watching
}

var (
	_ dedup.Store     = (*Store)(nil)
	_ dedup.Batcher   = (*Store)(nil)
	_ dedup.Inspector = (*Store)(nil)
	_ dedup.Describer = (*Store)(nil)
)

// New returns a store over a client of one server, of a Sentinel group, of a Cluster, or over a Ring. The caller closes
// the client. No command is sent; see [Store.Ping] and [Store.Check]. For a Sentinel group [OpenSentinel] is better: it can
// say where the store is.
//
// Set ContextTimeoutEnabled in the client's options: without it go-redis waits for its own ReadTimeout (3 s) when a server
// hangs, longer than the Deduper's StoreTimeout.
func New(rdb redis.UniversalClient, cfg Config) *Store {
	if cfg.Prefix == "" {
		cfg.Prefix = defaultPrefix
	}
	if cfg.WaitTimeout <= 0 {
		cfg.WaitTimeout = defaultWaitTimeout
	}
	_, single := rdb.(*redis.Client)
	cfg.Buckets = buckets(cfg.Buckets, single)
	s := &Store{rdb: rdb, cfg: cfg, single: single}
	s.lane.store = s
	return s
}

// Acquire claims a key.
func (s *Store) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	if err := invalidNonce(c.Nonce); err != nil {
		return 0, dedup.Record{}, s.failure(ctx, "acquire", c.Key, err)
	}
	rep, at := s.do(ctx, c.Key, op{claim: &c})
	a := s.acquisition(ctx, &c, rep, at)
	return a.Verdict, a.Record, a.Err
}

// Extend restarts the lease.
func (s *Store) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	s.granted.take(&h) // its record changes
	return s.one(ctx, "extend", extendScript, h.Key, fence(h.Fence), string(h.Nonce), millis(lease))
}

// Settle ends the claim for good.
func (s *Store) Settle(ctx context.Context, h dedup.Hold, st dedup.Settlement) error {
	if err := invalidClass(st.Cause.Class); err != nil {
		return s.failure(ctx, "settle", h.Key, err)
	}
	rep, at := s.do(ctx, h.Key, op{settling: &dedup.HeldSettlement{Hold: h, Settlement: st}})
	return s.settled(ctx, h.Key, rep, at)
}

// Release ends the claim so that it can be retried.
func (s *Store) Release(ctx context.Context, h dedup.Hold, r dedup.Release) error {
	if err := invalidClass(r.Cause.Class); err != nil {
		return s.failure(ctx, "release", h.Key, err)
	}
	s.granted.take(&h)
	return s.one(ctx, "release", releaseScript, h.Key, fence(h.Fence), string(h.Nonce), dash(string(r.Cause.Class)),
		r.Cause.Message, millis(max(0, r.Delay)), flag(r.Uncounted), r.MaxInterrupted)
}

// LetterSent finishes a death.
func (s *Store) LetterSent(ctx context.Context, k dedup.Key, f dedup.Fence) error {
	return s.one(ctx, "letter-sent", letterSentScript, k, fence(f))
}

// one runs a script of one key and a one-word reply.
func (s *Store) one(ctx context.Context, name string, sc *redis.Script, k dedup.Key, args ...any) error {
	rep, _ := s.do(ctx, k, op{call: call{script: sc, keys: []string{s.name(k)}, args: args}})
	return s.outcome(ctx, name, k, rep)
}

// outcome is the error for a one-word reply. A lease that is lost is lost, whatever the replicas have.
func (s *Store) outcome(ctx context.Context, op string, k dedup.Key, r reply) error {
	if r.err != nil {
		return s.failure(ctx, op, k, r.err)
	}
	err := statusError(op, k, r.value)
	if err == nil && r.short != nil {
		return s.failure(ctx, op, k, r.short)
	}
	return err
}

// fence is passed as text: a number would lose digits on some ways through Lua.
func fence(f dedup.Fence) string { return strconv.FormatUint(uint64(f), 10) }

// maxDuration keeps times in the future below 2^53 microseconds.
const maxDuration = 100 * 365 * 24 * time.Hour

// millis rounds up, so that a lease is never shorter than asked for, and a wait never 0, which would be for ever.
func millis(d time.Duration) int64 {
	d = min(max(0, d), maxDuration)
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// dash is an argument of a script. Like the other arguments it is an any, for the constants among these cost no allocation.
func dash(s string) any {
	if s == "" {
		return "-"
	}
	return s
}
