package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/publisher"
)

// pullMessages is how many messages the client has on their way to workers.
const pullMessages = 500

// How long the modes remember. Nothing outlives its round, except on a server that was given and could not be cleared.
const (
	busyFor   = 5 * time.Minute
	retention = 10 * time.Minute
)

// byWorkers hands messages to as many workers until the trial is finished.
func byWorkers(ctx context.Context, t *trial, handle func(context.Context, jetstream.Msg) error) error {
	cons, err := t.createConsumer(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A busy machine may miss a heartbeat. Whether anything still comes through is watched elsewhere.
	it, err := cons.Messages(jetstream.PullMaxMessages(pullMessages), jetstream.WithMessagesErrOnMissingHeartbeat(false))
	if err != nil {
		return err
	}
	work := make(chan jetstream.Msg, t.workers)
	var wg sync.WaitGroup
	for range t.workers {
		wg.Go(func() {
			for m := range work {
				if err := handle(ctx, m); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Go(func() {
		select {
		case <-t.finished:
		case <-ctx.Done():
		}
		it.Stop()
	})
	for {
		m, err := it.Next()
		if err != nil {
			if !errors.Is(err, jetstream.ErrMsgIteratorClosed) {
				cancel(err)
			}
			break
		}
		select {
		case work <- m:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	return unlessFinished(ctx, t)
}

// unlessFinished returns why a trial ended, nil if it is finished.
func unlessFinished(ctx context.Context, t *trial) error {
	select {
	case <-t.finished:
		return nil
	default:
		return context.Cause(ctx)
	}
}

// acked acknowledges a message, after which nothing is left to do.
func (t *trial) acked(ctx context.Context, m jetstream.Msg) error {
	if err := t.ack(ctx, m); err != nil {
		return fmt.Errorf("ack: %w", err)
	}
	t.finish(m.Headers().Get(sentHeader))
	return nil
}

func runRaw(ctx context.Context, t *trial) error {
	return byWorkers(ctx, t, func(ctx context.Context, m jetstream.Msg) error {
		if err := t.handle(ctx); err != nil {
			return err
		}
		return t.acked(ctx, m)
	})
}

// runCallback is what the client does without workers.
func runCallback(ctx context.Context, t *trial) error {
	cons, err := t.createConsumer(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	consuming, err := cons.Consume(func(m jetstream.Msg) {
		err := t.handle(ctx)
		if err == nil {
			err = t.acked(ctx, m)
		}
		if err != nil {
			cancel(err)
		}
	}, jetstream.PullMaxMessages(pullMessages))
	if err != nil {
		return err
	}
	select {
	case <-t.finished:
	case <-ctx.Done():
	}
	consuming.Stop()
	<-consuming.Closed()
	return unlessFinished(ctx, t)
}

// runNaive is what people write: it has no owner, and a message whose handler fails is lost, since its key is taken.
func runNaive(ctx context.Context, t *trial) error {
	return byWorkers(ctx, t, func(ctx context.Context, m jetstream.Msg) error {
		key := t.prefix() + m.Headers().Get(publisher.KeyHeader)
		fresh, err := t.rdb.SetNX(ctx, key, "acquired", busyFor).Result()
		if err != nil {
			return err
		}
		if fresh {
			if err := t.handle(ctx); err != nil {
				return err
			}
			if err := t.rdb.Set(ctx, key, "consumed", retention).Err(); err != nil {
				return err
			}
		}
		return t.acked(ctx, m)
	})
}

// busyDelay is the delay of a duplicate whose key is being handled.
const busyDelay = 50 * time.Millisecond

// runDo is a mode of workers that wait for each answer of the store.
func runDo(set func(*redisstore.Config)) func(ctx context.Context, t *trial) error {
	return func(ctx context.Context, t *trial) error {
		cfg := redisstore.Config{Prefix: t.prefix()}
		set(&cfg)
		d, err := newDeduper(redisstore.New(t.rdb, cfg))
		if err != nil {
			return err
		}
		return byWorkers(ctx, t, func(ctx context.Context, m jetstream.Msg) error {
			key := dedup.Key{Scope: t.name, ID: m.Headers().Get(publisher.KeyHeader)}
			out, err := d.Do(ctx, key, func(ctx context.Context) ([]byte, error) { return nil, t.handle(ctx) })
			switch {
			case err != nil:
				return err
			case out.Verdict == dedup.Granted || out.Verdict == dedup.Duplicate:
				return t.acked(ctx, m)
			case out.Verdict == dedup.Busy:
				return m.NakWithDelay(busyDelay)
			default:
				return fmt.Errorf("unexpected verdict %v", out.Verdict)
			}
		})
	}
}

// newDeduper has the settings of all modes of idemq. The lease is long enough for the longest handler on a busy machine.
func newDeduper(s dedup.Store) (*dedup.Deduper, error) {
	return dedup.New(s, dedup.Config{Retention: retention, StoreTimeout: storeTimeout})
}

// storeTimeout is larger than by default: a machine that is busy with something else is no failure of what is measured.
const storeTimeout = 10 * time.Second
