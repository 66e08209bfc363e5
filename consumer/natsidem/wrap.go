package natsidem

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// Wrap makes a message handler that exists already idempotent, for jetstream.Consumer.Consume:
//
//	handler, err := natsidem.Wrap(ctx, js, "ORDERS", "billing", d, func(msg jetstream.Msg) {
//		...
//		_ = msg.Ack()
//	}, natsidem.Config{})
//	cc, err := cons.Consume(handler, jetstream.PullMaxMessages(1))
//
// fn is not called for duplicates. It answers through the message that it gets, before it returns: Ack and DoubleAck
// settle the key and then acknowledge; Nak and NakWithDelay release it for another try (Nak after the configured backoff);
// Term and TermWithReason make a dead letter; InProgress renews the lease (it is renewed by itself as well). A second
// answer returns jetstream.ErrMsgAlreadyAckd. Returning without any, or a panic, counts as a failure and is retried.
// The error of an answer wraps dedup.ErrLeaseLost, or is a *dedup.StoreError, if nothing was sent.
//
// Replayed dead letters, and retries after minutes, come back through another stream: consume [ReplayConsumer] with the
// same handler, too.
//
// Consume calls its handler for one message after another, and takes 500 ahead unless told otherwise, whose deadlines
// run while they wait: say PullMaxMessages with a small number. To run several at once use a [Worker], which also handles
// what that client never hands out: a message without payload and with a header named "Status".
//
// Wrap checks the durable consumer as Run does; ctx ends that, and it is the parent of what fn's answers need, without
// its cancellation. Workers, Grace and IdleExit have no meaning here. Errors are those of [New] and of Run.
func Wrap(
	ctx context.Context, js jetstream.JetStream, stream, durable string, d *dedup.Deduper,
	fn func(jetstream.Msg), cfg Config,
) (jetstream.MessageHandler, error) {
	if fn == nil {
		return nil, fmt.Errorf("%w: the handler is nil", ErrConfig)
	}
	var deliveries sync.Map // *consumer.Message → wrapped, while it is processed
	w, err := newWorker(js, stream, durable, d, cfg, func(scope string, c consumer.Config) (*consumer.Pipeline, error) {
		return consumer.NewManual(d, scope, func(ctx context.Context, a *consumer.Attempt) {
			v, _ := deliveries.Load(a.Message())
			del := v.(wrapped) // stored below
			fn(&proxy{Msg: del.msg, ctx: ctx, attempt: a, delivery: del.delivery})
		}, c)
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.prepare(ctx); err != nil {
		return nil, err
	}
	s := &source{w: w, handlers: context.WithoutCancel(ctx)}
	return func(msg jetstream.Msg) {
		del, err := wrapDelivery(js.Conn(), msg, w.confirm)
		if err != nil {
			w.log.Error("unexpected message", "error", err)
			return
		}
		// The client does not tell here whether a message had headers that it could not parse.
		if msg.Headers() == nil && !s.readHeader(del) {
			return
		}
		w.original(del)
		deliveries.Store(del.message, wrapped{msg: msg, delivery: del})
		defer deliveries.Delete(del.message)
		w.pipeline.Process(s.handlers, s.answerable(del))
	}, nil
}

// wrapped is a message that somebody else's consumer has pulled.
type wrapped struct {
	msg      jetstream.Msg
	delivery *delivery
}

func wrapDelivery(nc *nats.Conn, msg jetstream.Msg, confirm func() bool) (*delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("natsidem: a message on %q is not from JetStream: %w", msg.Subject(), err)
	}
	return &delivery{nc: nc, reply: msg.Reply(), confirm: confirm, message: &consumer.Message{
		Subject: msg.Subject(), Stream: meta.Stream, Durable: meta.Consumer, Sequence: meta.Sequence.Stream,
		Time: meta.Timestamp, Deliveries: int(meta.NumDelivered), Header: msg.Headers(), Data: msg.Data(), //nolint:gosec // a count
	}}, nil
}

// proxy is the message that a wrapped handler gets.
type proxy struct {
	jetstream.Msg // Metadata, Reply

	ctx      context.Context //nolint:containedctx // jetstream.Msg has no place for it
	attempt  *consumer.Attempt
	delivery *delivery

	mu       sync.Mutex
	answered bool
}

// What a replay brings back is the original message.

func (p *proxy) Subject() string      { return p.delivery.message.Subject }
func (p *proxy) Headers() nats.Header { return p.delivery.message.Header }
func (p *proxy) Data() []byte         { return p.delivery.message.Data }

var errNak = errors.New("natsidem: the handler asked for another delivery")

func (p *proxy) Ack() error { return p.answer(func() error { return p.attempt.Consume(p.ctx) }) }

func (p *proxy) DoubleAck(ctx context.Context) error {
	p.delivery.double.Store(true)
	return p.answer(func() error { return p.attempt.Consume(ctx) })
}

func (p *proxy) Nak() error { return p.NakWithDelay(-1) }

func (p *proxy) NakWithDelay(delay time.Duration) error {
	return p.answer(func() error { return p.attempt.Retry(p.ctx, delay, errNak) })
}

func (p *proxy) Term() error { return p.TermWithReason("the handler terminated it") }

func (p *proxy) TermWithReason(reason string) error {
	return p.answer(func() error { return p.attempt.Kill(p.ctx, errors.New(reason)) })
}

func (p *proxy) InProgress() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered {
		return jetstream.ErrMsgAlreadyAckd
	}
	return p.attempt.Extend(p.ctx)
}

// answer tells the handler what became of its answer, the sending included.
func (p *proxy) answer(end func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered {
		return jetstream.ErrMsgAlreadyAckd
	}
	p.answered = true
	err := end()
	switch {
	case errors.Is(err, consumer.ErrAnswered):
		return jetstream.ErrMsgAlreadyAckd
	case err != nil:
		return err
	default:
		return p.delivery.outcome()
	}
}
