package redisstore_test

import (
	"net/url"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

func hostOf(t testing.TB, s *testserver.PrivateRedisServer) *url.URL {
	t.Helper()
	u, err := url.Parse(s.URL())
	require.NoError(t, err)
	return u
}

// cluster starts a Cluster of three masters.
func cluster(t testing.TB) redis.UniversalClient { return testserver.RedisCluster(t).Client(t) }

// ring spreads the keys over two servers.
func ring(t testing.TB) *redis.Ring {
	t.Helper()
	a, b := testserver.PrivateRedis(t), testserver.PrivateRedis(t)
	rdb := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": hostOf(t, a).Host, "b": hostOf(t, b).Host}})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// tooFew holds that a write without its replicas is reported as such, and that reads and refusals are not.
func tooFew(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	plain := redisstore.New(rdb, redisstore.Config{})
	s := redisstore.New(rdb, redisstore.Config{WaitReplicas: 1, WaitTimeout: time.Microsecond}) // 0 ms would be for ever
	ctx := testContext(t)
	_, _, err := s.Acquire(ctx, claimOf("k", "n1"))
	require.True(t, storeError(t, err).Indeterminate)
	require.ErrorContains(t, err, "too few replicas confirmed the write: 0 of 1")
	acquire(t, s, claimOf("k", "n2"), dedup.Busy)
	r := acquire(t, plain, claimOf("k", "n1"), dedup.Granted)
	read, err := s.Get(ctx, r.Key)
	require.NoError(t, err)
	require.Equal(t, r.Fence, read.Fence)
	require.ErrorIs(t, s.Settle(ctx, dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: "other"}, consumed), dedup.ErrLeaseLost)
	for _, err := range s.SettleMany(ctx, []dedup.HeldSettlement{{Hold: holdOf(r), Settlement: consumed}}) {
		require.True(t, storeError(t, err).Indeterminate)
	}
	acquire(t, plain, claimOf("k", "n2"), dedup.Duplicate)
}

func TestTooFewReplicas(t *testing.T) {
	t.Parallel()
	t.Run("one server", func(t *testing.T) { t.Parallel(); tooFew(t, testserver.PrivateRedis(t).Client(t)) })
	t.Run("Cluster", func(t *testing.T) { t.Parallel(); tooFew(t, cluster(t)) })
	t.Run("Ring", func(t *testing.T) { t.Parallel(); tooFew(t, ring(t)) })
}

func TestAReplicaConfirms(t *testing.T) {
	t.Parallel()
	master := testserver.PrivateRedis(t, "--repl-diskless-sync-delay", "0")
	u := hostOf(t, master)
	replica := testserver.PrivateRedis(t, "--replicaof", u.Hostname()+" "+u.Port())
	rdb, copied := master.Client(t), replica.Client(t)
	require.Eventually(t, func() bool {
		n, err := rdb.Wait(testContext(t), 1, 100*time.Millisecond).Result()
		return err == nil && n == 1
	}, time.Minute, 50*time.Millisecond)
	s := redisstore.New(rdb, redisstore.Config{WaitReplicas: 1})
	r := acquire(t, s, claimOf("k", "n1"), dedup.Granted)
	got, err := copied.Get(testContext(t), nameOf("idemq:", "k")).Result()
	require.NoError(t, err)
	require.Contains(t, got, "1 a ")
	require.NoError(t, s.Settle(testContext(t), holdOf(r), consumed))
}

// wrapped hides what kind of client it is.
type wrapped struct{ redis.UniversalClient }

func TestAClientThatHidesItsServersCannotWait(t *testing.T) {
	t.Parallel()
	rdb := wrapped{testserver.Redis(t).Client(t)}
	_, _, err := redisstore.New(rdb, redisstore.Config{Prefix: ownPrefix(), WaitReplicas: 1}).Acquire(testContext(t), claimOf("k", "n1"))
	require.False(t, storeError(t, err).Indeterminate)
	require.ErrorContains(t, err, "WaitReplicas")
	acquire(t, redisstore.New(rdb, redisstore.Config{Prefix: ownPrefix()}), claimOf("k", "n1"), dedup.Granted)
}

// The same life on every kind of client, with the scripts flushed in between.
func TestRecordsLiveOnEveryKindOfClient(t *testing.T) {
	t.Parallel()
	life := func(t *testing.T, rdb redis.UniversalClient) {
		s := redisstore.New(rdb, redisstore.Config{})
		ctx := testContext(t)
		var claims []dedup.Claim
		for _, id := range []string{"a", "b", "c{d}e", "a", "f%7Cg", "h"} {
			claims = append(claims, claimOf(id, dedup.Nonce("n-"+string(rune('0'+len(claims))))))
		}
		var settlements []dedup.HeldSettlement
		for i, a := range s.AcquireMany(ctx, claims) {
			require.NoError(t, a.Err)
			require.Equal(t, claims[i].Key, a.Record.Key)
			if i == 3 {
				require.Equal(t, dedup.Busy, a.Verdict)
				continue
			}
			require.Equal(t, dedup.Granted, a.Verdict)
			settlements = append(settlements, dedup.HeldSettlement{Hold: holdOf(a.Record), Settlement: consumed})
		}
		require.NoError(t, rdb.ScriptFlush(ctx).Err())
		for _, err := range s.SettleMany(ctx, settlements) {
			require.NoError(t, err)
		}
		seen := map[dedup.Key]bool{}
		for r, err := range s.List(ctx, dedup.Filter{Scope: "ORDERS/billing", States: []dedup.State{dedup.Consumed}}) {
			require.NoError(t, err)
			seen[r.Key] = true
		}
		require.Len(t, seen, 5)
		require.NoError(t, s.Forget(ctx, claims[0].Key, false))
		require.ErrorIs(t, s.Forget(ctx, claims[0].Key, false), dedup.ErrNotFound)
	}
	t.Run("one server", func(t *testing.T) { t.Parallel(); life(t, testserver.PrivateRedis(t).Client(t)) })
	t.Run("Cluster", func(t *testing.T) { t.Parallel(); life(t, cluster(t)) })
	t.Run("Ring", func(t *testing.T) { t.Parallel(); life(t, ring(t)) })
}

// Since Redis 7.2 WAIT waits only for what its own connection wrote. A call that finds its work done by another one must
// therefore write something, or its WAIT would confirm what no replica has.
func TestAnswersThatWriteNothingAreWaitedForToo(t *testing.T) {
	t.Parallel()
	rdb := testserver.PrivateRedis(t).Client(t)
	plain := redisstore.New(rdb, redisstore.Config{})
	s := redisstore.New(rdb, redisstore.Config{WaitReplicas: 1, WaitTimeout: time.Microsecond})
	ctx := testContext(t)
	touched := func(want int, op func()) {
		t.Helper()
		calls := func() (n int) {
			info, err := rdb.Info(ctx, "commandstats").Result()
			require.NoError(t, err)
			if found := regexp.MustCompile(`cmdstat_pexpire:calls=(\d+)`).FindStringSubmatch(info); found != nil {
				n, err = strconv.Atoi(found[1])
				require.NoError(t, err)
			}
			return n
		}
		before := calls()
		op()
		require.Equal(t, want, calls()-before)
	}
	short := func(err error) { t.Helper(); require.True(t, storeError(t, err).Indeterminate) }
	dead := dedup.Settlement{State: dedup.DeadOwed, Retention: time.Hour}

	done, died, again := acquire(t, plain, claimOf("done", "n1"), dedup.Granted), acquire(t, plain, claimOf("died", "n1"), dedup.Granted), acquire(t, plain, claimOf("again", "n1"), dedup.Granted)
	touched(1, func() { _, _, err := s.Acquire(ctx, claimOf("done", "n1")); short(err) })
	touched(0, func() { acquire(t, s, claimOf("done", "n2"), dedup.Busy) })
	touched(0, func() { short(s.Settle(ctx, holdOf(done), consumed)); short(s.Settle(ctx, holdOf(died), dead)) })
	touched(1, func() { short(s.Settle(ctx, holdOf(done), consumed)) })
	touched(1, func() { _, _, err := s.Acquire(ctx, claimOf("done", "n2")); short(err) })
	touched(0, func() { acquire(t, plain, claimOf("done", "n2"), dedup.Duplicate) })
	touched(0, func() { short(s.LetterSent(ctx, died.Key, died.Fence)) })
	touched(1, func() { short(s.LetterSent(ctx, died.Key, died.Fence)) })
	touched(0, func() { short(s.Release(ctx, holdOf(again), dedup.Release{})) })
	touched(1, func() { short(s.Release(ctx, holdOf(again), dedup.Release{})) })
	ttl, err := rdb.PTTL(ctx, nameOf("idemq:", "done")).Result()
	require.NoError(t, err)
	require.InDelta(t, float64(time.Hour), float64(ttl), float64(10*time.Second))
}
