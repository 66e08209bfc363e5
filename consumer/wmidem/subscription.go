package wmidem

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
)

// subscription is one call of Subscribe.
type subscription struct {
	i        *Idempotency
	topic    string
	handler  func(context.Context) string
	routed   bool
	out      chan *message.Message
	handlers context.Context //nolint:containedctx // the parent of all handlers of one subscription
	cancel   context.CancelCauseFunc

	closing chan struct{} // closed when the shutdown begins
	done    chan struct{} // closed when nothing is left
	stuck   error         // set before done

	mu     sync.Mutex
	grace  *time.Timer // not nil once the shutdown has begun
	atWork sync.WaitGroup

	idle atomic.Int32 // workers that wait for a message
}

// maxIdle is how many workers of a subscription stay when they have nothing to do: the stack of a new one has to grow first.
const maxIdle = 64

func newSubscription(of *subscriber, topic string) *subscription {
	s := &subscription{
		i: of.i, topic: topic, handler: of.handler, routed: of.routed,
		out: make(chan *message.Message), closing: make(chan struct{}), done: make(chan struct{}),
	}
	s.handlers, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// close begins the shutdown. It may be called repeatedly.
func (s *subscription) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grace == nil {
		close(s.closing)
		s.grace = time.AfterFunc(s.i.cfg.Grace, func() { s.cancel(consumer.ErrShutdown) })
	}
}

func (s *subscription) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// start runs fn in a goroutine that run waits for. It returns false when the shutdown has begun.
func (s *subscription) start(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grace != nil {
		return false
	}
	s.atWork.Go(fn)
	return true
}

// run lets workers take the messages of the inner subscriber until there are no more, and waits for their handlers.
func (s *subscription) run(in <-chan *message.Message) {
	s.listen(in)
	<-s.closing
	for msg := range in { // all workers may be busy
		msg.Nack()
	}
	idle := make(chan struct{})
	go func() { // ends with the last handler; one that never returns is named below
		defer close(idle)
		s.atWork.Wait()
	}()
	select {
	case <-idle:
	case <-s.handlers.Done():
		if !within(idle, max(s.i.cfg.Grace/2, minAfterGrace)) {
			s.stuck = s.stuckError()
		}
	}
	s.grace.Stop()
	s.cancel(consumer.ErrShutdown)
	close(s.out)
	close(s.done)
}

// listen starts a worker that waits for a message, unless the shutdown has begun.
func (s *subscription) listen(in <-chan *message.Message) {
	s.idle.Add(1)
	s.start(func() { s.work(in) })
}

// work takes messages and processes them where it has taken them, until there are enough workers who wait for some. One
// waits at any time, so that a message is not handed from one goroutine to the next.
func (s *subscription) work(in <-chan *message.Message) {
	for msg := range in {
		if s.idle.Add(-1) == 0 {
			s.listen(in)
		}
		if s.isClosing() {
			msg.Nack()
		} else {
			s.process(msg)
		}
		if s.idle.Add(1) > maxIdle {
			s.idle.Add(-1)
			return
		}
	}
	s.close()
}

// process takes one message through the pipeline of its handler.
func (s *subscription) process(msg *message.Message) {
	handler := s.handler(msg.Context())
	native := nativeOf(msg.Context())
	var p *consumer.Pipeline
	var err error
	if native != nil {
		p, err = s.i.adopt(handler, native.Scope())
	} else {
		p, err = s.i.pipeline(handler)
	}
	if err != nil {
		s.i.cfg.Logger.Error("a message is given back: its handler has no scope", "topic", s.topic, "error", err)
		s.hold(s.i.cfg.MaxHold, msg)
		return
	}
	passage := &struct { // all that a message needs, at once
		run      run
		delivery delivery
		ctx      runContext
	}{run: run{s: s, original: msg}}
	passage.ctx = runContext{Context: s.handlers, values: msg.Context(), run: &passage.run}
	if native == nil {
		passage.delivery.init(s, msg, handler)
		p.Process(&passage.ctx, &passage.delivery)
		return
	}
	defer native.Take(p.Admit)()
	p.Process(&passage.ctx, native.Delivery())
}

// hold nacks a message after a delay, or at once when the shutdown begins.
func (s *subscription) hold(delay time.Duration, msg *message.Message) {
	if delay <= 0 || !s.start(func() { within(s.closing, delay); msg.Nack() }) {
		msg.Nack()
	}
}

// stuckError names what runs; of other subscriptions, too, if they share the handler.
func (s *subscription) stuckError() error {
	var names []string
	for _, m := range s.i.running() {
		names = append(names, fmt.Sprintf("handler %q, topic %q, key %q", m.Durable, m.Subject, m.Key))
	}
	return fmt.Errorf("%w: %s", ErrHandlerIgnoresCancellation, strings.Join(names, "; "))
}

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
