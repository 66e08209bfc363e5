package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// Stages of a failover. What begins and ends in one of the first and the last has met one master only.
const (
	beforeFailover int32 = iota
	duringFailover
	afterFailover
)

const (
	failoverWorkers = 4
	failoverCall    = 500 * time.Millisecond // what a call gets
	failoverLimit   = 60 * time.Second       // what it may all take on a busy machine
	failoverClient  = "failover-test"
)

// traffic is workers that claim and settle without a pause, whatever becomes of the servers.
type traffic struct {
	t     *testing.T
	s     *redisstore.Store
	stage atomic.Int32
	done  [failoverWorkers]atomic.Int64 // rounds of each worker

	mu          sync.Mutex
	acked       map[string]int32 // consumed keys, with the stage in which they began
	last        time.Time        // when a call was answered
	pause       time.Duration    // the longest without an answer
	failures    int
	forgotten   int // claims that the new master did not know
	staleWrites int // of owners whose successor the new master did not know
}

// call repeats a call until it is answered. Meanwhile every error is a *dedup.StoreError.
func (tr *traffic) call(ctx context.Context, op func(context.Context) error) error {
	for {
		limited, cancel := context.WithTimeout(ctx, failoverCall)
		err := op(limited)
		cancel()
		se := (*dedup.StoreError)(nil)
		unanswered := errors.As(err, &se) || errors.Is(err, context.DeadlineExceeded) // the latter before it was sent again
		tr.mu.Lock()
		if unanswered {
			tr.failures++
		} else {
			now := time.Now()
			tr.pause, tr.last = max(tr.pause, now.Sub(tr.last)), now
		}
		tr.mu.Unlock()
		if !unanswered || ctx.Err() != nil {
			return err
		}
	}
}

// acquire claims a key, however often it has to ask.
func (tr *traffic) acquire(ctx context.Context, c dedup.Claim) (v dedup.Verdict, r dedup.Record, err error) {
	err = tr.call(ctx, func(ctx context.Context) (err error) { v, r, err = tr.s.Acquire(ctx, c); return err })
	return v, r, err
}

// work consumes keys of its own, and claims one key again and again.
func (tr *traffic) work(ctx context.Context, worker int) {
	var owner dedup.Hold // of the repeated key
	for n := 0; ctx.Err() == nil; n++ {
		nonce := dedup.Nonce(fmt.Sprintf("w%d-%d", worker, n))
		tr.consume(ctx, claimOf(fmt.Sprintf("consumed-%d-%d", worker, n), nonce))
		again := claimOf(fmt.Sprintf("repeated-%d", worker), nonce)
		again.MaxAttempts, again.Lease = 0, 20*time.Millisecond // a release that got lost must not block it for long
		owner = tr.repeat(ctx, again, owner)
		tr.done[worker].Add(1)
	}
}

func (tr *traffic) consume(ctx context.Context, c dedup.Claim) {
	stage := tr.stage.Load()
	v, r, err := tr.acquire(ctx, c)
	if ctx.Err() != nil {
		return
	}
	if !assert.NoError(tr.t, err) || !assert.Equal(tr.t, dedup.Granted, v, "nobody else claims %s", c.Key.ID) {
		return
	}
	st := consumed
	st.Result = []byte(c.Key.ID)
	err = tr.call(ctx, func(ctx context.Context) error { return tr.s.Settle(ctx, holdOf(r), st) })
	if ctx.Err() != nil {
		return
	}
	calm := stage == tr.stage.Load() && stage != duringFailover
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if errors.Is(err, dedup.ErrLeaseLost) && !calm {
		tr.forgotten++
		return
	}
	if assert.NoError(tr.t, err) {
		tr.acked[c.Key.ID] = stage
	}
}

// repeat claims a key that had the owner before, holds its fence and the owner's end to the rules, and releases it.
func (tr *traffic) repeat(ctx context.Context, c dedup.Claim, before dedup.Hold) dedup.Hold {
	stage := tr.stage.Load()
	v, r, err := tr.acquire(ctx, c)
	if ctx.Err() != nil || !assert.NoError(tr.t, err) {
		return before
	}
	if v != dedup.Granted {
		assert.Equal(tr.t, dedup.Busy, v) // for 20 ms, if a release got lost
		return before
	}
	assert.Greater(tr.t, r.Fence, before.Fence, "I1: the fence of %s did not grow", c.Key.ID)
	if before.Nonce != "" {
		err := tr.call(ctx, func(ctx context.Context) error { return tr.s.Settle(ctx, before, consumed) })
		calm := stage == tr.stage.Load() && stage != duringFailover
		switch {
		case ctx.Err() != nil:
		case err == nil && !calm: // the claim of its successor is lost, and the key is consumed
			tr.mu.Lock()
			tr.staleWrites++
			tr.mu.Unlock()
		default:
			assert.ErrorIs(tr.t, err, dedup.ErrLeaseLost, "I2: a stale owner wrote to %s", c.Key.ID)
		}
	}
	err = tr.call(ctx, func(ctx context.Context) error { return tr.s.Release(ctx, holdOf(r), dedup.Release{}) })
	if ctx.Err() == nil && !errors.Is(err, dedup.ErrLeaseLost) {
		assert.NoError(tr.t, err)
	}
	return holdOf(r)
}

// progress waits until every worker has done some more rounds.
func (tr *traffic) progress() {
	tr.t.Helper()
	var from [failoverWorkers]int64
	for i := range tr.done {
		from[i] = tr.done[i].Load()
	}
	require.Eventually(tr.t, func() bool {
		for i := range tr.done {
			if tr.done[i].Load() < from[i]+25 {
				return false
			}
		}
		return true
	}, failoverLimit, 10*time.Millisecond, "the workers do not go on")
}

// lost counts the consumed keys that the new master does not know. None of those that it consumed itself may be missing.
func (tr *traffic) lost() (n int) {
	tr.t.Helper()
	for id, stage := range tr.acked {
		v, r, err := tr.acquire(testContext(tr.t), claimOf(id, "afterwards"))
		require.NoError(tr.t, err)
		if v == dedup.Duplicate {
			require.Equal(tr.t, id, string(r.Result))
			continue
		}
		require.NotEqual(tr.t, afterFailover, stage, "I3: %s is not a duplicate but %v", id, v)
		n++
	}
	return n
}

// leftBy waits until the client has no connection to a server that was the master.
func leftBy(t testing.TB, old *redis.Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		list, err := old.ClientList(testContext(t)).Result()
		return err == nil && !strings.Contains(list, "name="+failoverClient+" ")
	}, failoverLimit, 20*time.Millisecond)
}

// loseMaster makes the sentinels look for another master, and returns the one that was.
type loseMaster func(*testing.T, *testserver.SentinelGroup) *testserver.PrivateRedisServer

// failoverReplicas is two, since with one nobody would be left to confirm the writes of the new master.
const failoverReplicas = 2

// A master is lost while claims run: by a crash, by a hang, and by an operator's request, which is the worst of them: the
// old master goes on confirming writes until the client has heard of the new one. What every replica has confirmed is not
// lost; but then the loss of one server stops all writes until it is back.
func TestASentinelFailoverUnderTraffic(t *testing.T) {
	t.Parallel()
	ways := map[string]loseMaster{
		"killed": func(t *testing.T, g *testserver.SentinelGroup) *testserver.PrivateRedisServer {
			return g.KillMaster(t)
		},
		"suspended": func(t *testing.T, g *testserver.SentinelGroup) *testserver.PrivateRedisServer {
			return g.SuspendMaster(t)
		},
		"asked for": func(t *testing.T, g *testserver.SentinelGroup) *testserver.PrivateRedisServer {
			old := g.Master(t)
			g.Failover(t)
			return old
		},
	}
	for _, how := range []string{"killed", "suspended", "asked for"} {
		for _, wait := range []int{0, 1, failoverReplicas} {
			if (how == "suspended" && wait != 1) || (how == "killed" && wait > 1) {
				continue // nothing that the others do not show
			}
			t.Run(fmt.Sprintf("%s, WaitReplicas=%d", how, wait), func(t *testing.T) {
				t.Parallel()
				failOver(t, wait, ways[how], how == "asked for")
			})
		}
	}
}

func failOver(t *testing.T, wait int, lose loseMaster, alive bool) {
	g := testserver.RedisSentinel(t, testserver.SentinelConfig{Replicas: failoverReplicas, DownAfter: time.Second})
	opt := g.Options()
	opt.ClientName = failoverClient
	s, stop, err := redisstore.OpenSentinel(opt, redisstore.Config{WaitReplicas: wait, WaitTimeout: failoverCall / 2})
	require.NoError(t, err)
	defer func() { require.NoError(t, stop()) }()
	tr := &traffic{t: t, s: s, acked: map[string]int32{}, last: time.Now()}
	ctx, cancel := context.WithTimeout(t.Context(), 2*failoverLimit)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for worker := range failoverWorkers {
		wg.Go(func() { tr.work(ctx, worker) })
	}
	defer cancel()

	tr.progress()
	tr.stage.Store(duringFailover)
	tr.mu.Lock()
	tr.pause = 0
	tr.mu.Unlock()
	old := lose(t, g)
	g.WaitForNewMaster(t, old)
	if alive {
		leftBy(t, old.Client(t))
	}
	if wait < failoverReplicas {
		tr.progress()
		tr.stage.Store(afterFailover)
		tr.progress()
	}
	cancel()
	wg.Wait()

	pause, failures := tr.pause, tr.failures
	tr.s = redisstore.New(g.Client(t), redisstore.Config{})
	lost := tr.lost()
	if wait == failoverReplicas {
		require.Zero(t, lost, "every replica had confirmed what is lost")
	}
	stages := slices.Collect(func(yield func(int32) bool) {
		for _, stage := range tr.acked {
			if !yield(stage) {
				return
			}
		}
	})
	require.Contains(t, stages, beforeFailover)
	if wait < failoverReplicas {
		require.Contains(t, stages, afterFailover)
	}
	t.Logf("I3: %d of %d consumed keys were lost; %d claims were lost while their handlers ran, %d stale owners wrote; "+
		"%d calls failed, no call was answered for %v", lost, len(tr.acked), tr.forgotten, tr.staleWrites, failures, pause.Round(time.Millisecond))
}
