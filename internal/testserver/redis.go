package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Source says where a Redis server comes from.
type Source string

// The sources, in the order in which [Redis] tries them.
const (
	SourceURL    Source = "url"    // IDEMQ_TEST_REDIS_URL
	SourceDocker Source = "docker" // a container
	SourceBinary Source = "binary" // redis-server on PATH
)

const (
	// urlAnswerLimit bounds the wait for a server that ought to be there.
	urlAnswerLimit = 2 * time.Second

	// answerPause lies between two questions to servers that do not answer yet.
	answerPause = 50 * time.Millisecond
)

// errNoRedis means that no source has a server; its text says why for each.
var errNoRedis = errors.New("no Redis")

// RedisServer is a Redis server that all tests of the process share.
type RedisServer struct {
	url    string
	source Source
}

// URL is the server's redis:// address, as [redis.ParseURL] takes it.
func (s *RedisServer) URL() string { return s.url }

// Source says where the server came from.
func (s *RedisServer) Source() Source { return s.source }

// Client returns a client of the server that is closed when the test ends. The
// server is shared, with other processes too if it came from a URL: use keys
// that no other test uses, and never empty it.
func (s *RedisServer) Client(t testing.TB) *redis.Client {
	t.Helper()
	return newRedisClient(t, s.url)
}

// Redis returns the Redis server that all tests of this process share, found or
// started by the first that asks and stopped by [Main]. The package comment says
// where it looks. Without one the test is skipped, or fails if Redis is required.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	current.mustBeEntered(t)
	s, err := openSharedRedis()
	if errors.Is(err, errNoRedis) {
		skip(t, "redis", "redis", err.Error())
	}
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	return s
}

var openSharedRedis = sync.OnceValues(func() (*RedisServer, error) {
	s, stop, err := openRedis(redisSettingsFromEnv())
	if stop != nil {
		current.atExit(stop)
	}
	return s, err
})

// redisSettings is what the environment says about Redis.
type redisSettings struct {
	url           string
	image         string
	only          Source // empty for any
	requireDocker bool
	run           string
}

func redisSettingsFromEnv() redisSettings {
	s := redisSettings{
		url:           os.Getenv(envRedisURL),
		image:         os.Getenv(envRedisImage),
		only:          Source(os.Getenv(envRedisSource)),
		requireDocker: required("docker"),
		run:           os.Getenv(envRun),
	}
	if s.image == "" {
		s.image = DefaultRedisImage
	}
	return s
}

// openRedis tries the sources that set allows. The function it returns stops
// what was started; it is nil if there is nothing to stop.
func openRedis(set redisSettings) (*RedisServer, func() error, error) {
	switch set.only {
	case "", SourceURL, SourceDocker, SourceBinary:
	default:
		return nil, nil, fmt.Errorf("%s=%q: want url, docker or binary", envRedisSource, set.only)
	}
	allowed := func(s Source) bool { return set.only == "" || set.only == s }
	var missing []string

	if allowed(SourceURL) {
		if set.url != "" {
			if _, err := firstToAnswer(context.Background(), urlAnswerLimit, set.url); err != nil {
				return nil, nil, fmt.Errorf("the server of %s does not answer: %w", envRedisURL, err)
			}
			return &RedisServer{url: set.url, source: SourceURL}, nil, nil
		}
		missing = append(missing, "no "+envRedisURL)
	}
	if allowed(SourceDocker) {
		url, stop, err := startRedisContainer(set)
		if err == nil {
			return &RedisServer{url: url, source: SourceDocker}, stop, nil
		}
		if set.requireDocker {
			return nil, nil, fmt.Errorf("docker is required by %s: %w", envRequire, err)
		}
		missing = append(missing, err.Error())
	}
	if allowed(SourceBinary) {
		url, stop, err := startSharedRedisBinary()
		if err == nil {
			return &RedisServer{url: url, source: SourceBinary}, stop, nil
		}
		if !errors.Is(err, errNoBinary) {
			return nil, nil, err
		}
		missing = append(missing, err.Error())
	}
	if set.only != "" {
		return nil, nil, fmt.Errorf("%s allows only %q: %s", envRedisSource, set.only, strings.Join(missing, "; "))
	}
	return nil, nil, fmt.Errorf("%w: %s", errNoRedis, strings.Join(missing, "; "))
}

func newRedisClient(t testing.TB, url string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(url)
	if err != nil {
		t.Fatalf("testserver: parse the Redis URL: %v", err)
	}
	client := redis.NewClient(opts)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// firstToAnswer asks the Redis servers at urls in turn and returns the URL of the
// first that answers, or the last error when the limit is over.
func firstToAnswer(ctx context.Context, limit time.Duration, urls ...string) (string, error) {
	return firstThat(ctx, limit, ping, urls)
}

// firstThat is firstToAnswer for any kind of server.
func firstThat(ctx context.Context, limit time.Duration, ping func(context.Context, string) error, urls []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	again := time.NewTicker(answerPause)
	defer again.Stop()
	for {
		var err error
		for _, url := range urls {
			if err = ping(ctx, url); err == nil {
				return url, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-again.C:
		}
	}
}

// ping uses a client of its own: one that has failed often starts to dial in the
// background and goes on for a second after it is closed.
func ping(ctx context.Context, url string) error {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	opts.MaxRetries, opts.DialerRetries = -1, 1 // the caller tries again
	opts.DialTimeout, opts.ReadTimeout = time.Second, time.Second
	client := redis.NewClient(opts)
	defer func() { _ = client.Close() }()
	return client.Ping(ctx).Err()
}
