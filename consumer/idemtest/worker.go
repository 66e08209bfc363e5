package idemtest

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// worker is a process with a pipeline of its own. When it is cut it reaches neither store nor broker any more, for good:
// it is dead, or the network is.
type worker struct {
	number   int
	cut      atomic.Bool
	pipeline *consumer.Pipeline

	ctx      context.Context //nolint:containedctx // the parent of its handlers; it ends with its shutdown
	shutDown context.CancelCauseFunc
}

// newWorker returns a worker of the world. The settings cannot be wrong, so an error is a mistake in this package.
func (w *world) newWorker(number int) *worker {
	wk := &worker{number: number}
	wk.ctx, wk.shutDown = context.WithCancelCause(w.ctx)
	d, err := dedup.New(line{store: w.store, cut: &wk.cut}, dedup.Config{Lease: lease})
	if err != nil {
		panic(err)
	}
	h := consumer.HandlerFunc(func(ctx context.Context, m *consumer.Message) error { return w.handle(ctx, wk, m) })
	wk.pipeline, err = consumer.New(d, stream+"/"+durable, h, consumer.Config{
		Letters: w.letters, Backoff: consumer.Backoff{Jitter: -1}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	return wk
}

// line is a worker's line to the store.
type line struct {
	store dedup.Store
	cut   *atomic.Bool
}

func (l line) try(op string, k dedup.Key, call func() error) error {
	if l.cut.Load() {
		return &dedup.StoreError{Op: op, Key: k, Err: errCut}
	}
	return call()
}

func (l line) Acquire(ctx context.Context, c dedup.Claim) (v dedup.Verdict, r dedup.Record, err error) {
	err = l.try("acquire", c.Key, func() error { v, r, err = l.store.Acquire(ctx, c); return err })
	return v, r, err
}

func (l line) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	return l.try("extend", h.Key, func() error { return l.store.Extend(ctx, h, lease) })
}

func (l line) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	return l.try("settle", h.Key, func() error { return l.store.Settle(ctx, h, s) })
}

func (l line) Release(ctx context.Context, h dedup.Hold, r dedup.Release) error {
	return l.try("release", h.Key, func() error { return l.store.Release(ctx, h, r) })
}

func (l line) LetterSent(ctx context.Context, k dedup.Key, f dedup.Fence) error {
	return l.try("letter-sent", k, func() error { return l.store.LetterSent(ctx, k, f) })
}

// SaveStep and Steps are for handlers that use dedup.Step; the world's store keeps steps.
func (l line) SaveStep(ctx context.Context, h dedup.Hold, s dedup.SavedStep) error {
	return l.try("save-step", h.Key, func() error { return l.steps().SaveStep(ctx, h, s) })
}

func (l line) Steps(ctx context.Context, k dedup.Key) (out []dedup.SavedStep, err error) {
	err = l.try("steps", k, func() error { out, err = l.steps().Steps(ctx, k); return err })
	return out, err
}

func (l line) steps() dedup.StepStore { return l.store.(dedup.StepStore) }

// letterbox keeps the dead letters by key.
type letterbox struct {
	mu      sync.Mutex
	letters map[string]*consumer.Letter
}

func (b *letterbox) Publish(_ context.Context, l *consumer.Letter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.letters[l.Key] = l
	return nil
}
