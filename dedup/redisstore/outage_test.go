package redisstore_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
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

// cutter stands between client and server. While it cuts, a script's answer that comes from the server is thrown away
// and the connection closed: the command was applied, and nobody knows.
type cutter struct {
	addr string
	cut  atomic.Int64 // answers still to be thrown away
	lost atomic.Int64 // answers thrown away
}

func newCutter(t testing.TB, server string) *cutter {
	t.Helper()
	u, err := url.Parse(server)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", u.Host)
			if err != nil {
				_ = in.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			var script atomic.Bool // the last request was a script
			wg.Go(func() {
				defer func() { _ = out.Close() }()
				buf := make([]byte, 64<<10)
				for {
					n, err := in.Read(buf)
					if bytes.Contains(bytes.ToLower(buf[:n]), []byte("\r\neval")) {
						script.Store(true)
					}
					if _, werr := out.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			})
			wg.Go(func() {
				defer func() { _ = in.Close() }()
				buf := make([]byte, 64<<10)
				for {
					n, err := out.Read(buf)
					if err != nil {
						return
					}
					if script.Load() && !bytes.HasPrefix(buf[:n], []byte("-")) && c.cut.Add(-1) >= 0 {
						c.lost.Add(1)
						return
					}
					if _, err := in.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return c
}

// client retries as often as it is told; -1 is never.
func (c *cutter) client(t testing.TB, retries int) *redis.Client {
	rdb := redis.NewClient(&redis.Options{Addr: c.addr, MaxRetries: retries, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func TestALostAnswerIsIndeterminateAndCanBeAskedForAgain(t *testing.T) {
	t.Parallel()
	server := testserver.Redis(t)
	c := newCutter(t, server.URL())
	prefix := ownPrefix()
	s := redisstore.New(c.client(t, -1), redisstore.Config{Prefix: prefix})
	direct := redisstore.New(server.Client(t), redisstore.Config{Prefix: prefix})
	acquire(t, s, claimOf("warm", "n1"), dedup.Granted) // the script is known, and a connection open
	ctx := testContext(t)
	lose := func(op func() error) {
		t.Helper()
		before := c.lost.Load()
		c.cut.Store(1)
		err := op()
		require.Equal(t, before+1, c.lost.Load())
		require.True(t, storeError(t, err).Indeterminate, "%v", err)
		require.ErrorIs(t, err, io.EOF)
		require.ErrorContains(t, err, c.addr)
	}

	lose(func() error { _, _, err := s.Acquire(ctx, claimOf("k", "n1")); return err })
	applied, err := direct.Get(ctx, claimOf("k", "n1").Key)
	require.NoError(t, err)
	acquire(t, s, claimOf("k", "n2"), dedup.Busy)
	r := acquire(t, s, claimOf("k", "n1"), dedup.Granted)
	require.Equal(t, applied.Fence, r.Fence)
	require.Equal(t, applied.LeaseUntil, r.LeaseUntil, "the lease does not begin anew")
	require.Equal(t, 1, r.Attempt)

	_ = s.Extend(ctx, holdOf(r), time.Minute) // each script is known now
	lose(func() error { return s.Extend(ctx, holdOf(r), time.Minute) })
	require.NoError(t, s.Extend(ctx, holdOf(r), time.Minute))
	_ = s.Settle(ctx, dedup.Hold{Key: r.Key}, consumed)
	lose(func() error { return s.Settle(ctx, holdOf(r), consumed) })
	require.NoError(t, s.Settle(ctx, holdOf(r), consumed))
	acquire(t, s, claimOf("k", "n2"), dedup.Duplicate)
}

// go-redis repeats by itself, and nobody notices.
func TestTheClientsOwnRetryGetsTheSameGrant(t *testing.T) {
	t.Parallel()
	c := newCutter(t, testserver.Redis(t).URL())
	s := redisstore.New(c.client(t, 3), redisstore.Config{Prefix: ownPrefix()})
	acquire(t, s, claimOf("warm", "n1"), dedup.Granted)
	c.cut.Store(2)
	r := acquire(t, s, claimOf("k", "n1"), dedup.Granted)
	require.EqualValues(t, 2, c.lost.Load())
	require.Equal(t, 1, r.Attempt)
	require.NoError(t, s.Settle(testContext(t), holdOf(r), consumed))
}

// freePort is an address where nobody listens.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

func TestAnUnreachableServerIsNamed(t *testing.T) {
	t.Parallel()
	addr := freePort(t)
	s, stop, err := redisstore.Open("redis://user:secret@"+addr+"/0", redisstore.Config{})
	require.NoError(t, err)
	defer func() { _ = stop() }()
	within := func(limit time.Duration, op func(context.Context) error) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		start := time.Now()
		err := op(ctx)
		assert.Less(t, time.Since(start), limit+time.Second)
		require.ErrorContains(t, err, addr)
		require.NotContains(t, err.Error(), "secret")
		return err
	}
	acquire := func(ctx context.Context) error { _, _, err := s.Acquire(ctx, claimOf("k", "n1")); return err }
	_ = within(200*time.Millisecond, s.Ping)
	_ = within(200*time.Millisecond, acquire)
	err = within(10*time.Second, acquire)
	require.False(t, storeError(t, err).Indeterminate, "%v", err)
}

func TestAHangingServerIsLeftInTime(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t)
	s, stop, err := redisstore.Open(server.URL(), redisstore.Config{})
	require.NoError(t, err)
	defer func() { _ = stop() }()
	r := acquire(t, s, claimOf("k", "n1"), dedup.Granted)
	server.Suspend(t)
	defer server.Resume(t)

	within := func(op func(context.Context) error) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := op(ctx)
		assert.Less(t, time.Since(start), 2*time.Second)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, server.URL()[len("redis://"):])
		return err
	}
	require.True(t, storeError(t, within(func(ctx context.Context) error { return s.Settle(ctx, holdOf(r), consumed) })).Indeterminate)
	_ = within(s.Ping)
}

func TestAnEndedContextSendsNothing(t *testing.T) {
	t.Parallel()
	s, _, _ := open(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err := s.Acquire(ctx, claimOf("k", "n1"))
	require.Equal(t, context.Canceled, err)
	_, err = s.Get(testContext(t), claimOf("k", "n1").Key)
	require.ErrorIs(t, err, dedup.ErrNotFound)
}

// What the server refuses was not done.
func TestRefusalsAreDeterminate(t *testing.T) {
	t.Parallel()
	refused := func(err error, why string) {
		t.Helper()
		require.False(t, storeError(t, err).Indeterminate)
		require.ErrorContains(t, err, why)
	}
	rdb := testserver.PrivateRedis(t).Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	acquire(t, s, claimOf("warm", "n1"), dedup.Granted)
	require.NoError(t, rdb.ConfigSet(testContext(t), "maxmemory", "1").Err())
	_, _, err := s.Acquire(testContext(t), claimOf("k", "n1"))
	refused(err, "OOM")
	require.NoError(t, rdb.ConfigSet(testContext(t), "maxmemory", "0").Err())
	require.NoError(t, rdb.ConfigSet(testContext(t), "requirepass", "secret").Err())
	locked := redis.NewClient(&redis.Options{Addr: rdb.Options().Addr})
	defer func() { require.NoError(t, locked.Close()) }()
	refused(redisstore.New(locked, redisstore.Config{}).LetterSent(testContext(t), claimOf("k", "n1").Key, 1), "NOAUTH")
}

func TestAClosedClientIsDeterminate(t *testing.T) {
	t.Parallel()
	s, rdb, _ := open(t)
	require.NoError(t, rdb.Close())
	_, _, err := s.Acquire(testContext(t), claimOf("k", "n1"))
	require.False(t, storeError(t, err).Indeterminate)
	require.ErrorIs(t, err, redis.ErrClosed)
}
