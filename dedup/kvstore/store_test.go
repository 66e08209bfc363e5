package kvstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

func TestTheFenceIsTheRevisionOfTheAcquiringWrite(t *testing.T) {
	s, ctx := open(t, connect(t)), testContext(t)
	c := claimOf("1", "n1")
	r := acquire(t, s, c, dedup.Granted)
	e, err := s.read(ctx, c.Key)
	require.NoError(t, err)
	assert.Equal(t, dedup.Fence(e.revision), r.Fence)

	assert.Equal(t, r.Fence, acquire(t, s, c, dedup.Granted).Fence, "the same nonce is the same claim")
	require.NoError(t, s.Extend(ctx, holdOf(r), time.Minute))
	got, err := s.Get(ctx, c.Key)
	require.NoError(t, err)
	assert.Equal(t, r.Fence, got.Fence, "a renewal keeps the fence although the revision has grown")

	require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Result: []byte("ok"), Retention: time.Hour}))
	require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Result: []byte("ok"), Retention: time.Hour}))
	d := acquire(t, s, claimOf("1", "n2"), dedup.Duplicate)
	assert.Equal(t, "ok", string(d.Result))
	assert.Equal(t, r.Fence, d.Fence)
}

func TestTheFenceGrowsOverForgetExpiryAndDeath(t *testing.T) {
	s, ctx := open(t, connect(t)), testContext(t)
	c := claimOf("1", "n1")
	c.MaxAttempts = 1
	r1 := acquire(t, s, c, dedup.Granted)
	require.ErrorIs(t, s.Forget(ctx, c.Key, false), dedup.ErrLeaseRunning)
	require.NoError(t, s.Forget(ctx, c.Key, true))
	require.ErrorIs(t, s.Forget(ctx, c.Key, true), dedup.ErrNotFound)
	require.ErrorIs(t, s.Extend(ctx, holdOf(r1), time.Minute), dedup.ErrLeaseLost)
	_, err := s.Get(ctx, c.Key)
	require.ErrorIs(t, err, dedup.ErrNotFound)

	r2 := acquire(t, s, c, dedup.Granted)
	assert.Greater(t, r2.Fence, r1.Fence)
	require.NoError(t, s.Release(ctx, holdOf(r2), dedup.Release{Cause: dedup.Cause{Message: "no"}}))

	c.Nonce = "n2"
	dead := acquire(t, s, c, dedup.LetterOwed)
	assert.Greater(t, dead.Fence, r2.Fence)
	require.NoError(t, s.LetterSent(ctx, c.Key, dead.Fence))
	require.NoError(t, s.LetterSent(ctx, c.Key, dead.Fence))
	require.ErrorIs(t, s.LetterSent(ctx, c.Key, r2.Fence), dedup.ErrLeaseLost)
	assert.Equal(t, dead.Fence, acquire(t, s, c, dedup.Dead).Fence)

	q := dedup.ReopenRequest{Key: c.Key, Fence: dead.Fence, Generation: 1, Retention: time.Hour}
	for _, want := range []dedup.Reopening{dedup.Reopened, dedup.AlreadyOpen} {
		o, err := s.Reopen(ctx, q)
		require.NoError(t, err)
		assert.Equal(t, want, o, o.String())
	}
	c.Nonce = "n3"
	r3 := acquire(t, s, c, dedup.Granted)
	assert.Greater(t, r3.Fence, dead.Fence)
	assert.Equal(t, 2, r3.Generation)
	require.NoError(t, s.Settle(ctx, holdOf(r3), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
	o, err := s.Reopen(ctx, q)
	require.NoError(t, err)
	assert.Equal(t, dedup.Resolved, o)
}

func TestAnExpiredRecordIsAbsentAndTheServerRemovesIt(t *testing.T) {
	s, ctx := open(t, connect(t)), testContext(t)
	c := claimOf("1", "n1")
	c.Lease, c.Retention = 100*time.Millisecond, 100*time.Millisecond
	began := time.Now()
	r1 := acquire(t, s, c, dedup.Granted)
	require.Eventually(t, func() bool {
		_, err := s.Get(ctx, c.Key)
		return err != nil
	}, time.Minute, 20*time.Millisecond)
	e, err := s.read(ctx, c.Key)
	require.NoError(t, err)
	if time.Since(began) < time.Second { // the machine is not slower than the server's clock
		assert.NotZero(t, e.revision, "the server's time to live is rounded up, the record's is not")
	}
	require.ErrorIs(t, s.Extend(ctx, holdOf(r1), time.Second), dedup.ErrLeaseLost)

	require.Eventually(t, func() bool {
		e, err := s.read(ctx, c.Key)
		return err == nil && e.revision == 0
	}, time.Minute, 50*time.Millisecond)
	r2 := acquire(t, s, c, dedup.Granted)
	assert.Greater(t, r2.Fence, r1.Fence)
	assert.Equal(t, 1, r2.Attempt)
}

func TestALeaseThatIsOverIsTakenOver(t *testing.T) {
	s, ctx := open(t, connect(t)), testContext(t)
	c := claimOf("1", "n1")
	c.Lease = 2 * time.Second
	r1 := acquire(t, s, c, dedup.Granted)
	c.Nonce = "n2"
	busy := acquire(t, s, c, dedup.Busy)
	assert.InDelta(t, time.Second, busy.Wait(), float64(time.Second))
	var r2 dedup.Record
	require.Eventually(t, func() bool {
		v, r, err := s.Acquire(ctx, c)
		r2 = r
		return err == nil && v == dedup.Granted
	}, time.Minute, 10*time.Millisecond)
	assert.False(t, r2.ReadAt.Before(r1.LeaseUntil), "not before the lease was over by the server's clock")
	assert.Equal(t, 1, r2.Abandoned)
	for _, err := range []error{
		s.Extend(ctx, holdOf(r1), time.Second), s.Release(ctx, holdOf(r1), dedup.Release{}),
		s.Settle(ctx, holdOf(r1), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}),
	} {
		require.ErrorIs(t, err, dedup.ErrLeaseLost)
	}
}

func TestOneOfManyIsGranted(t *testing.T) {
	const workers, rounds = 32, 5
	s, ctx := open(t, connect(t)), testContext(t)
	for round := range rounds {
		var mu sync.Mutex
		verdicts := map[dedup.Verdict]int{}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				c := claimOf(fmt.Sprint(round), dedup.Nonce(fmt.Sprint("n", w)))
				v, _, err := s.Acquire(ctx, c)
				assert.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				verdicts[v]++
			})
		}
		wg.Wait()
		assert.Equal(t, map[dedup.Verdict]int{dedup.Granted: 1, dedup.Busy: workers - 1}, verdicts)
	}
}

func TestNoChangeIsLostBetweenManyWriters(t *testing.T) {
	const workers, each = 8, 5
	s, ctx := open(t, connect(t)), testContext(t)
	r := acquire(t, s, claimOf("1", "n1"), dedup.Granted)
	require.NoError(t, s.Release(ctx, holdOf(r), dedup.Release{}))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for done := 0; done < each && ctx.Err() == nil; {
				c := claimOf("1", dedup.Nonce(fmt.Sprint("n", w, "-", done)))
				c.MaxAttempts = 0
				v, r, err := s.Acquire(ctx, c)
				if !assert.NoError(t, err) {
					return
				}
				if v == dedup.Granted {
					assert.NoError(t, s.Release(ctx, holdOf(r), dedup.Release{}))
					done++
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Get(ctx, r.Key)
	require.NoError(t, err)
	assert.Equal(t, 1+workers*each, got.Attempt)
}

func TestRecordsSurviveARestart(t *testing.T) {
	srv := testserver.NATS(t, func(o *server.Options) { o.SyncAlways = true })
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	ctx := testContext(t)
	s, err := New(ctx, js, Config{})
	require.NoError(t, err)
	assert.Equal(t, "kv://idemq", s.Describe())
	r := acquire(t, s, claimOf("1", "n1"), dedup.Granted)

	srv.Stop()
	require.Eventually(t, func() bool { return !js.Conn().IsConnected() }, time.Minute, time.Millisecond)
	_, _, err = s.Acquire(ctx, claimOf("2", "n2"))
	var se *dedup.StoreError
	require.ErrorAs(t, err, &se)
	assert.False(t, se.Indeterminate, "nothing was sent")

	srv.Start(t)
	require.Eventually(t, func() bool {
		_, err := s.Get(ctx, r.Key)
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Result: []byte("ok"), Retention: time.Hour}))
	srv.Restart(t)
	require.Eventually(t, func() bool {
		v, d, err := s.Acquire(ctx, claimOf("1", "n3"))
		return err == nil && v == dedup.Duplicate && string(d.Result) == "ok" && d.Fence == r.Fence
	}, time.Minute, 20*time.Millisecond)
	v, _, err := s.Acquire(ctx, claimOf("2", "n4"))
	require.NoError(t, err)
	assert.Equal(t, dedup.Granted, v, "the refused call has left nothing behind")
}

func TestContextErrors(t *testing.T) {
	s := open(t, connect(t))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err := s.Acquire(ctx, claimOf("1", "n1"))
	require.ErrorIs(t, err, context.Canceled)
	for _, err := range s.List(ctx, dedup.Filter{}) {
		require.ErrorIs(t, err, context.Canceled)
	}
}
