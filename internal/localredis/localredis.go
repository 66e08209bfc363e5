// Package localredis starts a Redis server for a program that was given none.
package localredis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/internal/child"
)

const (
	loopback = "127.0.0.1"
	tries    = 3 // a free port can be taken by somebody else before the server has it
	limit    = 20 * time.Second
	poll     = 20 * time.Millisecond
)

// ErrNone says that there is no redis-server on PATH.
var ErrNone = errors.New("there is no redis-server on PATH")

// Start starts a redis-server from PATH on a free loopback port, with its files in dir: none, unless appendOnly asks for
// the log that is written every second. It dies with this process where the system can do that. The error wraps [ErrNone],
// or says that the server does not answer within 20 s.
func Start(ctx context.Context, dir string, appendOnly bool) (p *child.Process, url string, err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, "", ErrNone
	}
	for range tries {
		if p, url, err = once(ctx, path, dir, appendOnly); err == nil || ctx.Err() != nil {
			break
		}
	}
	return p, url, err
}

func once(ctx context.Context, path, dir string, appendOnly bool) (*child.Process, string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return nil, "", err
	}
	host := l.Addr().String()
	_, port, _ := net.SplitHostPort(host)
	_ = l.Close()
	aof := map[bool]string{false: "no", true: "yes"}[appendOnly]
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "--port", port, "--bind", loopback, "--save", "", "--appendonly", aof,
		"--appendfsync", "everysec", "--dir", dir, "--maxmemory-policy", "noeviction") // it stays when the start is over
	p, err := child.Start(cmd, true)
	if err != nil {
		return nil, "", err
	}
	rdb := redis.NewClient(&redis.Options{Addr: host})
	defer func() { _ = rdb.Close() }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		// Whoever answers on this port must be the server that was started.
		if info, err := rdb.Info(ctx, "server").Result(); err == nil && strings.Contains(info, fmt.Sprintf("process_id:%d\r", p.Cmd.Process.Pid)) {
			return p, "redis://" + host, nil
		}
		select {
		case <-p.Ended:
			return nil, "", errors.New("redis-server does not start")
		case <-ctx.Done():
			p.Kill()
			return nil, "", fmt.Errorf("redis-server does not answer: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}
