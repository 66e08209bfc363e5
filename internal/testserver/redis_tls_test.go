package testserver

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPrivateRedisSpeaksTLS(t *testing.T) {
	t.Parallel()
	s := PrivateRedisTLS(t)
	ctx := testContext(t)
	ask := func(conf *tls.Config) error {
		rdb := redis.NewClient(&redis.Options{Addr: s.TLSAddr(), TLSConfig: conf, MaxRetries: -1, DialerRetries: 1})
		defer func() { require.NoError(t, rdb.Close()) }()
		return rdb.Ping(ctx).Err()
	}
	pem, err := os.ReadFile(s.CA)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	cert, err := tls.LoadX509KeyPair(s.ClientCert, s.ClientKey)
	require.NoError(t, err)
	require.NoError(t, ask(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
	require.Error(t, ask(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}), "without a client's certificate")
	require.Error(t, ask(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), "nobody knows the authority")
	require.NoError(t, s.Client(t).Ping(ctx).Err())
}

func TestPrivateRedisHasUsers(t *testing.T) {
	t.Parallel()
	s := PrivateRedis(t)
	ctx := testContext(t)
	rdb := newRedisClient(t, s.AddUser(t, "ops", "p@ss", "~*", "+@all", "-config"))
	require.NoError(t, rdb.Set(ctx, "k", "v", 0).Err())
	err := rdb.ConfigGet(ctx, "maxmemory-policy").Err()
	assert.True(t, redis.HasErrorPrefix(err, "NOPERM"), "%v", err)
}
