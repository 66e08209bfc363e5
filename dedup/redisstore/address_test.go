package redisstore_test

import (
	"net/url"
	"os"
	"path/filepath"
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

// openURL opens a store that is closed when the test ends.
func openURL(t testing.TB, address string) *redisstore.Store {
	t.Helper()
	s, stop, err := redisstore.Open(address, redisstore.Config{})
	require.NoError(t, err, address)
	t.Cleanup(func() { _ = stop() })
	return s
}

// Describe shows no credentials and no settings, and what it shows can be opened and describes itself alike.
func TestDescribeNamesThePlaceAndNothingElse(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"redis://":                                                            "redis://localhost:6379/0",
		"redis://:700":                                                        "redis://localhost:700/0",
		"redis://user:secret@db.example:6380/3":                               "redis://db.example:6380/3",
		"rediss://:secret@db.example:6380":                                    "rediss://db.example:6380/0",
		"redis://[::1]/?db=2&pool_size=3&read_timeout=1s":                     "redis://[::1]:6379/2",
		"redis://[fe80::1%25eth0]:7":                                          "redis://[fe80::1%25eth0]:7/0",
		"redis://h/1?prefix=x%3A":                                             "redis://h:6379/1?prefix=x%3A",
		"redis://h/1?prefix=idemq:":                                           "redis://h:6379/1",
		"rediss://h?skip_verify=true&tls_server_name=redis.example":           "rediss://h:6379/0",
		"unix://user:secret@/run/redis.sock?db=2":                             "unix:///run/redis.sock?db=2",
		"unix:///run/a%20b%3Fc.sock?prefix=x%3A":                              "unix:///run/a%20b%3Fc.sock?db=0&prefix=x%3A",
		"redis+sentinel://user:secret@b:2,a:1,b:2/mymaster":                   "redis+sentinel://a:1,b:2/mymaster/0",
		"redis+sentinel://b,a/my%2Fmaster/3/":                                 "redis+sentinel://a:26379,b:26379/my%2Fmaster/3",
		"rediss+sentinel://[::1]:5,a/m?sentinel_password=secret&max_retries=": "rediss+sentinel://[::1]:5,a:26379/m/0",
		"redis+sentinel://a/m?sentinel_user=u&sentinel_password=secret&db=4":  "redis+sentinel://a:26379/m/4",
		"redis+cluster://user:secret@b:1,a?max_redirects=5":                   "redis+cluster://a:6379,b:1",
		"rediss+cluster://b:1/?prefix=p":                                      "rediss+cluster://b:1?prefix=p",
		"redis+cluster://b:1?addr=a:2":                                        "redis+cluster://a:2,b:1",
	} {
		s := openURL(t, address)
		require.Equal(t, want, s.Describe(), address)
		require.Equal(t, want, openURL(t, want).Describe())
	}
	for _, rdb := range []redis.UniversalClient{
		redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"b:2", "a:1"}, Password: "secret"}),
		redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": "b:2", "two": "a:1"}}),
		redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{"a:1"}, DB: 3}),
	} {
		place := redisstore.New(rdb, redisstore.Config{Prefix: "x:"}).Describe()
		require.Contains(t, []string{
			"redis+cluster://a:1,b:2?prefix=x%3A", "redis+ring://a:1,b:2?prefix=x%3A", "redis+sentinel://unknown?prefix=x%3A",
		}, place)
		_, stop, err := redisstore.Open(place, redisstore.Config{})
		if strings.HasPrefix(place, "redis+cluster") {
			require.NoError(t, err)
			require.NoError(t, stop())
		} else {
			require.Error(t, err, "it must not be taken for another place")
		}
		require.NoError(t, rdb.Close())
	}
}

// Numbers with which go-redis would panic, some of them only when it connects.
func TestNumbersThatNoClientTakesAreRefused(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"redis://h?", "unix:///x?", "redis+cluster://h?", "redis+sentinel://h/m?"} {
		for _, name := range []string{"pool_size", "min_idle_conns", "max_idle_conns", "max_active_conns", "pipeline_pool_size"} {
			for _, value := range []string{"-5", "2147483647", "99999999999", "99999999999999999999"} {
				_, _, err := redisstore.Open(base+name+"="+value, redisstore.Config{})
				require.ErrorContains(t, err, name, base)
			}
		}
		openURL(t, base+"pool_size=3&pipeline_pool_size=-1&read_timeout=0")
	}
}

func TestBadAddressesAreRefusedAndNotRepeated(t *testing.T) {
	t.Parallel()
	for bad, why := range map[string]string{
		"":                                       "must look like",
		"secret":                                 "must look like",
		"\x00secret":                             "must look like",
		"http://user:secret@host":                "must look like",
		"redis+ring://user:secret@host":          "must look like",
		"redis://user:secret@host:port:x/0":      "must look like",
		"redis://user:secret@host:port/0":        "must look like",
		"redis://u:secret@h/notanumber":          "must look like",
		"redis://u:secret@h/0/1":                 "must look like",
		"redis://:se%zzcret@h":                   "must look like",
		"redis://u:secret@h,i":                   "redis+cluster://",
		"unix://u:secret@h/run/x":                "must look like",
		"unix://u:secret@":                       "must look like",
		"redis://:1/secret@h/0":                  "percent-encoded",
		"redis://:1?secret@h/0":                  "percent-encoded",
		"redis://:1#secret@h/0":                  "percent-encoded",
		"redis://h?tls=se%zzcret":                "percent-encoded",
		"redis://u:secret@h?colour=secret":       `"colour"`,
		"redis://u:secret@h?pool_size=secret":    `"pool_size"`,
		"redis://u:secret@h?skip_verify=true":    `"skip_verify"`,
		"redis://u:secret@h?password=secret":     "parameter password",
		"redis://u:secret@h?tls_ca=/secret":      "rediss",
		"rediss://u:secret@h?tls_ca=/none":       "tls_ca",
		"rediss://u:secret@h?tls_cert=/none":     "tls_key",
		"redis://u:secret@h?sentinel_user=x":     `"sentinel_user"`,
		"redis+sentinel://u:secret@/m":           "must look like",
		"redis+sentinel://u:secret@a:1,/m":       "must look like",
		"redis+sentinel://u:secret@a:1":          "must look like",
		"redis+sentinel://u:secret@a:1/m/x":      "must look like",
		"redis+sentinel://u:secret@a:1/m/0/1":    "must look like",
		"redis+sentinel://u:secret@a:1/m?x=1":    `"x"`,
		"redis+sentinel://u:secret@a:1,b:c/m":    "must look like",
		"redis+sentinel://a/m?master_name=m":     "parameter master_name",
		"redis+sentinel://a/m?replica_only=1":    "parameter replica_only",
		"redis+sentinel://a/m?route_randomly=1":  "parameter route_randomly",
		"redis+cluster://u:secret@":              "must look like",
		"redis+cluster://u:secret@a:1/3":         "must look like",
		"redis+cluster://u:secret@a:1?db=3":      `"db"`,
		"redis+cluster://u:secret@a:1?addr=b":    `"addr"`,
		"redis+cluster://u:secret@a?read_only=1": "parameter read_only",
		"rediss+cluster://a?skip_verify=true":    `"skip_verify"`,
	} {
		_, _, err := redisstore.Open(bad, redisstore.Config{})
		require.ErrorContains(t, err, why, "%q", bad)
		require.NotContains(t, err.Error(), "cret", bad)
		require.NotContains(t, err.Error(), "\x00")
	}
	_, _, err := redisstore.Open("redis://h?prefix=a", redisstore.Config{Prefix: "b"})
	require.ErrorContains(t, err, "prefix")
	for _, opt := range []*redis.FailoverOptions{
		nil, {MasterName: "m"}, {SentinelAddrs: []string{"a:1"}}, {MasterName: "m", SentinelAddrs: []string{"a:1"}, ReplicaOnly: true},
	} {
		_, _, err := redisstore.OpenSentinel(opt, redisstore.Config{})
		require.Error(t, err)
	}
}

// What go-redis and the address say about a client arrives there.
func TestAddressesSetTheClient(t *testing.T) {
	t.Parallel()
	certs := testserver.NewCertificates(t)
	tls := "&tls_ca=" + url.QueryEscape(certs.CA) + "&tls_cert=" + certs.ClientCert + "&tls_key=" + certs.ClientKey
	u := func(address string) redis.UniversalClient { return redisstore.ClientOf(openURL(t, address)) }

	one := u("rediss://us%40er:p%3Aw@h:1/2?pool_size=7" + tls).(*redis.Client).Options()
	assert.Equal(t, []any{"us@er", "p:w", 2, 7, true, "h"}, []any{one.Username, one.Password, one.DB, one.PoolSize, one.ContextTimeoutEnabled, one.TLSConfig.ServerName})
	assert.NotNil(t, one.TLSConfig.RootCAs)
	assert.Len(t, one.TLSConfig.Certificates, 1)

	many := u("rediss+cluster://u:p@h:1,i:2?read_timeout=2s" + tls).(*redis.ClusterClient).Options()
	assert.Equal(t, []any{"u", "p", 2 * time.Second, true, ""}, []any{many.Username, many.Password, many.ReadTimeout, many.ContextTimeoutEnabled, many.TLSConfig.ServerName})
	assert.Len(t, many.TLSConfig.Certificates, 1)

	follow := u("rediss+sentinel://u:p@h:1,i:2/m/3?sentinel_user=x&tls_server_name=name&client_name=c" + tls).(*redis.Client).Options()
	assert.Equal(t, []any{"u", "p", 3, "c", true, "name"}, []any{follow.Username, follow.Password, follow.DB, follow.ClientName, follow.ContextTimeoutEnabled, follow.TLSConfig.ServerName})
	assert.NotNil(t, follow.TLSConfig.RootCAs)

	junk := filepath.Join(t.TempDir(), "junk.pem")
	require.NoError(t, os.WriteFile(junk, []byte("no certificate"), 0o600))
	for _, query := range []string{"tls_ca=" + junk, "tls_cert=" + junk + "&tls_key=" + junk} {
		_, _, err := redisstore.Open("rediss://u:secret@h?"+query, redisstore.Config{})
		require.ErrorContains(t, err, "tls_")
	}
}

// life shows that a store works, and that its description leads to the same records if credentials are added.
func life(t *testing.T, s *redisstore.Store, again func(place string) string) {
	t.Helper()
	ctx := testContext(t)
	require.NoError(t, s.Ping(ctx))
	c := claimOf(t.Name(), "n1")
	r := acquire(t, s, c, dedup.Granted)
	require.NoError(t, s.Settle(ctx, holdOf(r), consumed))
	place := s.Describe()
	other := openURL(t, again(place))
	require.Equal(t, place, other.Describe())
	acquire(t, other, c, dedup.Duplicate)
}

func asIs(place string) string { return place }

// with adds a user and parameters to a description.
func with(user, query string) func(string) string {
	return func(place string) string {
		sep := "?"
		if strings.Contains(place, "?") {
			sep = "&"
		}
		return strings.Replace(place, "://", "://"+user, 1) + sep + query
	}
}

func TestEveryKindOfAddressOpensAServer(t *testing.T) {
	t.Parallel()
	t.Run("ACL user", func(t *testing.T) {
		t.Parallel()
		server := testserver.PrivateRedis(t)
		address := server.AddUser(t, "worker", "p@s/s?:", "~x:*", "+@all") + "?prefix=x%3A"
		life(t, openURL(t, address), func(place string) string {
			return strings.Replace(address, "prefix=x%3A", "", 1) + place[strings.Index(place, "prefix="):]
		})
		_, _, err := openURL(t, server.AddUser(t, "worker", "other")+"?prefix=y%3A").Acquire(testContext(t), claimOf("k", "n1"))
		require.Error(t, err)
		require.NotContains(t, err.Error(), "p@s")
	})
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		server := testserver.PrivateRedisTLS(t)
		ca := "tls_ca=" + url.QueryEscape(server.CA)
		client := "&tls_cert=" + url.QueryEscape(server.ClientCert) + "&tls_key=" + url.QueryEscape(server.ClientKey)
		life(t, openURL(t, "rediss://"+server.TLSAddr()+"?"+ca+client), with("", ca+client))
		for _, query := range []string{"", ca, client[1:], ca + client + "&tls_server_name=elsewhere.example"} {
			require.Error(t, openURL(t, "rediss://"+server.TLSAddr()+"?"+query).Ping(testContext(t)), query)
		}
		require.NoError(t, openURL(t, "rediss://"+server.TLSAddr()+"?skip_verify=true"+client).Ping(testContext(t)))
	})
	t.Run("TLS Cluster", func(t *testing.T) {
		t.Parallel()
		server := testserver.PrivateRedisTLS(t, "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1", "--tls-cluster", "yes", "--tls-auth-clients", "no")
		require.NoError(t, server.Client(t).ClusterAddSlotsRange(testContext(t), 0, 16383).Err())
		ca := "tls_ca=" + url.QueryEscape(server.CA)
		s := openURL(t, "rediss+cluster://"+server.TLSAddr()+"?"+ca)
		require.Eventually(t, func() bool { _, _, err := s.Acquire(testContext(t), claimOf("ready", "n1")); return err == nil }, time.Minute, 50*time.Millisecond)
		life(t, s, with("", ca))
	})
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		life(t, openURL(t, "redis+cluster://"+strings.Join(testserver.RedisCluster(t).Addrs(), ",")), asIs)
	})
	t.Run("Sentinel", func(t *testing.T) {
		t.Parallel()
		g := testserver.RedisSentinel(t, testserver.SentinelConfig{Password: "s@cret", SentinelUser: "ops", SentinelPassword: "ops?cret"})
		query := "sentinel_user=ops&sentinel_password=" + url.QueryEscape("ops?cret")
		address := "redis+sentinel://:s%40cret@" + strings.Join(g.SentinelAddrs(), ",") + "/" + g.MasterName() + "/1"
		life(t, openURL(t, address+"?"+query), with(":s%40cret@", query))
		err := openURL(t, strings.Replace(address, g.MasterName(), "other", 1)+"?"+query).Ping(testContext(t))
		require.ErrorContains(t, err, g.SentinelAddrs()[0])
		require.ErrorContains(t, err, "/other/1")
		require.NotContains(t, err.Error(), "cret")
	})
}

// A Cluster of which one master is gone does not answer as a whole.
func TestPingNamesTheMasterThatIsGone(t *testing.T) {
	t.Parallel()
	c := testserver.RedisCluster(t)
	s := redisstore.New(c.Client(t), redisstore.Config{})
	require.NoError(t, s.Ping(testContext(t)))
	c.Masters()[2].Kill()
	require.ErrorContains(t, s.Ping(testContext(t)), "master "+c.Addrs()[2])
}
