package memstore_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is steered by a test.
type clock struct{ micros atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.micros.Store(time.Date(2026, 8, 15, 12, 0, 0, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time          { return time.UnixMicro(c.micros.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.micros.Add(d.Microseconds()) }

func claim(id string, n dedup.Nonce) dedup.Claim {
	return dedup.Claim{Key: dedup.Key{Scope: "s", ID: id}, Nonce: n, Lease: time.Second, Retention: time.Minute, DeadRetention: time.Hour}
}

func TestExpiredRecordsAreReallyForgotten(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := memstore.New(memstore.Config{Clock: c.now})
	const n = 100_000
	largest := 0
	for i := range n {
		c.advance(time.Second) // at most about 61 records live at once
		_, _, err := s.Acquire(t.Context(), claim(fmt.Sprint(i), "n"))
		require.NoError(t, err)
		largest = max(largest, s.Len())
	}
	require.Less(t, largest, 1000, "memory must stay within a small multiple of what is remembered")
}

func TestFencesGrowWhileTheClockStandsStill(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := memstore.New(memstore.Config{Clock: c.now})
	last := dedup.Fence(0)
	for range 100 {
		_, r, err := s.Acquire(t.Context(), claim("k", "n"))
		require.NoError(t, err)
		require.Greater(t, r.Fence, last)
		last = r.Fence
		require.NoError(t, s.Forget(t.Context(), r.Key, true))
	}
	require.Zero(t, s.Len())
}

func TestResultsAreCopies(t *testing.T) {
	t.Parallel()
	s := memstore.New(memstore.Config{})
	_, r, err := s.Acquire(t.Context(), claim("k", "n"))
	require.NoError(t, err)
	mine := []byte("result")
	h := dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
	require.NoError(t, s.Settle(t.Context(), h, dedup.Settlement{State: dedup.Consumed, Result: mine, Retention: time.Hour}))
	mine[0] = 'X'
	for range 2 {
		_, r, err = s.Acquire(t.Context(), claim("k", "other"))
		require.NoError(t, err)
		require.Equal(t, "result", string(r.Result))
		r.Result[0] = 'X'
		got, err := s.Get(t.Context(), r.Key)
		require.NoError(t, err)
		require.Equal(t, "result", string(got.Result))
		got.Result[0] = 'X'
	}
}

// The budget of the path that every duplicate takes.
func TestADuplicateAllocatesLittle(t *testing.T) {
	s := memstore.New(memstore.Config{})
	_, r, err := s.Acquire(t.Context(), claim("k", "n"))
	require.NoError(t, err)
	h := dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
	require.NoError(t, s.Settle(t.Context(), h, dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
	ctx, again := t.Context(), claim("k", "other")
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _, _ = s.Acquire(ctx, again) }), 4.0)
}
