package natsidem

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// NewFeed returns a worker that hands each delivery to fn, in place of a pipeline of its own: the adapters of other
// frameworks bring theirs. fn is called in a goroutine for each of the Workers and returns when it has answered the
// delivery, or has left it to a pipeline, or when the context ends, with cause consumer.ErrShutdown, without an answer.
//
// The feed knows nothing of keys: Scope is only whose replays it takes, and what it notes at the durable consumer; d says
// how long leases are, and which store it is. Messages whose headers cannot be read never reach fn: they become dead
// letters. Errors are those of [New].
func NewFeed(
	js jetstream.JetStream, stream, durable string, d *dedup.Deduper, fn func(context.Context, consumer.Delivery), cfg Config,
) (*Worker, error) {
	if fn == nil {
		return nil, fmt.Errorf("%w: the function is nil", ErrConfig)
	}
	never := consumer.HandlerFunc(func(context.Context, *consumer.Message) error { return consumer.ErrNotAnswered })
	w, err := New(js, stream, durable, d, never, cfg)
	if err != nil {
		return nil, err
	}
	w.feed = fn
	return w, nil
}

// PullWhen makes a feed ask admit before each pull, as the Admit of the pipeline that takes the deliveries: it waits while
// messages would only be given back, and returns nil when one may be pulled, or an error if the context has ended. It may be
// called at any time, also while the worker runs; the last one counts. Without it a feed pulls whenever fn is free.
func (w *Worker) PullWhen(admit func(ctx context.Context) error) { w.admit.Store(&admit) }

// mayPull waits until messages can be used.
func (w *Worker) mayPull(ctx context.Context) error {
	if admit := w.admit.Load(); admit != nil {
		return (*admit)(ctx)
	}
	return w.pipeline.Admit(ctx)
}

// Check creates and checks what Run needs, and returns what Run would refuse. It waits for the connection until ctx ends.
func (w *Worker) Check(ctx context.Context) error {
	_, err := w.prepare(ctx)
	return err
}

// Scope returns the scope with the default filled in.
func (w *Worker) Scope() string { return w.cfg.Scope }
