package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// batching is a faulty store with batches: each record of one can fail on its own.
type batching struct {
	*faulty

	acquires, settles atomic.Int64 // calls
	nonces            map[dedup.Nonce]int
	lose              map[string]int // how many answers for an id get lost
	fail              map[string]bool
}

func newBatching() *batching {
	return &batching{
		faulty: newFaulty(memstore.New(memstore.Config{})), nonces: map[dedup.Nonce]int{}, lose: map[string]int{}, fail: map[string]bool{},
	}
}

func (b *batching) AcquireMany(ctx context.Context, claims []dedup.Claim) []dedup.Acquisition {
	b.acquires.Add(1)
	out := make([]dedup.Acquisition, len(claims))
	for i, c := range claims {
		b.nonces[c.Nonce]++
		out[i].Verdict, out[i].Record, out[i].Err = b.Acquire(ctx, c)
		if b.lose[c.Key.ID] > 0 {
			b.lose[c.Key.ID]--
			out[i] = dedup.Acquisition{Err: &dedup.StoreError{Op: "acquire", Key: c.Key, Indeterminate: true, Err: errFault}}
		}
	}
	return out
}

func (b *batching) SettleMany(ctx context.Context, settlements []dedup.HeldSettlement) []error {
	b.settles.Add(1)
	errs := make([]error, len(settlements))
	for i, s := range settlements {
		if b.fail[s.Hold.Key.ID] {
			errs[i] = &dedup.StoreError{Op: "settle", Key: s.Hold.Key, Err: errFault}
			continue
		}
		errs[i] = b.Settle(ctx, s.Hold, s.Settlement)
	}
	return errs
}

func requests(ids ...string) []dedup.Request {
	out := make([]dedup.Request, len(ids))
	for i, id := range ids {
		out[i] = dedup.Request{Key: dedup.Key{Scope: "ORDERS/billing", ID: id}, Fingerprint: dedup.FingerprintOf([]byte(id))}
	}
	return out
}

func endings(begun []dedup.Begun) (out []dedup.Ending) {
	for _, b := range begun {
		if b.Guard != nil {
			out = append(out, dedup.Ending{Guard: b.Guard, Settlement: dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}})
		}
	}
	return out
}

// Both kinds of stores give the same answers.
func TestABatchIsAsManyClaims(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]dedup.Store{"batches": newBatching(), "one by one": newFaulty(memstore.New(memstore.Config{}))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := dedup.New(s, dedup.Config{})
			require.NoError(t, err)
			begun := d.BeginMany(t.Context(), requests("a", "not a key", "b", "a"), dedup.WithLetters())
			require.Len(t, begun, 4)
			require.NotNil(t, begun[0].Guard)
			require.ErrorIs(t, begun[1].Err, dedup.ErrInvalidKey)
			assert.Equal(t, "b", begun[2].Guard.Hold().Key.ID, "answer i belongs to request i")
			assert.Equal(t, dedup.Busy, begun[3].Outcome.Verdict, "equal keys are treated one after another")
			assert.NotEqual(t, begun[0].Guard.Hold().Nonce, begun[2].Guard.Hold().Nonce)
			assert.Equal(t, []error{nil, nil}, d.SettleMany(t.Context(), endings(begun)))
			require.ErrorIs(t, begun[0].Guard.Context().Err(), context.Canceled, "the claim has ended")
			again := d.BeginMany(t.Context(), []dedup.Request{requests("a")[0], {Key: requests("b")[0].Key, Fingerprint: dedup.FingerprintOf([]byte("other"))}})
			assert.Equal(t, dedup.Duplicate, again[0].Outcome.Verdict)
			assert.Equal(t, dedup.Conflict, again[1].Outcome.Verdict)
		})
	}
}

func TestABatchIsOneCall(t *testing.T) {
	t.Parallel()
	s := newBatching()
	d, err := dedup.New(s, dedup.Config{})
	require.NoError(t, err)
	begun := d.BeginMany(t.Context(), requests("a", "b", "c"))
	d.SettleMany(t.Context(), endings(begun))
	assert.EqualValues(t, 1, s.acquires.Load())
	assert.EqualValues(t, 1, s.settles.Load())
	assert.Empty(t, d.BeginMany(t.Context(), nil))
	assert.Empty(t, d.SettleMany(t.Context(), nil))
	assert.EqualValues(t, 1, s.acquires.Load(), "nothing is no call")
}

// I8: only what was lost is sent again, with the same nonces, and so it is granted once.
func TestLostAnswersOfABatchAreAskedForAgain(t *testing.T) {
	t.Parallel()
	s := newBatching()
	s.lose["b"], s.lose["never"] = 1, 100
	d, err := dedup.New(s, dedup.Config{})
	require.NoError(t, err)
	begun := d.BeginMany(t.Context(), requests("a", "b", "never", "c"))
	for _, i := range []int{0, 1, 3} {
		require.NotNil(t, begun[i].Guard)
		assert.Equal(t, 1, begun[i].Guard.Record().Attempt)
	}
	var se *dedup.StoreError
	require.ErrorAs(t, begun[2].Err, &se)
	assert.True(t, se.Indeterminate)
	assert.Zero(t, begun[2].Outcome)
	assert.EqualValues(t, 3, s.acquires.Load())
	assert.Equal(t, 1, s.nonces[begun[0].Guard.Hold().Nonce])
	assert.Equal(t, 2, s.nonces[begun[1].Guard.Hold().Nonce])
	assert.Len(t, s.nonces, 4)
	d.SettleMany(t.Context(), endings(begun))
}

func TestTheTrustOfABatchCountsFromItsFirstCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newBatching()
		s.lose["a"] = 2
		s.set(func(string) error { pass(8 * time.Second); return nil }, nil)
		d, err := dedup.New(s, dedup.Config{StoreTimeout: lease / 3})
		require.NoError(t, err)
		g := d.BeginMany(t.Context(), requests("a"))[0].Guard
		require.NotNil(t, g)
		require.NoError(t, g.Err())
		pass(4 * time.Second) // 28 s after the first call, 4 s after the last one
		require.ErrorIs(t, g.Err(), dedup.ErrLeaseLost)
		g.Abandon()
	})
}

func TestNothingOfABatchIsClaimedOnAnEndedContext(t *testing.T) {
	t.Parallel()
	s := newBatching()
	d, err := dedup.New(s, dedup.Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, d.BeginMany(ctx, requests("a"))[0].Err, context.Canceled)
	assert.Zero(t, s.acquires.Load())
}

// What was sent is waited for: the caller gets to know of its claims, and can release them.
func TestAClaimIsNotLostWithItsContext(t *testing.T) {
	t.Parallel()
	s := newBatching()
	d, err := dedup.New(s, dedup.Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	s.set(func(string) error { cancel(); return nil }, nil)
	b := d.BeginMany(ctx, requests("a"))[0]
	require.NoError(t, b.Err)
	require.Error(t, b.Guard.Context().Err())
	require.NoError(t, b.Guard.TryRelease(ctx, dedup.Release{}))
}

func TestOneSettlementOfABatchFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newBatching()
		s.fail["b"] = true
		d, err := dedup.New(s, dedup.Config{})
		require.NoError(t, err)
		begun := d.BeginMany(t.Context(), requests("a", "b", "c", "d"))
		for _, b := range begun {
			b.Guard.Start(nil)
		}
		stolen := begun[2].Guard.Hold()
		require.NoError(t, s.Release(t.Context(), stolen, dedup.Release{}))
		_, _, err = s.Acquire(t.Context(), dedup.Claim{Key: stolen.Key, Nonce: "thief", Lease: time.Hour, Retention: time.Hour})
		require.NoError(t, err)
		errs := d.SettleMany(t.Context(), endings(begun))
		require.NoError(t, errs[0])
		require.ErrorIs(t, errs[1], errFault)
		require.ErrorIs(t, errs[2], dedup.ErrLeaseLost)
		require.NoError(t, errs[3])
		require.ErrorIs(t, begun[2].Guard.Err(), dedup.ErrLeaseLost)
		pass(3 * lease)
		require.NoError(t, begun[1].Guard.Err())
		require.NoError(t, begun[1].Guard.Context().Err(), "the claim that was not settled goes on")
		require.NoError(t, begun[1].Guard.Consume(t.Context(), nil))
	})
}

func TestALostClaimIsNotSettledWithItsBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newBatching()
		d, err := dedup.New(s, dedup.Config{})
		require.NoError(t, err)
		begun := d.BeginMany(t.Context(), requests("a"))
		told := 0
		begun[0].Guard.OnLost(func() { told++ })
		pass(lease)
		synctest.Wait()
		assert.Equal(t, 1, told)
		require.ErrorIs(t, d.SettleMany(t.Context(), endings(begun))[0], dedup.ErrLeaseLost)
		assert.Zero(t, s.settles.Load(), "the store is not even asked")
		assert.Equal(t, 1, told, "it is told once")
	})
}

func TestOnLostOfAClaimThatIsLostAlready(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := setup(t, dedup.Config{})
		g := begin(t, d)
		pass(lease)
		told := make(chan struct{})
		g.OnLost(func() { close(told) })
		<-told
	})
}

func TestTryReleaseAsksOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, mem := setup(t, dedup.Config{})
		f.set(failing("release"), nil)
		g := begin(t, d)
		begun := time.Now()
		require.ErrorIs(t, g.TryRelease(t.Context(), dedup.Release{}), errFault)
		assert.Zero(t, time.Since(begun))
		assert.Equal(t, 1, f.count("release"))
		require.ErrorIs(t, g.Context().Err(), context.Canceled, "ended all the same")
		f.set(nil, nil)
		pass(lease)
		g = begin(t, d)
		require.NoError(t, g.TryRelease(t.Context(), dedup.Release{Cause: dedup.CauseOf("", errors.New("no worker")), Uncounted: true}))
		r, err := mem.Get(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, dedup.Failed, r.State)
		assert.Equal(t, 1, r.Attempt, "the abandoned one counts, the released one does not")
		pass(time.Second)
		g = begin(t, d)
		require.NoError(t, mem.Release(t.Context(), g.Hold(), dedup.Release{Delay: time.Hour}))
		require.NoError(t, mem.Forget(t.Context(), key, true))
		require.ErrorIs(t, g.TryRelease(t.Context(), dedup.Release{}), dedup.ErrLeaseLost)
	})
}

func TestAllocationsOfABatch(t *testing.T) {
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	const size = 256
	ids, n := make([]string, size), 0
	perClaim := testing.AllocsPerRun(10, func() {
		for i := range ids {
			n++
			ids[i] = fmt.Sprint("key-", n)
		}
		begun := d.BeginMany(t.Context(), requests(ids...), dedup.WithLetters())
		for _, err := range d.SettleMany(t.Context(), endings(begun)) {
			require.NoError(t, err)
		}
	}) / size
	// 3 of them are the test's own, 3 the store's.
	assert.LessOrEqual(t, perClaim, 16.0)
	t.Logf("%.1f allocations for a claim and its settlement", perClaim)
}
