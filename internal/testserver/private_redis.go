package testserver

import (
	"errors"
	"net/url"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// PrivateRedisServer is a redis-server process of one test's own, for tests of
// outages. Its methods may be called from several goroutines.
type PrivateRedisServer struct {
	dir   string
	port  int
	flags []string

	mu      sync.Mutex
	process *child // nil while stopped
}

// PrivateRedis starts a redis-server from PATH on a free port of the loopback
// interface and stops it when the test ends. It keeps nothing on disk unless
// flags say otherwise: PrivateRedis(t, "--appendonly", "yes", "--appendfsync",
// "always") survives Kill and Start. Without a binary the test is skipped, or
// fails if Redis is required.
func PrivateRedis(t testing.TB, flags ...string) *PrivateRedisServer {
	t.Helper()
	return privateRedis(t, func() ([]string, error) { return flags, nil })
}

// privateRedis asks for the flags at each attempt to start, because they may name
// more ports that others can take meanwhile.
func privateRedis(t testing.TB, flags func() ([]string, error)) *PrivateRedisServer {
	t.Helper()
	s := &PrivateRedisServer{dir: t.TempDir()}
	p, port, err := onFreePort(func(port int) (_ *child, err error) {
		if s.flags, err = flags(); err != nil {
			return nil, err
		}
		return startRedis(s.dir, port, s.flags)
	})
	if errors.Is(err, errNoBinary) {
		skip(t, "private redis", "redis", err.Error())
	}
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	s.process, s.port = p, port
	t.Cleanup(s.Stop)
	return s
}

// Addr is the server's host and port. It stays the same over restarts.
func (s *PrivateRedisServer) Addr() string { return redisAddr(s.port) }

// URL is the server's redis:// address. It stays the same over restarts.
func (s *PrivateRedisServer) URL() string { return redisURL(s.port) }

// AddUser makes an ACL user with the rules, such as "~*", "+@all", "-config", and
// returns the URL with which a client is that user.
func (s *PrivateRedisServer) AddUser(t testing.TB, name, password string, rules ...string) string {
	t.Helper()
	rules = append([]string{"reset", "on", ">" + password}, rules...)
	if err := s.Client(t).ACLSetUser(t.Context(), name, rules...).Err(); err != nil {
		t.Fatalf("testserver: make the Redis user %s: %v", name, err)
	}
	u := url.URL{Scheme: "redis", User: url.UserPassword(name, password), Host: s.Addr(), Path: "/0"}
	return u.String()
}

// Client returns a client of the server that is closed when the test ends.
func (s *PrivateRedisServer) Client(t testing.TB) *redis.Client {
	t.Helper()
	return newRedisClient(t, s.URL())
}

// Stop shuts the server down in good order and returns when it is gone. A
// stopped server stays as it is.
func (s *PrivateRedisServer) Stop() { s.end((*child).stop) }

// Kill ends the server as a crash would and returns when it is gone. A stopped
// server stays as it is.
func (s *PrivateRedisServer) Kill() { s.end((*child).kill) }

func (s *PrivateRedisServer) end(how func(*child)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		how(s.process)
		s.process = nil
	}
}

// Start starts a stopped server again on the same port, with what it has kept on
// disk, and returns when it accepts connections.
func (s *PrivateRedisServer) Start(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		t.Fatal("testserver: the private Redis server is running already")
	}
	p, err := startRedis(s.dir, s.port, s.flags)
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	s.process = p
}

// Restart stops the server in good order and starts it again on the same port.
func (s *PrivateRedisServer) Restart(t testing.TB) {
	t.Helper()
	s.Stop()
	s.Start(t)
}

// Suspend stops the server without ending it: connections stay open and nobody
// is answered until [PrivateRedisServer.Resume].
func (s *PrivateRedisServer) Suspend(t testing.TB) {
	t.Helper()
	s.signal(t, func(p *child) error { return suspend(p.cmd.Process) })
}

// Resume lets a suspended server go on.
func (s *PrivateRedisServer) Resume(t testing.TB) {
	t.Helper()
	s.signal(t, func(p *child) error { return resume(p.cmd.Process) })
}

func (s *PrivateRedisServer) signal(t testing.TB, send func(*child) error) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		t.Fatal("testserver: the private Redis server is stopped")
	}
	if err := send(s.process); err != nil {
		t.Fatalf("testserver: signal redis-server: %v", err)
	}
}
