package redisstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

func check(t testing.TB, s *redisstore.Store) map[string]redisstore.Finding {
	t.Helper()
	found, err := s.Check(testContext(t))
	require.NoError(t, err)
	out := map[string]redisstore.Finding{}
	for _, f := range found {
		require.Contains(t, f.String(), f.Server+": "+f.Setting)
		out[f.Setting] = f
	}
	return out
}

func TestCheckFindsWhatLosesRecords(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t, "--appendonly", "yes")
	rdb := server.Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	require.Empty(t, check(t, s))

	require.NoError(t, rdb.ConfigSet(testContext(t), "maxmemory-policy", "volatile-lru").Err())
	require.NoError(t, rdb.ConfigSet(testContext(t), "appendonly", "no").Err())
	found := check(t, s)
	require.Equal(t, redisstore.Finding{Server: s.Describe(), Setting: "maxmemory-policy", Value: "volatile-lru"}, found["maxmemory-policy"])
	require.Equal(t, redisstore.Finding{Server: s.Describe(), Setting: "appendonly", Value: "no"}, found["appendonly"])
	require.Contains(t, found["maxmemory-policy"].String(), "volatile-lru; it must be noeviction")
}

// A server that does not tell is never taken for a good one.
func TestCheckDoesNotGuess(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t, "--appendonly", "yes")
	find := func(rules ...string) map[string]redisstore.Finding {
		return check(t, openURL(t, server.AddUser(t, "worker", "secret", append([]string{"~*", "+@all"}, rules...)...)))
	}
	require.Empty(t, find("-config"), "INFO tells it")
	require.Empty(t, find("-info"), "CONFIG tells it")
	found := find("-config", "-info")
	require.Len(t, found, 2)
	for _, f := range found {
		require.True(t, f.Unknown())
		require.Contains(t, f.String(), "unknown")
		require.NotContains(t, f.String(), "secret")
	}
	server.Stop()
	_, err := openURL(t, server.URL()).Check(testContext(t))
	require.ErrorContains(t, err, server.Addr())
}

func TestCheckAsksEveryMaster(t *testing.T) {
	t.Parallel()
	c := testserver.RedisCluster(t, "--appendonly", "yes")
	s := redisstore.New(c.Client(t), redisstore.Config{})
	require.Empty(t, check(t, s))
	require.NoError(t, c.Masters()[1].Client(t).ConfigSet(testContext(t), "maxmemory-policy", "allkeys-lru").Err())
	require.Equal(t, map[string]redisstore.Finding{
		"maxmemory-policy": {Server: c.Addrs()[1], Setting: "maxmemory-policy", Value: "allkeys-lru"},
	}, check(t, s))
}
