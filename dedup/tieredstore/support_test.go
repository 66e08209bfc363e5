package tieredstore_test

import (
	"context"
	"errors"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/tieredstore"
)

var errFault = errors.New("injected fault")

// spy is a tier in memory that counts calls, fails on demand, and can lose everything.
type spy struct {
	cfg memstore.Config

	mu    sync.Mutex
	mem   *memstore.Store
	calls map[string]int
	fail  map[string]bool   // "all" for all
	after map[string]func() // called once, when such a call was applied
}

func newSpy(cfg memstore.Config) *spy {
	return &spy{cfg: cfg, mem: memstore.New(cfg), calls: map[string]int{}, fail: map[string]bool{}}
}

func (s *spy) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mem = memstore.New(s.cfg)
}

func (s *spy) set(fail bool, ops ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		s.fail[op] = fail
	}
}

// reset returns how many calls there were since it was called last.
func (s *spy) reset() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		n += c
	}
	clear(s.calls)
	return n
}

func (s *spy) do(op string, k dedup.Key, run func(*memstore.Store) error) error {
	s.mu.Lock()
	s.calls[op]++
	down, mem := s.fail[op] || s.fail["all"], s.mem
	s.mu.Unlock()
	if down {
		return &dedup.StoreError{Op: op, Key: k, Err: errFault}
	}
	err := run(mem)
	s.mu.Lock()
	after := s.after[op]
	delete(s.after, op)
	s.mu.Unlock()
	if after != nil {
		after()
	}
	return err
}

func (s *spy) Acquire(ctx context.Context, c dedup.Claim) (v dedup.Verdict, r dedup.Record, err error) {
	err = s.do("acquire", c.Key, func(m *memstore.Store) error { v, r, err = m.Acquire(ctx, c); return err })
	return v, r, err
}

func (s *spy) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	return s.do("extend", h.Key, func(m *memstore.Store) error { return m.Extend(ctx, h, lease) })
}

func (s *spy) Settle(ctx context.Context, h dedup.Hold, st dedup.Settlement) error {
	return s.do("settle", h.Key, func(m *memstore.Store) error { return m.Settle(ctx, h, st) })
}

func (s *spy) Release(ctx context.Context, h dedup.Hold, r dedup.Release) error {
	return s.do("release", h.Key, func(m *memstore.Store) error { return m.Release(ctx, h, r) })
}

func (s *spy) LetterSent(ctx context.Context, k dedup.Key, f dedup.Fence) error {
	return s.do("letter-sent", k, func(m *memstore.Store) error { return m.LetterSent(ctx, k, f) })
}

func (s *spy) Get(ctx context.Context, k dedup.Key) (r dedup.Record, err error) {
	err = s.do("get", k, func(m *memstore.Store) error { r, err = m.Get(ctx, k); return err })
	return r, err
}

func (s *spy) List(ctx context.Context, f dedup.Filter) iter.Seq2[dedup.Record, error] {
	return s.mem.List(ctx, f)
}

func (s *spy) Forget(ctx context.Context, k dedup.Key, force bool) error {
	return s.do("forget", k, func(m *memstore.Store) error { return m.Forget(ctx, k, force) })
}

func (s *spy) Reopen(ctx context.Context, q dedup.ReopenRequest) (o dedup.Reopening, err error) {
	err = s.do("reopen", q.Key, func(m *memstore.Store) error { o, err = m.Reopen(ctx, q); return err })
	return o, err
}

func (s *spy) Adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	return s.do("adopt", r.Key, func(m *memstore.Store) error { return m.Adopt(ctx, r, over) })
}

// batching is a spy that takes many keys in one call, and counts it as one.
type batching struct{ *spy }

func (s batching) AcquireMany(ctx context.Context, claims []dedup.Claim) (out []dedup.Acquisition) {
	err := s.do("acquire-many", claims[0].Key, func(m *memstore.Store) error { out = m.AcquireMany(ctx, claims); return nil })
	if err != nil {
		out = make([]dedup.Acquisition, len(claims))
		for i := range out {
			out[i].Err = err
		}
	}
	return out
}

func (s batching) SettleMany(context.Context, []dedup.HeldSettlement) []error {
	panic("a tiered store settles by adopting what the durable tier has")
}

func (s batching) GetMany(ctx context.Context, keys []dedup.Key) []dedup.Found {
	out := make([]dedup.Found, len(keys))
	err := s.do("get-many", keys[0], func(m *memstore.Store) error {
		for i, k := range keys {
			out[i].Record, out[i].Err = m.Get(ctx, k)
		}
		return nil
	})
	for i := range out {
		if err != nil {
			out[i].Err = err
		}
	}
	return out
}

func (s batching) AdoptMany(ctx context.Context, adoptions []dedup.Adoption) []error {
	out := make([]error, len(adoptions))
	err := s.do("adopt-many", adoptions[0].Record.Key, func(m *memstore.Store) error {
		for i, a := range adoptions {
			out[i] = m.Adopt(ctx, a.Record, a.Over)
		}
		return nil
	})
	for i := range out {
		if err != nil {
			out[i] = err
		}
	}
	return out
}

// keeping is a spy that keeps steps.
type keeping struct{ *spy }

func (s keeping) SaveStep(ctx context.Context, h dedup.Hold, st dedup.SavedStep) error {
	return s.do("save-step", h.Key, func(m *memstore.Store) error { return m.SaveStep(ctx, h, st) })
}

func (s keeping) Steps(ctx context.Context, k dedup.Key) (out []dedup.SavedStep, err error) {
	err = s.do("steps", k, func(m *memstore.Store) error { out, err = m.Steps(ctx, k); return err })
	return out, err
}

// both is a tiered store with its tiers and a clock.
type both struct {
	*tieredstore.Store

	t             *testing.T
	fast, durable *spy
	clock, other  *clock // of the fast and of the durable tier
}

const (
	lease = time.Minute
	long  = 24 * time.Hour
)

var key = dedup.Key{Scope: "ORDERS/billing", ID: "order-4711"}

func newBoth(t *testing.T) *both {
	t.Helper()
	b := &both{t: t, clock: newClock(), other: newClock()}
	b.fast, b.durable = newSpy(memstore.Config{Clock: b.clock.now}), newSpy(memstore.Config{Clock: b.other.now})
	b.Store = tiered(t, b.fast, keeping{b.durable})
	return b
}

func (b *both) advance(d time.Duration) {
	b.clock.advance(d)
	b.other.advance(d)
}

// again is another process with the same tiers.
func (b *both) again() *both {
	o := *b
	o.Store = tiered(b.t, b.fast, keeping{b.durable})
	return &o
}

func claimOf(id string, n dedup.Nonce) dedup.Claim {
	return dedup.Claim{Key: dedup.Key{Scope: key.Scope, ID: id}, Nonce: n, Lease: lease, Retention: long, DeadRetention: long, Letters: true}
}

func (b *both) acquire(id string, n dedup.Nonce, want dedup.Verdict) dedup.Record {
	b.t.Helper()
	v, r, err := b.Acquire(b.t.Context(), claimOf(id, n))
	require.NoError(b.t, err)
	require.Equal(b.t, want.String(), v.String(), "%+v", r)
	return r
}

func holdOf(r dedup.Record) dedup.Hold {
	return dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
}

func (b *both) consume(r dedup.Record, result string) error {
	return b.Settle(b.t.Context(), holdOf(r), dedup.Settlement{State: dedup.Consumed, Result: []byte(result), Retention: long})
}

func (b *both) kill(r dedup.Record) error {
	return b.Settle(b.t.Context(), holdOf(r), dedup.Settlement{State: dedup.DeadOwed, Cause: dedup.Cause{Class: dedup.Permanent}, Retention: long})
}

// states are the states of a key in the two tiers.
func (b *both) states(k dedup.Key) (fast, durable dedup.State) {
	b.t.Helper()
	state := func(m *memstore.Store) dedup.State {
		r, err := m.Get(b.t.Context(), k)
		if !errors.Is(err, dedup.ErrNotFound) {
			require.NoError(b.t, err)
		}
		return r.State
	}
	return state(b.fast.mem), state(b.durable.mem)
}

func unanswered(t *testing.T, err error) {
	t.Helper()
	var se *dedup.StoreError
	require.ErrorAs(t, err, &se, "the pipeline must know that a store did not answer, and give the message back")
	require.ErrorIs(t, err, errFault)
}
