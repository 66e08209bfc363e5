package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/internal/child"
	"github.com/idemq/idemq/internal/localredis"
)

const (
	loopback    = "127.0.0.1"
	serverStart = time.Minute // a busy machine takes long
)

// servers are what is measured on.
type servers struct {
	natsURL, redisURL string
	nats, redis       *child.Process // nil if they were given
	natsStdin         interface{ Close() error }
	dir               string // data of those that were started
	more              []*child.Process
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
func (srv *servers) secondRedis(ctx context.Context, aof bool) (p *child.Process, url string, err error) {
	if p, url, err = srv.startRedis(ctx, "redis-2", aof); err == nil {
		srv.more = append(srv.more, p)
	}
	return p, url, err
}

// stop ends what was started and removes its data.
func (srv *servers) stop() error {
	var errs []error
	if srv.nats != nil {
		errs = append(errs, srv.nats.Stop(func() { _ = srv.natsStdin.Close() }))
	}
	for _, p := range append(srv.more, srv.redis) {
		if p != nil {
			errs = append(errs, p.Stop(func() { _ = p.Cmd.Process.Kill() })) // nothing of it is worth a good end
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
	if srv.nats, err = child.Start(cmd, false); err != nil {
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
			<-srv.nats.Ended
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

// startRedis starts a redis-server with a folder of its own, which keeps nothing on disk unless it is to.
func (srv *servers) startRedis(ctx context.Context, folder string, aof bool) (p *child.Process, address string, err error) {
	dir := filepath.Join(srv.dir, folder)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, "", err
	}
	p, address, err = localredis.Start(ctx, dir, aof)
	if errors.Is(err, localredis.ErrNone) {
		err = fmt.Errorf("%w; install it, or give a server with --redis", err)
	}
	return p, address, err
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
