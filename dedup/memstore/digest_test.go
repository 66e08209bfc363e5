package memstore_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/storetest"
)

// longer remembers what is consumed for more than a lease, or it would stay a record: the suite's leases are as long as its
// retentions.
type longer struct{ *memstore.Store }

func (l longer) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	if s.Retention > time.Hour {
		s.Retention *= 10
	}
	return l.Store.Settle(ctx, h, s)
}

func TestConformanceWhenCompact(t *testing.T) {
	t.Parallel()
	var clocks sync.Map // of each subtest
	storetest.Run(t, storetest.Harness{
		New: func(t *testing.T) dedup.Store {
			c := newClock()
			clocks.Store(t, c)
			return longer{memstore.New(memstore.Config{Clock: c.now, Compact: true})}
		},
		Advance: func(t *testing.T, d time.Duration) {
			c, _ := clocks.Load(t)
			c.(*clock).advance(d)
		},
		Lease: 30 * time.Second,
	})
}

func hold(r dedup.Record) dedup.Hold { return dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce} }

func acquire(t testing.TB, s *memstore.Store, c dedup.Claim, want dedup.Verdict) dedup.Record {
	t.Helper()
	v, r, err := s.Acquire(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, want, v)
	return r
}

func TestADigestIsAConsumedKey(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := memstore.New(memstore.Config{Clock: clock.now, Compact: true})
	ctx := t.Context()
	c := claim("k", "n1")
	c.Fingerprint = dedup.Fingerprint{1, 2}
	r := acquire(t, s, c, dedup.Granted)
	st := dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}
	end := clock.now().Add(st.Retention)
	for range 2 {
		require.NoError(t, s.Settle(ctx, hold(r), st))
		got := acquire(t, s, c, dedup.Duplicate)
		require.Equal(t, r.Fence, got.Fence)
		require.Equal(t, end, got.ExpiresAt)
		for listed, err := range s.List(ctx, dedup.Filter{}) {
			require.NoError(t, err)
			require.Equal(t, end, listed.ExpiresAt)
		}
	}
	clock.advance(c.Lease)
	for fp, want := range map[dedup.Fingerprint]dedup.Verdict{{}: dedup.Duplicate, c.Fingerprint: dedup.Duplicate, {1, 3}: dedup.Conflict} {
		again := claim("k", "n2")
		again.Fingerprint = fp
		got := acquire(t, s, again, want)
		require.Equal(t, dedup.Consumed, got.State)
		require.Equal(t, end, got.ExpiresAt)
		require.Zero(t, got.Fence)
	}
	for what, err := range map[string]error{
		"settle": s.Settle(ctx, hold(r), st), "extend": s.Extend(ctx, hold(r), time.Hour), "release": s.Release(ctx, hold(r), dedup.Release{}),
		"sent": s.LetterSent(ctx, r.Key, r.Fence), "step": s.SaveStep(ctx, hold(r), dedup.SavedStep{Name: "x"}),
	} {
		require.ErrorIs(t, err, dedup.ErrLeaseLost, what)
	}
	answer, err := s.Reopen(ctx, dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: time.Hour})
	require.NoError(t, err)
	require.Equal(t, dedup.Resolved, answer)
	clock.advance(end.Sub(clock.now()) - time.Microsecond)
	acquire(t, s, claim("k", "n2"), dedup.Duplicate)
	clock.advance(time.Microsecond)
	next := acquire(t, s, claim("k", "n2"), dedup.Granted)
	require.Greater(t, next.Fence, r.Fence)

	require.NoError(t, s.Settle(ctx, hold(next), st))
	clock.advance(c.Lease)
	require.NoError(t, s.Forget(ctx, r.Key, false))
	require.ErrorIs(t, s.Forget(ctx, r.Key, false), dedup.ErrNotFound)
	require.Greater(t, acquire(t, s, claim("k", "n3"), dedup.Granted).Fence, next.Fence)
}

func TestWhatStaysARecord(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := memstore.New(memstore.Config{Clock: clock.now, Compact: true})
	ctx := t.Context()
	for id, st := range map[string]dedup.Settlement{
		"result": {State: dedup.Consumed, Result: []byte("x"), Retention: time.Hour},
		"dead":   {State: dedup.DeadSent, Retention: time.Hour},
		"brief":  {State: dedup.Consumed, Retention: 2 * time.Second},
		"steps":  {State: dedup.Consumed, Retention: time.Hour},
	} {
		r := acquire(t, s, claim(id, "n1"), dedup.Granted)
		if id == "steps" {
			require.NoError(t, s.SaveStep(ctx, hold(r), dedup.SavedStep{Name: "one"}))
		}
		require.NoError(t, s.Settle(ctx, hold(r), st), id)
		clock.advance(1500 * time.Millisecond) // a lease and a half
		got, err := s.Get(ctx, r.Key)
		require.NoError(t, err, id)
		require.Equal(t, r.Fence, got.Fence, id)
	}
}

// Digests that are over are dropped while new ones come.
func TestExpiredDigestsAreReallyForgotten(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := memstore.New(memstore.Config{Clock: clock.now, Compact: true})
	settle := func(from, to int) {
		for i := from; i < to; i++ {
			clock.advance(time.Second)
			r := acquire(t, s, claim(fmt.Sprint(i), "n"), dedup.Granted)
			require.NoError(t, s.Settle(t.Context(), hold(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Minute}))
		}
	}
	settle(0, 50_000)
	require.Less(t, s.Traces(), 1000)
}

// A consumed key takes at most 90 bytes, everything counted:
//
//	go test ./dedup/memstore -run '^$' -bench MemoryOfAKey -benchtime 1x
func TestBytesOfACompactKey(t *testing.T) {
	got := bytesPerKey(t, memstore.Config{Compact: true}, 100_000)
	t.Logf("%.1f bytes a key", got)
	require.LessOrEqual(t, got, 90.0)
}

func BenchmarkMemoryOfAKey(b *testing.B) {
	for name, cfg := range map[string]memstore.Config{"records": {}, "compact": {Compact: true}} {
		for _, keys := range []int{100_000, 150_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/keys=%d", name, keys), func(b *testing.B) {
				for b.Loop() {
					b.ReportMetric(bytesPerKey(b, cfg, keys), "B/key")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// bytesPerKey is what consumed keys with ids of 36 characters take on the heap, ids included. Claims follow one another, so
// only those of the last lease have records if the store is compact.
func bytesPerKey(t testing.TB, cfg memstore.Config, keys int) float64 {
	t.Helper()
	clock := newClock()
	cfg.Clock = clock.now
	before := heap()
	s := memstore.New(cfg)
	for i := range keys {
		clock.advance(time.Millisecond)
		c := claim(fmt.Sprintf("018f4e5c-7b1a-7000-8000-%012d", i), dedup.Nonce(fmt.Sprintf("ABCDEFGHIJKLMNOPQRSTUVWXYZ.%d", i)))
		c.Fingerprint = dedup.Fingerprint{1, byte(i)}
		_, r, err := s.Acquire(t.Context(), c)
		require.NoError(t, err)
		require.NoError(t, s.Settle(t.Context(), hold(r), dedup.Settlement{State: dedup.Consumed, Retention: 24 * time.Hour}))
	}
	after := heap()
	runtime.KeepAlive(s)
	return (after - before) / float64(keys)
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
