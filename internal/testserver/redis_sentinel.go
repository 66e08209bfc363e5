package testserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	sentinels      = 3
	sentinelQuorum = 2

	// sentinelReadyLine is what a sentinel prints once it works.
	sentinelReadyLine = "Sentinel ID is"

	// failoverTimeout is after how long a failover that got stuck is given up; the
	// next try comes after twice that.
	failoverTimeout = 3 * time.Second

	// failoverLimit bounds the wait for a new master, stuck failovers included.
	failoverLimit = 90 * time.Second
)

// SentinelConfig says what [RedisSentinel] starts. Its zero value is safe.
type SentinelConfig struct {
	// Replicas of the master. Defaults to 1.
	Replicas int
	// DownAfter is for how long a server must be silent until a sentinel takes it
	// for dead. Defaults to 30 s, so that a busy machine causes no failover by
	// itself; a test of failovers wants about a second.
	DownAfter time.Duration
	// Flags go to each redis-server.
	Flags []string
	// Password of the servers. Defaults to none.
	Password string
	// SentinelUser and SentinelPassword are what the sentinels demand. Default to
	// nothing.
	SentinelUser, SentinelPassword string
}

// SentinelGroup is a master, its replicas and three sentinels of one test's own.
type SentinelGroup struct {
	name    string
	cfg     SentinelConfig
	servers []*PrivateRedisServer
	addrs   []string // of the sentinels
}

// RedisSentinel starts a master with replicas and three sentinels, all of them
// processes of the redis-server from PATH, and stops them when the test ends. It
// returns when every sentinel knows the others and the replicas, and the replicas
// have what the master has. Without a binary the test is skipped, or fails if
// Redis is required.
func RedisSentinel(t testing.TB, cfg SentinelConfig) *SentinelGroup {
	t.Helper()
	if cfg.Replicas == 0 {
		cfg.Replicas = 1
	}
	if cfg.DownAfter == 0 {
		cfg.DownAfter = 30 * time.Second
	}
	g := &SentinelGroup{name: "testgroup", cfg: cfg}
	flags := append([]string{"--repl-diskless-sync-delay", "0"}, cfg.Flags...)
	if cfg.Password != "" {
		flags = append(flags, "--requirepass", cfg.Password, "--masterauth", cfg.Password)
	}
	master := PrivateRedis(t, flags...)
	g.servers = append(g.servers, master)
	host, port, err := net.SplitHostPort(master.Addr())
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	for range cfg.Replicas {
		g.servers = append(g.servers, PrivateRedis(t, append(flags, "--replicaof", host+" "+port)...))
	}
	ctx, cancel := context.WithTimeout(t.Context(), formLimit)
	defer cancel()
	if err := until(ctx, func() error { return g.replicated(ctx, master) }); err != nil {
		t.Fatalf("testserver: wait for the replicas: %v", err)
	}
	for range sentinels {
		g.startSentinel(t, host, port)
	}
	for _, addr := range g.addrs {
		if err := until(ctx, func() error { return g.complete(ctx, addr) }); err != nil {
			t.Fatalf("testserver: wait for the sentinels: %v", err)
		}
	}
	return g
}

// startSentinel starts a sentinel, which keeps what it learns in its own
// configuration file.
func (g *SentinelGroup) startSentinel(t testing.TB, host, port string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "sentinel.conf")
	lines := []string{
		"bind 127.0.0.1", "protected-mode no", "dir " + strconv.Quote(dir),
		fmt.Sprintf("sentinel monitor %s %s %s %d", g.name, host, port, sentinelQuorum),
		fmt.Sprintf("sentinel down-after-milliseconds %s %d", g.name, g.cfg.DownAfter.Milliseconds()),
		fmt.Sprintf("sentinel failover-timeout %s %d", g.name, failoverTimeout.Milliseconds()),
	}
	if g.cfg.Password != "" {
		lines = append(lines, fmt.Sprintf("sentinel auth-pass %s %s", g.name, g.cfg.Password))
	}
	if g.cfg.SentinelUser != "" {
		lines = append(lines, "user default off",
			fmt.Sprintf("user %s on >%s ~* &* +@all", g.cfg.SentinelUser, g.cfg.SentinelPassword),
			"sentinel sentinel-user "+g.cfg.SentinelUser, "sentinel sentinel-pass "+g.cfg.SentinelPassword)
	}
	p, own, err := onFreePort(func(port int) (*child, error) {
		text := strings.Join(append(lines, "port "+strconv.Itoa(port)), "\n") + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return startRedisProcess(sentinelReadyLine, []string{file, "--sentinel"})
	})
	if err != nil {
		t.Fatalf("testserver: start a sentinel: %v", err)
	}
	t.Cleanup(p.stop)
	g.addrs = append(g.addrs, redisAddr(own))
}

// replicated has no error once the master has all its replicas, up to date.
func (g *SentinelGroup) replicated(ctx context.Context, master *PrivateRedisServer) error {
	rdb := redis.NewClient(&redis.Options{Addr: master.Addr(), Password: g.cfg.Password})
	defer func() { _ = rdb.Close() }()
	info, err := rdb.Info(ctx, "replication").Result()
	if err != nil {
		return err
	}
	if n := strings.Count(info, "state=online"); n != g.cfg.Replicas {
		return fmt.Errorf("%d of %d replicas are online", n, g.cfg.Replicas)
	}
	return nil
}

// complete has no error once the sentinel knows everybody and finds them well.
func (g *SentinelGroup) complete(ctx context.Context, sentinel string) error {
	return g.ask(sentinel, func(c *redis.SentinelClient) error {
		m, err := c.Master(ctx, g.name).Result()
		if err != nil {
			return err
		}
		others, replicas, flags := m["num-other-sentinels"], m["num-slaves"], m["flags"]
		if others != strconv.Itoa(sentinels-1) || replicas != strconv.Itoa(g.cfg.Replicas) || flags != "master" {
			return fmt.Errorf("a sentinel knows %s others and %s replicas, and the master as %s", others, replicas, flags)
		}
		_, err = c.CkQuorum(ctx, g.name).Result()
		return err
	})
}

// ask calls f with a client of one sentinel.
func (g *SentinelGroup) ask(sentinel string, f func(*redis.SentinelClient) error) error {
	c := redis.NewSentinelClient(&redis.Options{
		Addr: sentinel, Username: g.cfg.SentinelUser, Password: g.cfg.SentinelPassword, MaxRetries: -1, DialerRetries: 1,
	})
	defer func() { _ = c.Close() }()
	return f(c)
}

// MasterName is the name by which the sentinels know the group.
func (g *SentinelGroup) MasterName() string { return g.name }

// SentinelAddrs are the hosts and ports of the sentinels.
func (g *SentinelGroup) SentinelAddrs() []string { return g.addrs }

// Options are what a client needs. It keeps to the deadlines of contexts.
func (g *SentinelGroup) Options() *redis.FailoverOptions {
	return &redis.FailoverOptions{
		MasterName: g.name, SentinelAddrs: g.addrs, Password: g.cfg.Password, ContextTimeoutEnabled: true,
		SentinelUsername: g.cfg.SentinelUser, SentinelPassword: g.cfg.SentinelPassword,
	}
}

// Client returns a client that follows the master and is closed when the test
// ends.
func (g *SentinelGroup) Client(t testing.TB) *redis.Client {
	t.Helper()
	rdb := redis.NewFailoverClient(g.Options())
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Master returns the server that the sentinels hold for the master.
func (g *SentinelGroup) Master(t testing.TB) *PrivateRedisServer {
	t.Helper()
	m, err := g.master(t.Context(), g.addrs[0])
	if err != nil {
		t.Fatalf("testserver: ask a sentinel for the master: %v", err)
	}
	return m
}

func (g *SentinelGroup) master(ctx context.Context, sentinel string) (*PrivateRedisServer, error) {
	var addr string
	err := g.ask(sentinel, func(c *redis.SentinelClient) error {
		pair, err := c.GetMasterAddrByName(ctx, g.name).Result()
		if err == nil {
			addr = net.JoinHostPort(pair[0], pair[1])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, s := range g.servers {
		if s.Addr() == addr {
			return s, nil
		}
	}
	return nil, fmt.Errorf("the master %s is none of ours", addr)
}

// Failover asks a sentinel to promote a replica although the master is well. It
// does not wait for it.
func (g *SentinelGroup) Failover(t testing.TB) {
	t.Helper()
	err := g.ask(g.addrs[0], func(c *redis.SentinelClient) error { return c.Failover(t.Context(), g.name).Err() })
	if err != nil {
		t.Fatalf("testserver: ask a sentinel for a failover: %v", err)
	}
}

// KillMaster ends the master as a crash would and returns it.
func (g *SentinelGroup) KillMaster(t testing.TB) *PrivateRedisServer {
	t.Helper()
	m := g.Master(t)
	m.Kill()
	return m
}

// SuspendMaster stops the master without ending it and returns it: connections
// stay open and nobody is answered until it is resumed.
func (g *SentinelGroup) SuspendMaster(t testing.TB) *PrivateRedisServer {
	t.Helper()
	m := g.Master(t)
	m.Suspend(t)
	return m
}

// errSameMaster means that a failover is not over yet.
var errSameMaster = errors.New("the master is still the same")

// WaitForNewMaster returns the master once all sentinels hold another server for
// it than old and that server takes writes.
func (g *SentinelGroup) WaitForNewMaster(t testing.TB, old *PrivateRedisServer) *PrivateRedisServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), failoverLimit)
	defer cancel()
	var now *PrivateRedisServer
	err := until(ctx, func() error {
		for _, addr := range g.addrs {
			m, err := g.master(ctx, addr)
			if err != nil {
				return err
			}
			if m == old {
				return errSameMaster
			}
			now = m
		}
		rdb := redis.NewClient(&redis.Options{Addr: now.Addr(), Password: g.cfg.Password, MaxRetries: -1, DialerRetries: 1})
		defer func() { _ = rdb.Close() }()
		return rdb.Set(ctx, "testserver:master", now.Addr(), 0).Err()
	})
	if err != nil {
		t.Fatalf("testserver: wait for a new master: %v", err)
	}
	return now
}
