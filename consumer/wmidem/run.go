package wmidem

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// run is one delivery on its way through the router, and where the middleware leaves the handler's error for the
// decorator, whom the router tells nothing but ack or nack.
type run struct {
	s        *subscription
	original *message.Message
	copy     *message.Message // what the router gets
	key      dedup.Key

	mu        sync.Mutex
	err       error // of the last handler to return
	running   int
	begun     bool          // some handler has
	idle      chan struct{} // closed when no handler is running; nil unless somebody waits for that
	early     bool          // acked before the handler's end
	abandoned bool          // the claim is given back: no handler may begin
}

// try is what a pipeline's handler finds in its context.
type try interface {
	handle(ctx context.Context) error
}

type runKey struct{}

func handle(ctx context.Context, _ *consumer.Message) error {
	return ctx.Value(runKey{}).(try).handle(ctx) // whoever calls Process puts it there
}

func runOf(ctx context.Context) *run {
	r, _ := ctx.Value(runKey{}).(*run)
	return r
}

// runContext is the context of a run: it ends with the subscription's handlers, and not with the original message's, which
// some Pub/Subs end while the handler is still at work; it has the values of both.
type runContext struct {
	context.Context //nolint:containedctx // it is one

	values context.Context //nolint:containedctx // likewise
	run    *run
}

func (c *runContext) Value(key any) any {
	if key == (runKey{}) {
		return c.run
	}
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.values.Value(key)
}

// handle gives a copy of the message to the router and returns what became of it.
func (r *run) handle(ctx context.Context) error {
	r.copy, r.key = r.original.Copy(), dedup.KeyFrom(ctx)
	r.copy.SetContext(ctx)
	if r.s.isClosing() { // before the select: the channel is closed at the end of a shutdown
		return errNotHanded
	}
	if err := r.hand(ctx); err != nil {
		return err
	}
	select {
	case <-r.copy.Acked():
		return r.acked()
	case <-r.copy.Nacked():
		return r.nacked()
	case <-r.s.handlers.Done():
	}
	// A handler that ignores the cancellation keeps its claim; what no handler has is given back.
	if r.abandon() {
		return fmt.Errorf("wmidem: no handler has answered: %w", consumer.ErrShutdown)
	}
	select {
	case <-r.copy.Acked():
		return r.acked()
	case <-r.copy.Nacked():
		return r.nacked()
	}
}

// hand hands the copy to the router. That mostly waits for it, and then the context need not have a channel.
func (r *run) hand(ctx context.Context) error {
	select {
	case r.s.out <- r.copy:
		return nil
	default:
	}
	select {
	case r.s.out <- r.copy:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.s.closing:
		return errNotHanded
	}
}

// enter notes that a handler runs; a middleware may run it again, or even beside itself.
func (r *run) enter() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.abandoned {
		return fmt.Errorf("wmidem: the message is given back already: %w", consumer.ErrShutdown)
	}
	r.running++
	r.begun = true
	return nil
}

func (r *run) leave(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	select {
	case <-r.copy.Acked(): // the router acks later
		r.early = true
	default:
	}
	if r.running--; r.running == 0 && r.idle != nil {
		close(r.idle)
		r.idle = nil
	}
}

// abandon ends the run unless a handler is at work.
func (r *run) abandon() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.abandoned = r.running == 0
	return r.abandoned
}

// outcome waits for a handler that was answered for before its end.
func (r *run) outcome() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running > 0 {
		if r.idle == nil {
			r.idle = make(chan struct{})
		}
		idle := r.idle
		r.mu.Unlock()
		<-idle
		r.mu.Lock()
	}
	return r.err
}

func (r *run) acked() error {
	if r.s.routed && r.refuse() {
		return ErrOrder
	}
	err := r.outcome()
	if err == nil || r.early { // the end of the handler counts, not an ack before it
		return err
	}
	r.s.i.cfg.Logger.Warn("another middleware has taken the handler's error for itself: the key is consumed, and neither tried again nor a dead letter",
		"key", r.key.ID, "scope", r.key.Scope, "error", err)
	return nil
}

// refuse says that no handler has begun, and keeps them from it.
func (r *run) refuse() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.begun {
		r.abandoned = true
	}
	return r.abandoned
}

func (r *run) nacked() error {
	if err := r.outcome(); err != nil {
		return err
	}
	return ErrNacked
}

// companion is the middleware that Install adds: it keeps the handler's error and stamps the outputs.
func (i *Idempotency) companion(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (outputs []*message.Message, err error) {
		r := runOf(msg.Context())
		if r == nil {
			return nil, ErrNotInstalled
		}
		if err := r.enter(); err != nil {
			return nil, err
		}
		failed := errGoexit
		defer func() {
			if v := recover(); v != nil {
				r.leave(&consumer.PanicError{Value: v, Stack: debug.Stack()})
				panic(v) // for whoever recovers outside, the router at last
			}
			r.leave(failed)
		}()
		outputs, err = h(msg)
		if err == nil {
			outputs, err = stamp(r, msg, outputs)
		}
		failed = err
		return outputs, err
	}
}

var errNotHanded = fmt.Errorf("wmidem: not handed to a handler: %w", consumer.ErrShutdown)

var errGoexit = errors.New("wmidem: the handler ended its goroutine instead of returning")
