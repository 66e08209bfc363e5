package wmidem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
)

var errBoth = fmt.Errorf("%w: Middleware is used on a router with Install: every message would wait for its own claim; use one of them", ErrConfig)

// errGivenBack makes the router nack a message that no handler has seen.
var errGivenBack = errors.New("wmidem: given back: the key is held elsewhere, is not due yet, or the store cannot be asked")

// Middleware makes one handler idempotent, without a decorator. It is for handlers without outputs, since those would be
// published after the key is consumed: such a handler fails with [ErrOutputs]. A duplicate returns no error and so is
// acknowledged. What is to be retried waits in the middleware (see Config.MaxHold), and then returns the handler's error,
// so that the router nacks. The scope is that of the handler's name. Put Retry inside of it, never outside.
func (i *Idempotency) Middleware(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		outside := msg.Context()
		if outside.Value(runKey{}) != nil {
			return nil, errBoth
		}
		handler := message.HandlerNameFromCtx(outside)
		p, err := i.pipeline(handler)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(outside))
		defer cancel(nil)
		defer context.AfterFunc(outside, func() { cancel(consumer.ErrShutdown) })()
		defer msg.SetContext(outside)
		a := &alone{
			i: i, h: h, msg: msg, outside: outside, answer: make(chan time.Duration, 1),
			message: consumer.Message{
				Subject: message.SubscribeTopicFromCtx(outside), Durable: handler, Deliveries: 1,
				Header: Header(msg), Data: msg.Payload,
			},
		}
		p.Process(context.WithValue(ctx, runKey{}, try(a)), a)
		return nil, a.wait()
	}
}

// alone is one call of the handler behind Middleware: the delivery, and the try.
type alone struct {
	i       *Idempotency
	h       message.HandlerFunc
	msg     *message.Message
	outside context.Context //nolint:containedctx // the message's own, for as long as the call
	message consumer.Message
	answer  chan time.Duration // when it is to be tried again; negative if it is done with
	err     error              // of the handler; set before the answer
}

const doneWith time.Duration = -1

func (a *alone) handle(ctx context.Context) error {
	a.msg.SetContext(ctx)
	outputs, err := a.h(a.msg)
	if err == nil && len(outputs) > 0 {
		err = ErrOutputs
	}
	a.err = err
	return err
}

// wait returns the error that the router is to see, when it is time for that. A duplicate that was parked is answered by
// whoever runs.
func (a *alone) wait() error {
	var delay time.Duration
	select {
	case delay = <-a.answer:
	case <-a.outside.Done():
		select {
		case delay = <-a.answer:
		default: // parked, and the Pub/Sub waits for it no more
		}
	}
	if delay < 0 {
		return nil
	}
	within(a.outside.Done(), min(delay, a.i.cfg.MaxHold))
	if a.err != nil {
		return a.err
	}
	return errGivenBack
}

// Message implements consumer.Delivery.
func (a *alone) Message() *consumer.Message { return &a.message }

// Ack implements consumer.Delivery.
func (a *alone) Ack(context.Context) error { a.answer <- doneWith; return nil }

// Nak implements consumer.Delivery.
func (a *alone) Nak(_ context.Context, delay time.Duration) error {
	a.answer <- max(0, delay)
	return nil
}

// Term implements consumer.Delivery.
func (a *alone) Term(ctx context.Context, _ string) error { return a.Ack(ctx) }

// InProgress implements consumer.Delivery.
func (a *alone) InProgress(context.Context) error { return nil }

// Abandon implements consumer.Abandoner.
func (a *alone) Abandon() { a.answer <- a.i.cfg.MaxHold }
