package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	loopback    = "127.0.0.1"
	serverStart = time.Minute // a busy machine takes long
	redisTries  = 3           // a free port can be taken by somebody else before the server has it
	redisPoll   = 20 * time.Millisecond
)

// servers are what is measured on.
type servers struct {
	natsURL, redisURL string
	nats, redis       *child // nil if they were given
	natsStdin         interface{ Close() error }
	dir               string // data of those that were started
	more              []*child
}

// startServers starts what was not given. The caller stops them, also after an error of something else.
func startServers(ctx context.Context, s settings) (_ *servers, err error) {
	srv := &servers{natsURL: s.nats, redisURL: s.redis}
	defer func() {
		if err != nil {
			err = errors.Join(err, srv.stop())
		}
	}()
	if srv.dir, err = os.MkdirTemp("", "idemq-bench-"); err != nil {
		return nil, err
	}
	if s.redis == "" {
		if srv.redis, srv.redisURL, err = srv.startRedis(ctx, "redis", s.aof); err != nil {
			return nil, err
		}
	}
	if s.nats == "" {
		if err := srv.startNATS(ctx); err != nil {
			return nil, err
		}
	}
	return srv, ctx.Err()
}

// secondRedis starts one more, empty like the first.
func (srv *servers) secondRedis(ctx context.Context, aof bool) (p *child, url string, err error) {
	if p, url, err = srv.startRedis(ctx, "redis-2", aof); err == nil {
		srv.more = append(srv.more, p)
	}
	return p, url, err
}

// stop ends what was started and removes its data.
func (srv *servers) stop() error {
	var errs []error
	if srv.nats != nil {
		errs = append(errs, srv.nats.stop(func() { _ = srv.natsStdin.Close() }))
	}
	for _, p := range append(srv.more, srv.redis) {
		if p != nil {
			errs = append(errs, p.stop(func() { _ = p.cmd.Process.Kill() })) // nothing of it is worth a good end
		}
	}
	if srv.dir != "" {
		errs = append(errs, os.RemoveAll(srv.dir))
	}
	return errors.Join(errs...)
}

// startNATS runs this program once more, as a server, so that it shares no memory and no garbage collector with what is
// measured. It ends when its standard input does, which is when we end, however that happens.
func (srv *servers) startNATS(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, natsCommandName, "--dir", srv.dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	line := make(chan string, 1)
	if srv.nats, err = startChild(cmd, false); err != nil {
		return err
	}
	srv.natsStdin = stdin
	go func() { // ends with the process
		defer close(line)
		if lines := bufio.NewScanner(stdout); lines.Scan() {
			line <- lines.Text()
		}
	}()
	limit := time.NewTimer(serverStart)
	defer limit.Stop()
	select {
	case url, ok := <-line:
		if !ok {
			<-srv.nats.ended
			return fmt.Errorf("the NATS server does not start: %s", strings.TrimSpace(complaint.String()))
		}
		srv.natsURL = url
		return nil
	case <-limit.C:
		return fmt.Errorf("the NATS server was not ready within %v", serverStart)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// startRedis starts a redis-server on a free loopback port, which keeps nothing on disk unless it is to.
func (srv *servers) startRedis(ctx context.Context, folder string, aof bool) (p *child, address string, err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, "", errors.New("there is no redis-server on PATH; install it, or give a server with --redis")
	}
	dir := filepath.Join(srv.dir, folder)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, "", err
	}
	for range redisTries {
		if p, address, err = startRedisOnce(ctx, path, dir, aof); err == nil || ctx.Err() != nil {
			break
		}
	}
	return p, address, err
}

func startRedisOnce(ctx context.Context, path, dir string, aof bool) (*child, string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return nil, "", err
	}
	host := l.Addr().String()
	_, port, _ := net.SplitHostPort(host)
	_ = l.Close()
	appendOnly := "no"
	if aof {
		appendOnly = "yes"
	}
	p, err := startChild(exec.Command(path, "--port", port, "--bind", loopback, "--save", "", "--appendonly", appendOnly,
		"--appendfsync", "everysec", "--dir", dir, "--maxmemory-policy", "noeviction"), true)
	if err != nil {
		return nil, "", err
	}
	rdb := redis.NewClient(&redis.Options{Addr: host})
	defer func() { _ = rdb.Close() }()
	ctx, cancel := context.WithTimeout(ctx, serverStart)
	defer cancel()
	tick := time.NewTicker(redisPoll)
	defer tick.Stop()
	for {
		// Whoever answers on this port must be the server that was started.
		if info, err := rdb.Info(ctx, "server").Result(); err == nil && strings.Contains(info, fmt.Sprintf("process_id:%d\r", p.cmd.Process.Pid)) {
			return p, "redis://" + host, nil
		}
		select {
		case <-p.ended:
			return nil, "", errors.New("redis-server does not start")
		case <-ctx.Done():
			err := fmt.Errorf("redis-server does not answer: %w", context.Cause(ctx))
			return nil, "", errors.Join(err, p.stop(func() { _ = p.cmd.Process.Signal(syscall.SIGKILL) }))
		case <-tick.C:
		}
	}
}

// openRedis returns a client of a server that answers.
func openRedis(ctx context.Context, url string) (*redis.Client, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	opts.ContextTimeoutEnabled = true
	opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = stallLimit, stallLimit, stallLimit // a busy machine is no failure
	rdb := redis.NewClient(opts)
	if err := rdb.Ping(ctx).Err(); err != nil {
		_ = rdb.Close()
		return nil, fmt.Errorf("redis at %s: %w", redact(url), err)
	}
	return rdb, nil
}
