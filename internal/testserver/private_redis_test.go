package testserver

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPrivateRedisStopsAndStarts(t *testing.T) {
	s := PrivateRedis(t)
	url := s.URL()
	client := s.Client(t)
	ctx := testContext(t)
	require.NoError(t, client.Set(ctx, "k", "v", 0).Err())

	s.Stop()
	s.Stop() // a stopped server stays stopped
	require.Error(t, client.Ping(ctx).Err())

	s.Start(t)
	assert.Equal(t, url, s.URL())
	assert.ErrorIs(t, client.Get(ctx, "k").Err(), redis.Nil, "nothing is kept on disk")
	assert.True(t, runs(t, func(t testing.TB) { s.Start(t) }).Failed(), "a running server cannot be started")

	s.Restart(t)
	require.NoError(t, client.Ping(ctx).Err())
}

func TestPrivateRedisKeepsWhatItsFlagsSay(t *testing.T) {
	s := PrivateRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	client := s.Client(t)
	ctx := testContext(t)
	require.NoError(t, client.Set(ctx, "k", "v", 0).Err())
	s.Kill()
	s.Start(t)
	assert.Equal(t, "v", client.Get(ctx, "k").Val())
}

func TestPrivateRedisIsSuspended(t *testing.T) {
	s := PrivateRedis(t)
	opts, err := redis.ParseURL(s.URL())
	require.NoError(t, err)
	opts.ContextTimeoutEnabled = true
	client := redis.NewClient(opts)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Ping(testContext(t)).Err())

	s.Suspend(t)
	silent, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.Error(t, client.Ping(silent).Err(), "a suspended server answers nobody")

	s.Resume(t)
	require.NoError(t, client.Ping(testContext(t)).Err())
	s.Suspend(t) // and is stopped while suspended
	s.Stop()
	assert.True(t, runs(t, func(t testing.TB) { s.Resume(t) }).Failed())
}
