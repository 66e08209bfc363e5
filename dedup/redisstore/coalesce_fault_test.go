package redisstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

// asked is a call of Acquire that runs beside the test.
type asked struct {
	verdict dedup.Verdict
	record  dedup.Record
	err     error
}

func ask(ctx context.Context, s *redisstore.Store, c dedup.Claim) <-chan asked {
	out := make(chan asked, 1)
	go func() {
		var a asked
		a.verdict, a.record, a.err = s.Acquire(ctx, c)
		out <- a
	}()
	return out
}

// answered demands that the call returns.
func answered(t testing.TB, c <-chan asked) asked {
	t.Helper()
	select {
	case a := <-c:
		return a
	case <-time.After(patience):
		require.FailNow(t, "the call does not return")
		return asked{}
	}
}

// A caller leaves with its own context and nobody else's: at once and without a trace while its call is queued,
// indeterminate while it is under way. What it had claimed then is found again by the same nonce.
func TestACallersContextEndsWhileOthersGoOn(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1, ReadTimeout: testLimit})
	t.Cleanup(func() { _ = rdb.Close() })
	s := redisstore.New(rdb, redisstore.Config{})
	acquire(t, s, claimOf("warm", "n1"), dedup.Granted) // a connection is open
	server.Suspend(t)
	resume := sync.OnceFunc(func() { server.Resume(t) })
	defer resume()

	// One goes alone and holds the others up. It ends when we say, so its round trip has a deadline of its own.
	short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	alone := ask(short, s, claimOf("alone", "n1"))
	entered := func() bool { return redisstore.UnderWay(s) }
	require.Eventually(t, entered, patience, tick)
	leaving, leave := context.WithCancel(testContext(t))
	going, gone := context.WithCancel(testContext(t))
	queuing := ask(leaving, s, claimOf("queued", "n1"))
	sent := ask(going, s, claimOf("sent", "n1"))
	others := []<-chan asked{ask(testContext(t), s, claimOf("o0", "n1")), ask(testContext(t), s, claimOf("o1", "n1"))}
	queued(t, s, 4)

	leave()
	require.Equal(t, context.Canceled, answered(t, queuing).err, "nothing was sent, and nothing is in doubt")
	queued(t, s, 3)
	require.True(t, storeError(t, answered(t, alone).err).Indeterminate)
	queued(t, s, 0) // now the others are under way
	gone()
	second := answered(t, sent).err
	require.ErrorIs(t, second, context.Canceled)
	require.True(t, storeError(t, second).Indeterminate, "%v", second)

	resume()
	for _, c := range others {
		a := answered(t, c)
		require.NoError(t, a.err)
		require.Equal(t, dedup.Granted, a.verdict)
	}
	// The claims did not leak: the same nonce is granted them again, and it is still the first attempt.
	for _, id := range []string{"alone", "sent"} {
		require.Equal(t, 1, acquire(t, s, claimOf(id, "n1"), dedup.Granted).Attempt, id)
		acquire(t, s, claimOf(id, "n2"), dedup.Busy)
	}
	acquire(t, s, claimOf("queued", "n2"), dedup.Granted)
}

// gate is a hook of the client that holds up round trips.
type gate struct {
	sizes
	entered, open chan struct{}
}

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		g.entered <- struct{}{}
		<-g.open
		return next(ctx, cmds)
	}
}

// A caller that has left may use its bytes for something else; what is under way is not changed by that.
func TestResultsAreCopiedBeforeTheirCallerCanLeave(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	direct := redisstore.New(testserver.Redis(t).Client(t), redisstore.Config{Prefix: prefix})
	redisstore.Queueing(s)
	r := acquire(t, s, claimOf("k", "n1"), dedup.Granted)
	g := gate{entered: make(chan struct{}, 10), open: make(chan struct{})}
	rdb.AddHook(&g)
	ctx, cancel := context.WithCancel(testContext(t))
	st := consumed
	st.Result = []byte("mine")
	done := make(chan error, 1)
	go func() { done <- s.Settle(ctx, holdOf(r), st) }()
	<-g.entered
	cancel()
	require.True(t, storeError(t, <-done).Indeterminate)
	copy(st.Result, "else")
	close(g.open)
	require.Eventually(t, func() bool {
		got, err := direct.Get(testContext(t), r.Key)
		return err == nil && got.State == dedup.Consumed && assert.Equal(t, "mine", string(got.Result))
	}, patience, tick)
}

// A caller with little time does not take the others' time away.
func TestARoundTripLastsAsLongAsItsLastCallerHasTime(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1, ReadTimeout: testLimit})
	t.Cleanup(func() { _ = rdb.Close() })
	s := redisstore.New(rdb, redisstore.Config{})
	acquire(t, s, claimOf("warm", "n1"), dedup.Granted)
	g := gate{entered: make(chan struct{}, 10), open: make(chan struct{})}
	rdb.AddHook(&g)
	alone := ask(testContext(t), s, claimOf("alone", "n1"))
	<-g.entered
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	hasty := ask(short, s, claimOf("hasty", "n1"))
	patient := ask(testContext(t), s, claimOf("patient", "n1"))
	queued(t, s, 2)
	g.open <- struct{}{}
	require.NoError(t, answered(t, alone).err)
	<-g.entered // the two are under way
	require.ErrorIs(t, answered(t, hasty).err, context.DeadlineExceeded)
	g.open <- struct{}{}
	a := answered(t, patient)
	require.NoError(t, a.err)
	require.Equal(t, dedup.Granted, a.verdict)
}

// A server that is busy for 100 ms again and again holds everybody up, and nobody's call is lost or mixed up.
func TestASlowScriptAmongFastOnes(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t)
	s := redisstore.New(server.Client(t), redisstore.Config{})
	slow := redis.NewScript(`local t = redis.call('TIME'); local from = t[1] * 1000000 + t[2]
repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] - from > 100000
return 1`)
	var wg sync.WaitGroup
	var settled atomic.Int64
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	for w := range 32 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				v, r, err := s.Acquire(testContext(t), claimOf(fmt.Sprintf("k%d-%d", w, n), "n1"))
				if !assert.NoError(t, err) || !assert.Equal(t, dedup.Granted, v) {
					return
				}
				if !assert.NoError(t, s.Settle(testContext(t), holdOf(r), consumed)) {
					return
				}
				settled.Add(1)
			}
		})
	}
	rdb := server.Client(t)
	for range 5 {
		require.NoError(t, slow.Run(testContext(t), rdb, nil).Err())
		before := settled.Load()
		require.Eventually(t, func() bool { return settled.Load() > before }, patience, tick, "nobody goes on after a slow script")
	}
	cancel()
	wg.Wait()
}

// While a server stalls, what waits for it is bounded by who waits: callers that give up leave nothing behind.
func TestAStalledServerDoesNotFillMemory(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	t.Cleanup(func() { _ = rdb.Close() })
	s := redisstore.New(rdb, redisstore.Config{})
	acquire(t, s, claimOf("warm", "n1"), dedup.Granted)
	server.Suspend(t)
	const callers, calls = 200, 10
	var wg sync.WaitGroup
	for w := range callers {
		wg.Go(func() {
			for n := range calls {
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				_, _, err := s.Acquire(ctx, claimOf(fmt.Sprintf("k%d-%d", w, n), "n1"))
				cancel()
				assert.Error(t, err)
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	most := 0
	for waiting := true; waiting; {
		select {
		case <-over:
			waiting = false
		case <-time.After(tick):
			most = max(most, redisstore.Queued(testContext(t), s, claimOf("k", "n").Key))
		}
	}
	require.Positive(t, most)
	require.LessOrEqual(t, most, callers)
	require.Zero(t, redisstore.Queued(testContext(t), s, claimOf("k", "n").Key))
	server.Resume(t)
	acquire(t, s, claimOf("afterwards", "n1"), dedup.Granted)
}

// halver stands between client and server. While it is armed, it passes on half of a request with several scripts and
// resets the connection: what was whole in that half is applied, the rest is not, and nobody is told.
type halver struct {
	addr  string
	armed atomic.Int64 // requests still to be halved
	done  atomic.Int64 // requests that were
}

func newHalver(t testing.TB, server string) *halver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &halver{addr: l.Addr().String()}
	var wg sync.WaitGroup
	serve := func(in net.Conn) {
		defer func() { _ = in.Close() }()
		out, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		var cut atomic.Bool
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			for {
				n, err := out.Read(buf)
				if err != nil || cut.Load() {
					return
				}
				if _, err := in.Write(buf[:n]); err != nil {
					return
				}
			}
		})
		defer func() { _ = out.Close() }()
		buf := make([]byte, 256<<10)
		for {
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			if bytes.Count(bytes.ToLower(buf[:n]), []byte("\r\nevalsha")) > 1 && h.armed.Add(-1) >= 0 {
				cut.Store(true)
				_, _ = out.Write(buf[:n/2])
				// The server closes when it has read everything, so by then the first half is applied.
				_ = out.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, out)
				_ = in.(*net.TCPConn).SetLinger(0)
				h.done.Add(1)
				return
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return h
}

// A connection is reset in the middle of a pipeline. Every caller either knows what came of its call or repeats it, and all
// end as if nothing had happened.
func TestAResetInTheMiddleOfAPipeline(t *testing.T) {
	t.Parallel()
	for name, retries := range map[string]int{"callers repeat": -1, "the client repeats": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testserver.PrivateRedis(t)
			h := newHalver(t, server.Addr())
			rdb := redis.NewClient(&redis.Options{Addr: h.addr, MaxRetries: retries, ContextTimeoutEnabled: true})
			s := redisstore.Queueing(redisstore.New(rdb, redisstore.Config{}))
			t.Cleanup(func() { _ = rdb.Close() }) // before the halver waits for its connections
			ctx := testContext(t)
			var lost atomic.Int64
			again := func(op func() error) error {
				for {
					err := op()
					if se := (*dedup.StoreError)(nil); errors.As(err, &se) && ctx.Err() == nil {
						assert.True(t, se.Indeterminate, "%v", err)
						lost.Add(1)
						continue
					}
					return err
				}
			}
			round := func(prefix string) {
				var wg sync.WaitGroup
				for i := range 64 {
					wg.Go(func() {
						c := claimOf(fmt.Sprintf("%s-%d", prefix, i), "n1")
						var r dedup.Record
						assert.NoError(t, again(func() (err error) {
							var v dedup.Verdict
							v, r, err = s.Acquire(ctx, c)
							if err == nil {
								assert.Equal(t, dedup.Granted, v)
							}
							return err
						}))
						assert.Equal(t, 1, r.Attempt)
						assert.NoError(t, again(func() error { return s.Extend(ctx, holdOf(r), time.Hour) }))
						if i%2 == 0 {
							assert.NoError(t, again(func() error { return s.Settle(ctx, holdOf(r), consumed) }))
							return
						}
						assert.NoError(t, again(func() error { return s.Release(ctx, holdOf(r), dedup.Release{}) }))
					})
				}
				wg.Wait()
				for i := range 64 {
					got, err := s.Get(ctx, claimOf(fmt.Sprintf("%s-%d", prefix, i), "").Key)
					require.NoError(t, err)
					require.Equal(t, 1, got.Attempt)
					require.Equal(t, 0, got.Abandoned)
					require.Equal(t, map[int]dedup.State{0: dedup.Consumed, 1: dedup.Failed}[i%2], got.State)
				}
			}
			round("warm") // the scripts are known
			for n := range 5 {
				h.armed.Store(1)
				round(fmt.Sprintf("k%d", n))
			}
			require.Positive(t, h.done.Load(), "nothing was cut")
			if retries < 0 {
				require.Positive(t, lost.Load(), "nobody noticed")
			}
		})
	}
}
