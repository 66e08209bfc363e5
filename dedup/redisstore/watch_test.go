package redisstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// told waits for a signal of a channel that goes on.
func told(t testing.TB, c <-chan struct{}) {
	t.Helper()
	select {
	case _, open := <-c:
		require.True(t, open, "the watch has ended")
	case <-time.After(patience):
		require.FailNow(t, "nothing was told")
	}
}

// ended waits for the end of a channel.
func ended(t testing.TB, c <-chan struct{}) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case _, open := <-c:
			if !open {
				return
			}
		case <-limit:
			require.FailNow(t, "the watch has not ended")
		}
	}
}

func watch(t testing.TB, s *redisstore.Store, k dedup.Key) <-chan struct{} {
	t.Helper()
	c, err := s.Watch(testContext(t), k)
	require.NoError(t, err)
	return c
}

func subscribers(t testing.TB, rdb *redis.Client) int {
	t.Helper()
	list, err := rdb.Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
	require.NoError(t, err)
	return strings.Count(list, "id=")
}

func TestWatchesShareOneConnection(t *testing.T) {
	t.Parallel()
	srv := testserver.PrivateRedis(t)
	rdb := srv.Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var channels []<-chan struct{}
	for i := range 100 {
		c, err := s.Watch(ctx, claimOf(fmt.Sprint(i/2), "n").Key)
		require.NoError(t, err)
		channels = append(channels, c)
	}
	assert.Equal(t, 1, subscribers(t, rdb))
	listened := func() int {
		names, err := rdb.PubSubShardChannels(t.Context(), "*").Result()
		require.NoError(t, err)
		return len(names)
	}
	assert.Equal(t, 50, listened())
	other, leave := context.WithCancel(testContext(t))
	defer leave()
	_, err := s.Watch(other, claimOf("0", "n").Key) // keeps the connection open
	require.NoError(t, err)
	cancel()
	for _, c := range channels {
		ended(t, c)
	}
	require.Eventually(t, func() bool { return listened() == 1 }, patience, tick, "the server publishes for nobody")
	require.Equal(t, 1, subscribers(t, rdb))
	leave()
	require.Eventually(t, func() bool { return subscribers(t, rdb) == 0 }, patience, tick, "an idle connection is closed")
	watch(t, s, claimOf("again", "n").Key)
}

func TestWatchSurvivesAReconnect(t *testing.T) {
	t.Parallel()
	srv := testserver.PrivateRedis(t)
	rdb := srv.Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	for i := range 3 {
		r := acquire(t, s, claimOf(fmt.Sprint(i), "n"), dedup.Granted)
		c := watch(t, s, r.Key)
		require.NoError(t, rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err())
		told(t, c) // without a change: a signal may have been lost with the connection
		require.NoError(t, s.Settle(t.Context(), holdOf(r), consumed))
		told(t, c)
	}
}

func TestWatchEndsWithTheServerAndBeginsAgain(t *testing.T) {
	t.Parallel()
	srv := testserver.PrivateRedis(t)
	s := redisstore.New(srv.Client(t), redisstore.Config{})
	k := claimOf("k", "n").Key
	c := watch(t, s, k)
	srv.Kill()
	ended(t, c)
	_, err := s.Watch(testContext(t), k)
	_ = storeError(t, err)
	srv.Start(t)
	require.Eventually(t, func() bool {
		c, err = s.Watch(testContext(t), k)
		return err == nil
	}, patience, tick)
	r := acquire(t, s, claimOf("k", "n"), dedup.Granted)
	require.NoError(t, s.Settle(t.Context(), holdOf(r), consumed))
	told(t, c)
}

// Everything that ends a claim succeeds for a user who may not publish, and who may not subscribe asks instead.
func TestUsersWithoutChannels(t *testing.T) {
	t.Parallel()
	srv := testserver.PrivateRedis(t)
	for name, rules := range map[string][]string{
		"no channels":     {"~*", "+@all", "resetchannels"},
		"no pub/sub":      {"~*", "&*", "+@all", "-@pubsub"},
		"least privilege": {"~*", "-@all", "+ping", "+evalsha", "+eval", "+time", "+get", "+set", "+pttl", "+del"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opt, err := redis.ParseURL(srv.AddUser(t, strings.ReplaceAll(name, " ", "-"), "secret", rules...))
			require.NoError(t, err)
			rdb := redis.NewClient(opt)
			t.Cleanup(func() { _ = rdb.Close() })
			prefix := ownPrefix()
			s := redisstore.New(rdb, redisstore.Config{Prefix: prefix})
			open := redisstore.New(srv.Client(t), redisstore.Config{Prefix: prefix})
			watch(t, open, claimOf("k", "n").Key) // so that there is somebody to tell

			c := claimOf("k", "n1")
			r := acquire(t, s, c, dedup.Granted)
			require.NoError(t, s.Release(t.Context(), holdOf(r), dedup.Release{}))
			c.Nonce = "n2"
			r = acquire(t, s, c, dedup.Granted)
			require.NoError(t, s.Settle(t.Context(), holdOf(r), dedup.Settlement{State: dedup.DeadOwed, Retention: time.Hour}))
			require.NoError(t, s.LetterSent(t.Context(), r.Key, r.Fence))
			_, err = s.Reopen(t.Context(), dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: time.Hour})
			require.NoError(t, err)
			require.NoError(t, s.Forget(t.Context(), r.Key, true))

			for range 2 {
				_, err = s.Watch(testContext(t), r.Key)
				_ = storeError(t, err)
				require.ErrorContains(t, err, "+ssubscribe")
			}
			d, err := dedup.New(s, dedup.Config{})
			require.NoError(t, err)
			g, _, err := d.Begin(t.Context(), r.Key, dedup.Fingerprint{})
			require.NoError(t, err)
			time.AfterFunc(50*time.Millisecond, func() { assert.NoError(t, g.Consume(context.Background(), []byte("polled"))) })
			out, err := d.Await(testContext(t), r.Key)
			require.NoError(t, err)
			require.Equal(t, "polled", string(out.Result()))
		})
	}
}

// A server before Redis 7.0 knows no sharded channels. This one is made to forget its own.
func TestWatchOnClassicChannels(t *testing.T) {
	t.Parallel()
	srv := testserver.PrivateRedis(t, "--rename-command", "SSUBSCRIBE", "", "--rename-command", "SPUBLISH", "")
	opt, err := redis.ParseURL(srv.AddUser(t, "old", "secret", "~*", "&*", "+@all", "-pubsub|shardnumsub"))
	require.NoError(t, err)
	rdb := redis.NewClient(opt)
	t.Cleanup(func() { _ = rdb.Close() })
	s := redisstore.New(rdb, redisstore.Config{})
	for i := range 2 {
		r := acquire(t, s, claimOf(fmt.Sprint(i), "n"), dedup.Granted)
		c := watch(t, s, r.Key)
		require.NoError(t, s.Settle(t.Context(), holdOf(r), consumed))
		told(t, c)
	}
}

// On a Cluster a lost connection ends the watches: the server may be a replica now, to which nobody publishes.
func TestWatchOnACluster(t *testing.T) {
	t.Parallel()
	c := testserver.RedisCluster(t)
	s := redisstore.New(c.Client(t), redisstore.Config{Prefix: ownPrefix()})
	var records []dedup.Record
	for i := range 30 {
		records = append(records, acquire(t, s, claimOf(fmt.Sprint(i), "n"), dedup.Granted))
	}
	var channels []<-chan struct{}
	watchAll := func() {
		channels = nil
		for _, r := range records {
			channels = append(channels, watch(t, s, r.Key))
		}
	}
	watchAll()
	for _, m := range c.Masters() {
		n, err := m.Client(t).Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Int()
		require.NoError(t, err)
		assert.Equal(t, 1, n, "each master has one subscription")
	}
	for _, c := range channels {
		ended(t, c)
	}
	watchAll()
	for i, r := range records {
		require.NoError(t, s.Settle(t.Context(), holdOf(r), consumed))
		told(t, channels[i])
	}
}
