package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
)

var quiet = slog.New(slog.DiscardHandler)

// streamsOf names the streams that a worker of ours creates, so that a server that was given is left as it was.
func streamsOf(run string) (dead, replays string) { return run + "-DEAD", run + "-REPLAY" }

// workerConfig has the settings of our workers, with names of our own for what they create.
func (t *trial) workerConfig() natsidem.Config {
	dead, replays := streamsOf(t.run)
	cfg := natsidem.Config{
		Workers: t.workers, Scope: t.name, ConfirmAcks: t.confirm, ReplayStream: replays, ReplayPrefix: t.run + ".replay",
	}
	cfg.Logger = quiet
	cfg.Letters = deadletter.New(t.js, deadletter.Config{Stream: dead, Prefix: t.run + ".dead", MarkPrefix: t.run + ".mark"})
	return cfg
}

// observer finishes messages, and fails the trial on what must not happen in it.
type observer struct {
	t    *trial
	fail context.CancelCauseFunc
}

func (o observer) Observe(e consumer.Event) {
	switch e.Kind {
	case consumer.Executed:
		o.t.finish(first(e.Message.Header, sentHeader))
	case consumer.DuplicateAck:
		o.t.asked.Add(1)
		o.t.finish(first(e.Message.Header, sentHeader))
	case consumer.Remembered:
		o.t.hits.Add(1)
	case consumer.DeadLettered, consumer.LetterFailed, consumer.LeaseLost, consumer.Unconfirmed, consumer.StoreDown:
		o.fail(fmt.Errorf("%v: %w", e.Kind, e.Err))
	default: // given back, and delivered again
	}
}

// runWorker is a mode of natsidem on a store.
func runWorker(store func(rdb *redis.Client, prefix string) dedup.Store, set func(*consumer.Config)) func(ctx context.Context, t *trial) error {
	return func(ctx context.Context, t *trial) error {
		if _, err := t.createConsumer(ctx); err != nil {
			return err
		}
		d, err := newDeduper(store(t.rdb, t.prefix()))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		cfg := t.workerConfig()
		cfg.Observer = observer{t, cancel}
		if set != nil {
			set(&cfg.Config)
		}
		handler := consumer.HandlerFunc(func(ctx context.Context, _ *consumer.Message) error { return t.handle(ctx) })
		w, err := natsidem.New(t.js, t.stream, t.name, d, handler, cfg)
		if err != nil {
			return err
		}
		running, stop := context.WithCancel(ctx)
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- w.Run(running) }()
		select {
		case <-t.finished:
		case <-ctx.Done():
		case err := <-ended:
			return fmt.Errorf("the worker has ended: %w", err)
		}
		stop()
		if err := <-ended; err != nil {
			return err
		}
		return unlessFinished(ctx, t)
	}
}
