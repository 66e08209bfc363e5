package natsidem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// Worker takes the messages of one durable consumer through the pipeline. Any number of workers, in any number of
// processes, may share the consumer.
type Worker struct {
	js        jetstream.JetStream
	stream    string
	durable   string
	d         *dedup.Deduper
	cfg       Config
	log       *slog.Logger
	pipeline  *consumer.Pipeline
	feed      func(context.Context, consumer.Delivery)        // nil if the pipeline takes the deliveries
	admit     atomic.Pointer[func(ctx context.Context) error] // asked before a pull, in place of the pipeline
	replays   *deadletter.ReplayStream                        // nil with NoReplays
	apiPrefix string
	running   atomic.Bool
	stopping  atomic.Bool
}

// New returns a worker on a durable consumer that gives its messages to h. The server is not asked before Run. The error
// wraps [ErrConfig], consumer.ErrConfig or dedup.ErrInvalidKey.
func New(js jetstream.JetStream, stream, durable string, d *dedup.Deduper, h consumer.Handler, cfg Config) (*Worker, error) {
	return newWorker(js, stream, durable, d, cfg, func(scope string, c consumer.Config) (*consumer.Pipeline, error) {
		return consumer.New(d, scope, h, c)
	})
}

func newWorker(
	js jetstream.JetStream, stream, durable string, d *dedup.Deduper, cfg Config,
	pipeline func(scope string, c consumer.Config) (*consumer.Pipeline, error),
) (*Worker, error) {
	if js == nil {
		return nil, fmt.Errorf("%w: the JetStream context is nil", ErrConfig)
	}
	cfg, err := cfg.withDefaults(stream, durable)
	if err != nil {
		return nil, err
	}
	w := &Worker{js: js, stream: stream, durable: durable, d: d, cfg: cfg, log: cfg.Logger, apiPrefix: apiPrefix(js)}
	if w.log == nil {
		w.log = slog.Default()
	}
	w.log = w.log.With("stream", stream, "durable", durable)
	if cfg.Letters == nil {
		cfg.Letters = deadletter.New(js, deadletter.Config{Stream: cfg.DeadStream, Prefix: cfg.DeadPrefix})
		w.cfg.Letters = cfg.Letters
	}
	if !cfg.NoReplays {
		w.replays = newReplayStream(js, cfg)
	}
	w.pipeline, err = pipeline(cfg.Scope, cfg.Config)
	return w, err
}

// ensurer is a sink of letters that creates what it needs.
type ensurer interface {
	Ensure(ctx context.Context) error
}

// apiPrefix returns what the subjects of the JetStream API begin with, the final dot included.
func apiPrefix(js jetstream.JetStream) string {
	o := js.Options()
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix == "":
		return jetstream.DefaultAPIPrefix
	default:
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	}
}

// Stats returns the counts since the worker was made.
func (w *Worker) Stats() consumer.Stats { return w.pipeline.Stats() }

// Run works until ctx ends; then it stops pulling, lets running handlers finish within Grace, and returns nil. It also
// returns nil when IdleExit says so. It outlasts outages of the server and of the store. Run can be called again after
// it has returned.
//
// The error wraps [ErrConfig] if a setting cannot work, [ErrConsumerGone] if the durable consumer was deleted,
// [ErrHandlerIgnoresCancellation], nats.ErrConnectionClosed, or [ErrRunning].
func (w *Worker) Run(ctx context.Context) error {
	if !w.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer w.running.Store(false)
	w.stopping.Store(false)
	c, err := w.prepare(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped before it began
		}
		return err
	}
	handlers, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	s := &source{w: w, consumer: c, handlers: handlers}
	var process func(context.Context, consumer.Delivery)
	if w.feed != nil {
		process = s.feed
	}
	s.flow = w.pipeline.Flow(handlers, w.cfg.Workers, process)
	err = w.consume(ctx, s)
	return errors.Join(err, w.shutDown(s, cancel))
}

// consume pulls from the durable, and from the replay stream beside it, until ctx ends or the durable has nothing left.
func (w *Worker) consume(ctx context.Context, s *source) (err error) {
	if s.puller, err = newPuller(w.js.Conn(), w.apiPrefix, w.stream, w.durable, s.take); err != nil {
		return err
	}
	defer s.puller.close()
	if w.replays != nil {
		p, err := newPuller(w.js.Conn(), w.apiPrefix, w.cfg.ReplayStream, replayConsumer(w.stream, w.durable), s.take)
		if err != nil {
			return err
		}
		defer p.close()
		ctx, cancel := context.WithCancel(ctx)
		var beside sync.WaitGroup
		beside.Go(func() { (&replays{s: s, puller: p}).run(ctx) })
		defer beside.Wait()
		defer cancel()
	}
	defer func() { // before anything else, so that what still comes is given back
		w.stopping.Store(true)
		s.flow.Stop()
	}()
	return s.pull(ctx)
}

// prepare makes sure that everything the worker needs is there and fits. It waits for the connection.
func (w *Worker) prepare(ctx context.Context) (jetstream.Consumer, error) {
	out := outage{log: w.log, nc: w.js.Conn()}
	for {
		c, err := w.lookUp(ctx)
		if err == nil {
			out.over()
			return c, nil
		}
		if !temporary(err) {
			return nil, err
		}
		if err := out.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (w *Worker) lookUp(ctx context.Context) (jetstream.Consumer, error) {
	if s := w.js.Conn().Status(); s != nats.CONNECTED {
		if s == nats.CLOSED {
			return nil, nats.ErrConnectionClosed
		}
		return nil, fmt.Errorf("%w (%v)", ErrNotConnected, s)
	}
	c, err := lookUp(ctx, w.js, w.stream, w.durable, w.d.Config().Lease, w.cfg.Workers)
	if err != nil {
		return nil, err
	}
	if q, ok := w.cfg.Letters.(ensurer); ok {
		if err := q.Ensure(ctx); err != nil {
			return nil, err
		}
	}
	if w.replays != nil {
		if err := w.ensureReplays(ctx); err != nil {
			return nil, err
		}
	}
	writeMetadata(ctx, w.js, c.CachedInfo(), w.d.Store(), w.cfg.Scope, w.log)
	return c, nil
}

// confirm says whether acks are to be confirmed now: the last ones before the process ends always are.
func (w *Worker) confirm() bool { return w.cfg.ConfirmAcks || w.stopping.Load() }

// shutDown waits for the handlers: Grace with their contexts alive, and half of it after cancelling them.
func (w *Worker) shutDown(s *source, cancel context.CancelCauseFunc) error {
	w.stopping.Store(true)
	s.flow.Stop()
	done := make(chan struct{})
	go func() { // ends with the last handler; one that never returns is named below
		defer close(done)
		s.asking.Wait()
		<-s.flow.Done()
	}()
	stopped := within(done, w.cfg.Grace)
	if !stopped {
		cancel(consumer.ErrShutdown)
		stopped = within(done, max(w.cfg.Grace/2, minAfterGrace))
	}
	var err error
	if !stopped {
		err = stuck(w.pipeline.Running())
	}
	w.flush()
	return err
}

// flush sees to it that plain acks which the client still has in its buffer are sent.
func (w *Worker) flush() {
	nc := w.js.Conn()
	if nc.Status() != nats.CONNECTED {
		return
	}
	if err := nc.FlushTimeout(flushTimeout); err != nil {
		w.log.Warn("could not flush the connection; the last acks may be lost, and their messages delivered again", "error", err)
	}
}

const flushTimeout = 5 * time.Second

func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

func stuck(ms []*consumer.Message) error {
	names := make([]string, len(ms))
	for i, m := range ms {
		names[i] = fmt.Sprintf("key %q, subject %q, sequence %d", m.Key, m.Subject, m.Sequence)
	}
	return fmt.Errorf("%w: %s", ErrHandlerIgnoresCancellation, strings.Join(names, "; "))
}
