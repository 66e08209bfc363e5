package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// demoServers gives the demo servers of its own for what was not given, and says in one line which there are.
func (a *app) demoServers(ctx context.Context, dir string, natsGiven bool) (stop func(), err error) {
	stop = func() {}
	natsNote, storeNote := "given", "given"
	if natsGiven {
		if _, err := a.link(); err != nil {
			return nil, err
		}
	} else {
		s, err := startNATS(filepath.Join(dir, "nats"), -1, false)
		if err != nil {
			return nil, err
		}
		stop = func() { s.Shutdown(); s.WaitForShutdown() }
		a.useServer(s.ClientURL())
		natsNote = "embedded"
	}
	if a.store == "" {
		address, stopRedis, err := startRedis(ctx, dir)
		if ctx.Err() != nil {
			stop()
			return nil, fmt.Errorf("the demo was ended before it was done: %w", context.Cause(ctx))
		}
		if err == nil {
			a.store, storeNote = address, "redis-server from PATH, started for this demo"
			stopNATS := stop
			stop = func() { stopRedis(); stopNATS() }
		} else {
			a.store, storeNote = storeKV, "JetStream KV, since "+err.Error()
		}
	}
	fmt.Fprintf(a.notes(), "store: %s (%s); nats: %s (%s)\n", redact(a.store), storeNote, redact(a.nats), natsNote)
	return stop, nil
}

const (
	redisTries = 3 // a free port can be taken by somebody else before the server has it
	redisStart = 3 * time.Second
)

// startRedis starts a redis-server on a free loopback port, with nothing kept on disk. It dies with this process.
func startRedis(ctx context.Context, dir string) (address string, stop func(), err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, errors.New("there is no redis-server on PATH")
	}
	for range redisTries {
		if address, stop, err = startRedisOnce(ctx, path, dir); err == nil || ctx.Err() != nil {
			break
		}
	}
	return address, stop, err
}

func startRedisOnce(ctx context.Context, path, dir string) (address string, stop func(), err error) {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return "", nil, err
	}
	host := l.Addr().String()
	_, port, _ := net.SplitHostPort(host)
	_ = l.Close()
	cmd := exec.Command(path, "--port", port, "--bind", loopback, "--save", "", "--appendonly", "no", "--dir", dir,
		"--maxmemory-policy", "noeviction")
	cmd.SysProcAttr = groupAttributes()
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Kill()
		<-ended
	}
	rdb := redis.NewClient(&redis.Options{Addr: host})
	defer func() { _ = rdb.Close() }()
	ctx, cancel := context.WithTimeout(ctx, redisStart)
	defer cancel()
	for {
		// Whoever answers on this port must be the server that was started.
		if info, err := rdb.Info(ctx, "server").Result(); err == nil && strings.Contains(info, fmt.Sprintf("process_id:%d\r", cmd.Process.Pid)) {
			return "redis://" + host, stop, nil
		}
		select {
		case <-ended:
			return "", nil, errors.New("redis-server does not start")
		case <-ctx.Done():
			stop()
			return "", nil, errors.New("redis-server does not answer")
		case <-time.After(demoPoll):
		}
	}
}
