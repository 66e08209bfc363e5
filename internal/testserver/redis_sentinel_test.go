package testserver

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRedisSentinelPromotesAReplica(t *testing.T) {
	t.Parallel()
	g := RedisSentinel(t, SentinelConfig{DownAfter: time.Second})
	ctx := testContext(t)
	rdb := g.Client(t)
	require.NoError(t, rdb.Set(ctx, "k", "v", 0).Err())
	require.EqualValues(t, 1, rdb.Wait(ctx, 1, 10*time.Second).Val())

	dead := g.KillMaster(t)
	master := g.WaitForNewMaster(t, dead)
	assert.NotEqual(t, dead.Addr(), master.Addr())
	require.Eventually(t, func() bool { return rdb.Set(ctx, "k2", "v", 0).Err() == nil }, time.Minute, answerPause)
	assert.Equal(t, "v", rdb.Get(ctx, "k").Val())
}

func TestRedisSentinelFailsOverWhenAsked(t *testing.T) {
	t.Parallel()
	g := RedisSentinel(t, SentinelConfig{Replicas: 2, Password: "pw", SentinelUser: "ops", SentinelPassword: "secret"})
	ctx := testContext(t)
	old := g.Master(t)
	require.Error(t, old.Client(t).Ping(ctx).Err(), "the servers have a password")
	stranger := redis.NewSentinelClient(&redis.Options{Addr: g.SentinelAddrs()[0]})
	defer func() { require.NoError(t, stranger.Close()) }()
	require.Error(t, stranger.Ping(ctx).Err(), "the sentinels have a user")

	g.Failover(t)
	assert.NotSame(t, old, g.WaitForNewMaster(t, old))
	require.NoError(t, g.Client(t).Set(ctx, "k", "v", 0).Err())
}
