package testserver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRedisAnswersAndIsShared(t *testing.T) {
	s := Redis(t)
	assert.Same(t, s, Redis(t))
	ctx := testContext(t)
	client := s.Client(t)
	require.NoError(t, client.Set(ctx, "testserver:"+t.Name(), "1", 0).Err())
	require.NoError(t, client.Del(ctx, "testserver:"+t.Name()).Err())
	if s.Source() == SourceURL {
		return // its settings are somebody else's choice
	}
	policy, err := client.ConfigGet(ctx, "maxmemory-policy").Result()
	require.NoError(t, err)
	assert.Equal(t, "noeviction", policy["maxmemory-policy"])
}

// open opens Redis and stops it with the test.
func open(t *testing.T, set redisSettings) (*RedisServer, error) {
	t.Helper()
	s, stop, err := openRedis(set)
	if stop != nil {
		t.Cleanup(func() { assert.NoError(t, stop()) })
	}
	return s, err
}

// withoutDocker hides every engine from the test.
func withoutDocker(t *testing.T) {
	t.Helper()
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none.sock"))
}

func needBinary(t *testing.T) {
	t.Helper()
	if _, err := redisBinary(); err != nil {
		skip(t, "redis binary", "redis", err.Error())
	}
}

func TestRedisFromAURL(t *testing.T) {
	server := PrivateRedis(t)
	set := redisSettings{url: server.URL()}
	s, err := open(t, set)
	require.NoError(t, err)
	assert.Equal(t, SourceURL, s.Source())
	assert.Equal(t, server.URL(), s.URL())
}

func TestRedisURLThatDoesNotAnswerIsAFailure(t *testing.T) {
	server := PrivateRedis(t)
	server.Stop()
	_, err := open(t, redisSettings{url: server.URL()})
	require.ErrorContains(t, err, envRedisURL)
	assert.NotErrorIs(t, err, errNoRedis, "what was asked for must not be skipped")
}

func TestRedisFromABinaryWhereThereIsNoDocker(t *testing.T) {
	needBinary(t)
	withoutDocker(t)
	s, err := open(t, redisSettings{image: DefaultRedisImage})
	require.NoError(t, err)
	assert.Equal(t, SourceBinary, s.Source())
	require.NoError(t, s.Client(t).Ping(testContext(t)).Err())
}

func TestRedisFromABinaryWhereTheImageCannotBeHad(t *testing.T) {
	needBinary(t)
	s, err := open(t, redisSettings{image: "localhost:1/idemq/none:0"})
	require.NoError(t, err)
	assert.Equal(t, SourceBinary, s.Source())
}

func TestRedisFromDocker(t *testing.T) {
	set := redisSettingsFromEnv()
	if set.only == SourceBinary || set.only == SourceURL {
		t.Skipf("%s excludes Docker", envRedisSource)
	}
	set.only = SourceDocker
	s, err := open(t, set)
	if err != nil {
		skip(t, "docker", "docker", err.Error())
	}
	assert.Equal(t, SourceDocker, s.Source())
	require.NoError(t, s.Client(t).Ping(testContext(t)).Err())
}

func TestRedisFromNowhere(t *testing.T) {
	withoutDocker(t)
	t.Setenv("PATH", t.TempDir())
	_, err := open(t, redisSettings{image: DefaultRedisImage})
	require.ErrorIs(t, err, errNoRedis)
	for _, reason := range []string{envRedisURL, "Docker", "redis-server"} {
		assert.ErrorContains(t, err, reason)
	}
}

func TestRedisSourcesThatAreDemandedAreNotSkipped(t *testing.T) {
	withoutDocker(t)
	t.Setenv("PATH", t.TempDir())
	for _, set := range []redisSettings{
		{only: SourceURL},
		{only: SourceDocker},
		{only: SourceBinary},
		{only: "podman"},
		{requireDocker: true},
	} {
		_, err := open(t, set)
		require.Error(t, err)
		assert.NotErrorIs(t, err, errNoRedis, "%+v", set)
	}
}

func TestRedisBinaryThatFailsIsReported(t *testing.T) {
	_, _, err := startRedisOnFreePort(t.TempDir(), []string{"--no-such-directive", "1"})
	if errors.Is(err, errNoBinary) {
		skip(t, "redis binary", "redis", err.Error())
	}
	require.ErrorContains(t, err, "no-such-directive")
}

func TestRedisBinaryThatIsBrokenIsNotMissing(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "redis-server")
	require.NoError(t, os.WriteFile(fake, []byte("#!/bin/sh\nexit 1\n"), 0o755)) //nolint:gosec // it has to run
	t.Setenv("PATH", dir)
	path, err := exec.LookPath("redis-server")
	require.NoError(t, err)
	require.Equal(t, fake, path)
	withoutDocker(t)
	_, err = open(t, redisSettings{})
	require.ErrorContains(t, err, "ended at its start")
	assert.NotErrorIs(t, err, errNoRedis, "a broken binary is not a missing one")
}
