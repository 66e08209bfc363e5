package redisstore_test

import (
	"context"
	"fmt"
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

// sizes is a hook of the client that notes how large its round trips are.
type sizes struct {
	mu              sync.Mutex
	trips           int
	bytes, commands int // of the largest
}

func (z *sizes) DialHook(next redis.DialHook) redis.DialHook { return next }

func (z *sizes) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (z *sizes) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		n := 0
		for _, c := range cmds {
			for _, a := range c.Args() {
				switch a := a.(type) {
				case string:
					n += len(a)
				case []byte:
					n += len(a)
				}
			}
		}
		z.mu.Lock()
		z.trips++
		z.bytes, z.commands = max(z.bytes, n), max(z.commands, len(cmds))
		z.mu.Unlock()
		return next(ctx, cmds)
	}
}

// queued waits until so many calls wait for the server of the test's keys.
func queued(t testing.TB, s *redisstore.Store, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return redisstore.Queued(testContext(t), s, claimOf("k", "n").Key) == n }, patience, tick)
}

const (
	patience = time.Minute
	tick     = time.Millisecond
)

// Ten thousand callers, four for each key: one of them is granted it, and nobody opens a connection for each.
func TestTenThousandCallersShareAConnection(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = rdb.Close() })
	var z sizes
	rdb.AddHook(&z)
	s := redisstore.New(rdb, redisstore.Config{})
	const keys, callers = 2500, 10000
	grants := make([]atomic.Int64, keys)
	ctx, cancel := context.WithTimeout(context.Background(), 10*testLimit)
	defer cancel()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			id := fmt.Sprintf("k%d", i%keys)
			v, r, err := s.Acquire(ctx, claimOf(id, dedup.Nonce(fmt.Sprintf("n%d", i))))
			if !assert.NoError(t, err) {
				return
			}
			switch v {
			case dedup.Granted:
				grants[i%keys].Add(1)
				assert.Equal(t, dedup.Nonce(fmt.Sprintf("n%d", i)), r.Nonce, "somebody else's answer")
				assert.Equal(t, id, r.Key.ID, "somebody else's answer")
				st := consumed
				st.Result = []byte(id)
				assert.NoError(t, s.Settle(ctx, holdOf(r), st))
			case dedup.Duplicate:
				assert.Equal(t, id, string(r.Result), "somebody else's answer")
			default:
				assert.Equal(t, dedup.Busy, v)
			}
		})
	}
	wg.Wait()
	for i := range grants {
		require.EqualValues(t, 1, grants[i].Load(), "k%d", i)
	}
	require.LessOrEqual(t, rdb.PoolStats().TotalConns, uint32(2))
	require.Less(t, z.trips, callers/4, "the calls did not travel together")
	queued(t, s, 0)
}

// Claims with different settings, settlements of every kind, releases and extensions in one round trip: each caller gets
// the answer to its own call, and a stale owner nothing but ErrLeaseLost (I2).
func TestEverybodyGetsTheirOwnAnswer(t *testing.T) {
	t.Parallel()
	for name, rdb := range map[string]func() redis.UniversalClient{
		"standalone": func() redis.UniversalClient { return testserver.Redis(t).Client(t) },
		"cluster":    func() redis.UniversalClient { return cluster(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redisstore.Queueing(redisstore.New(rdb(), redisstore.Config{Prefix: ownPrefix()}))
			ctx := testContext(t)
			for i := range 50 {
				known := consumed
				known.Result = fmt.Appendf(nil, "known%d", i)
				require.NoError(t, s.Settle(ctx, holdOf(acquire(t, s, claimOf(fmt.Sprintf("known%d", i), "n0"), dedup.Granted)), known))
			}
			var wg sync.WaitGroup
			for i := range 400 {
				wg.Go(func() {
					if i%8 == 0 { // a duplicate among new keys
						id := fmt.Sprintf("known%d", i/8)
						v, r, err := s.Acquire(ctx, claimOf(id, "n1"))
						assert.NoError(t, err)
						assert.Equal(t, dedup.Duplicate, v)
						assert.Equal(t, id, string(r.Result), "somebody else's answer")
						return
					}
					c := claimOf(fmt.Sprintf("k%d", i), dedup.Nonce(fmt.Sprintf("n%d", i)))
					c.Lease = time.Duration(1+i%7) * time.Minute
					c.Letters = i%2 == 0
					v, r, err := s.Acquire(ctx, c)
					assert.NoError(t, err)
					assert.Equal(t, dedup.Granted, v)
					assert.Equal(t, c.Lease, r.LeaseLeft())
					stored, err := s.Get(ctx, c.Key)
					assert.NoError(t, err)
					stored.ReadAt, stored.ExpiresAt = r.ReadAt, r.ExpiresAt
					assert.Equal(t, r, stored, "the server wrote something else, such as somebody else's settings")
					stale := holdOf(r)
					stale.Nonce = "stale"
					assert.Equal(t, dedup.ErrLeaseLost, s.Settle(ctx, stale, consumed))
					assert.Equal(t, dedup.ErrLeaseLost, s.Release(ctx, stale, dedup.Release{}))
					assert.NoError(t, s.Extend(ctx, holdOf(r), time.Hour))
					want := dedup.Failed
					switch i % 4 {
					case 0:
						want = dedup.Consumed
						assert.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: want, Result: []byte(c.Key.ID), Retention: time.Hour}))
					case 1:
						want = dedup.DeadOwed
						assert.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: want, Cause: dedup.Cause{Class: dedup.Permanent}, Retention: time.Hour}))
					default:
						assert.NoError(t, s.Release(ctx, holdOf(r), dedup.Release{Cause: dedup.Cause{Message: c.Key.ID}}))
					}
					got, err := s.Get(ctx, c.Key)
					assert.NoError(t, err)
					assert.Equal(t, want, got.State)
					assert.Equal(t, c.Nonce, got.Nonce)
					switch want {
					case dedup.Consumed:
						assert.Equal(t, c.Key.ID, string(got.Result))
					case dedup.Failed:
						assert.Equal(t, c.Key.ID, got.Cause.Message)
					default:
					}
				})
			}
			wg.Wait()
		})
	}
}

// What many callers want to send is cut into round trips of bounded size, a batch's results too.
func TestLargeResultsGoInSeveralRoundTrips(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ReadTimeout: testLimit, WriteTimeout: testLimit})
	t.Cleanup(func() { _ = rdb.Close() })
	const keys = 24
	large := consumed
	large.Result = make([]byte, 1<<20)
	claim := func(s *redisstore.Store) []dedup.HeldSettlement {
		require.NoError(t, rdb.FlushAll(testContext(t)).Err())
		claims, out := make([]dedup.Claim, keys), make([]dedup.HeldSettlement, keys)
		for i := range claims {
			claims[i] = claimOf(fmt.Sprintf("k%d", i), "n1")
		}
		for i, a := range s.AcquireMany(testContext(t), claims) {
			require.NoError(t, a.Err)
			out[i] = dedup.HeldSettlement{Hold: holdOf(a.Record), Settlement: large}
		}
		return out
	}
	var z sizes
	s := redisstore.Queueing(redisstore.New(rdb, redisstore.Config{}))
	rdb.AddHook(&z)
	const most = redisstore.MaxBytes + 1<<20 + redisstore.MaxKeys*1000 // the bound, one that passes it, and names and texts

	for _, err := range s.SettleMany(testContext(t), claim(s)) {
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, z.trips, keys/2)
	require.LessOrEqual(t, z.bytes, most)

	holds := claim(s)
	z.trips = 0
	var wg sync.WaitGroup
	for _, h := range holds {
		wg.Go(func() { assert.NoError(t, s.Settle(testContext(t), h.Hold, h.Settlement)) })
	}
	wg.Wait()
	require.GreaterOrEqual(t, z.trips, keys/2)
	require.LessOrEqual(t, z.bytes, most)
	got, err := s.Get(testContext(t), holds[keys-1].Hold.Key)
	require.NoError(t, err)
	require.Len(t, got.Result, 1<<20)
}
