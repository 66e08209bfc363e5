package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/internal/child"
)

// measured is what one trial has shown.
type measured struct {
	rate            float64 // messages a second
	allocs, bytes   float64
	commands        map[string]float64
	allCommands     float64
	cpu             cpuSeconds
	hitRate         float64
	p50, p99        float64 // ms, from publishing to done
	keptUp, latency bool    // latency: p50, p99 and keptUp are known
	handled         int64
}

// bench runs trials on one pair of servers.
type bench struct {
	set     settings
	srv     *servers
	run     string
	nc      *nats.Conn
	js      jetstream.JetStream
	rdb     *redis.Client
	redis   *child.Process // nil if it was given
	streams map[int]filled // by how many messages they have
	trials  int
	keep    bool // what trials leave in Redis stays there
}

// newBench connects. The caller closes it.
func newBench(ctx context.Context, s settings, srv *servers) (*bench, error) {
	return newBenchOn(ctx, s, srv, srv.redisURL, srv.redis)
}

func newBenchOn(ctx context.Context, s settings, srv *servers, redisURL string, process *child.Process) (b *bench, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	b = &bench{set: s, srv: srv, redis: process, run: "idemq-bench-" + id.String(), streams: map[int]filled{}}
	if b.rdb, err = openRedis(ctx, redisURL); err != nil {
		return nil, err
	}
	if b.nc, err = nats.Connect(srv.natsURL); err != nil {
		_ = b.rdb.Close()
		return nil, fmt.Errorf("NATS at %s: %w", redact(srv.natsURL), err)
	}
	if b.js, err = jetstream.New(b.nc); err != nil {
		b.nc.Close()
		_ = b.rdb.Close()
		return nil, err
	}
	return b, nil
}

// cleanLimit bounds what is done after a run that was interrupted.
const cleanLimit = 30 * time.Second

// close removes what the run has left on servers that were given.
func (b *bench) close(ctx context.Context) error {
	var errs []error
	if b.srv.nats == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		dead, replays := streamsOf(b.run)
		streams := []string{dead, replays}
		for _, f := range b.streams {
			streams = append(streams, f.name)
		}
		for _, name := range streams {
			if err := b.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				errs = append(errs, fmt.Errorf("remove stream %s: %w", name, err))
			}
		}
	}
	b.nc.Close()
	return errors.Join(append(errs, b.rdb.Close())...)
}

// trial prepares one.
func (b *bench) trial(workers int, stream string, total, distinct int) (*trial, error) {
	b.trials++
	nc, err := nats.Connect(b.srv.natsURL)
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &trial{
		name: fmt.Sprintf("t%d", b.trials), run: b.run, workers: workers, confirm: b.set.confirm, handlerTime: b.set.handlerTime,
		url: b.srv.natsURL, nc: nc, js: js, rdb: b.rdb, stream: stream, total: int64(total), distinct: int64(distinct), finished: make(chan struct{}),
	}, nil
}

// do runs a trial and cleans up behind it.
func (b *bench) do(ctx context.Context, m mode, t *trial) error {
	runtime.GC() // what earlier trials left behind is not this one's
	watched, stop := t.watch(ctx)
	err := m.run(watched, t)
	stop()
	if err == nil {
		err = t.checkHandlers(m)
	}
	t.nc.Close()
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	if derr := b.js.DeleteConsumer(clean, t.stream, t.name); derr != nil && !errors.Is(derr, jetstream.ErrConsumerNotFound) && err == nil {
		err = derr // Watermill's client has removed its own
	}
	return err
}

// forget removes the keys of a trial, after its figures were taken.
func (b *bench) forget(ctx context.Context, t *trial) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	switch {
	case b.keep:
		return nil
	case b.set.growth, b.redis == nil:
		return removeKeys(ctx, b.rdb, t.prefix())
	default:
		return b.flush(ctx) // what is on it is the trial's alone
	}
}

// flush empties a server of ours.
func (b *bench) flush(ctx context.Context) error { return b.rdb.FlushAll(ctx).Err() }

// scanCount is how many keys a server looks at for one answer.
const scanCount = 1000

// removeKeys removes the keys that contain a prefix of ours, which bears the run's own id.
func removeKeys(ctx context.Context, rdb *redis.Client, prefix string) error {
	if !strings.HasPrefix(prefix, "idemq-bench-") {
		return fmt.Errorf("%q is no prefix of this program", prefix)
	}
	keys := rdb.Scan(ctx, 0, prefix+"*", scanCount).Iterator()
	for keys.Next(ctx) {
		if err := rdb.Unlink(ctx, keys.Val()).Err(); err != nil {
			return fmt.Errorf("remove keys: %w", err)
		}
	}
	return keys.Err()
}

// throughput takes a full stream through a mode.
func (b *bench) throughput(ctx context.Context, m mode, workers int, into *measured) error {
	f, err := b.stream(ctx, b.set.messagesFor(workers))
	if err != nil {
		return err
	}
	t, err := b.trial(workers, f.name, f.messages, f.distinct)
	if err != nil {
		return err
	}
	before, err := b.usage(ctx)
	if err != nil {
		t.nc.Close()
		return err
	}
	if err := b.do(ctx, m, t); err != nil {
		return errors.Join(fmt.Errorf("%s with %d workers: %w", m.name, workers, err), b.forget(ctx, t))
	}
	after, err := b.usage(ctx)
	if err != nil {
		return err
	}
	after.per(t.total, before, into)
	into.rate = float64(t.total) / time.Duration(max(1, t.last.Load()-t.begun.Load())).Seconds()
	into.handled = t.handled.Load()
	if n := t.asked.Load(); n > 0 {
		into.hitRate = float64(t.hits.Load()) / float64(n)
	}
	return b.forget(ctx, t)
}
