package natspub

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/publisher"
)

// Future is the confirmation of one asynchronous message, once it is there. It is safe for concurrent use.
type Future struct {
	key  string
	done chan struct{}
	ack  Ack
	err  error
}

// Key is the key that the message bears, known at once.
func (f *Future) Key() string { return f.key }

// Done is closed when the outcome is known.
func (f *Future) Done() <-chan struct{} { return f.done }

// Wait returns the outcome, with the errors of [Publisher.Publish], or ctx's cause if that ends first; the message is on
// its way nevertheless.
func (f *Future) Wait(ctx context.Context) (Ack, error) {
	select {
	case <-f.done:
		return f.ack, f.err
	default:
	}
	select {
	case <-f.done:
		return f.ack, f.err
	case <-ctx.Done():
		return Ack{}, context.Cause(ctx)
	}
}

// PublishAsync is [Publisher.PublishAsyncMsg] for a message without headers.
func (p *Publisher) PublishAsync(ctx context.Context, subject string, body []byte, opts ...publisher.Option) (*Future, error) {
	return p.PublishAsyncMsg(ctx, &nats.Msg{Subject: subject, Data: body}, opts...)
}

// PublishAsyncMsg sends a message and returns before it is confirmed. What one goroutine publishes is stored in its
// order, except for messages that had to be sent again. It waits while MaxPending messages are without a confirmation.
// ctx bounds that wait and the delivery itself with its retries: do not cancel it while the message is on its way. An
// error means that nothing was sent. m is not changed, but its Data must not be changed until the future is done. Every
// message has a goroutine that ends with its future: call [Publisher.Flush] before the connection is closed.
func (p *Publisher) PublishAsyncMsg(ctx context.Context, m *nats.Msg, opts ...publisher.Option) (*Future, error) {
	out, key, err := p.prepare(m, opts)
	if err != nil {
		return nil, err
	}
	p.asyncOnce.Do(p.startAsync)
	if p.asyncErr != nil {
		return nil, fmt.Errorf("natspub: %w", p.asyncErr)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("natspub: nothing was sent: %w", err)
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("natspub: nothing was sent, %d messages are without a confirmation: %w", p.cfg.MaxPending, context.Cause(ctx))
	}
	f := &Future{key: key, done: make(chan struct{})}
	p.mu.Lock()
	p.pending[f] = struct{}{}
	p.mu.Unlock()
	// The first try is made here, so that the order is the caller's.
	first, err := p.async.PublishMsgAsync(&nats.Msg{Subject: out.Subject, Header: maps.Clone(out.Header), Data: out.Data}, jetstream.WithRetryAttempts(0))
	go p.follow(ctx, f, out, first, err)
	return f, nil
}

// startAsync makes a JetStream context of its own, because only one with a timeout ever gives up on a confirmation.
func (p *Publisher) startAsync() {
	p.async, p.asyncErr = jetstream.New(p.js.Conn(),
		jetstream.WithPublishAsyncTimeout(p.cfg.Retry.AttemptTimeout),
		jetstream.WithPublishAsyncMaxPending(2*p.cfg.MaxPending)) // first tries that timed out may overlap with new ones
}

// follow waits for the first try and makes the others.
func (p *Publisher) follow(ctx context.Context, f *Future, m *nats.Msg, first jetstream.PubAckFuture, err error) {
	if err == nil {
		select {
		case stored := <-first.Ok():
			p.finish(f, ackOf(stored, f.key), nil)
			return
		case err = <-first.Err():
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", publisher.ErrUnconfirmed, context.Cause(ctx))
		}
	}
	switch {
	case ctx.Err() == nil && transient(err) && p.cfg.Retry.Attempts != 1:
		ack, err := p.again(ctx, m, f.key)
		p.finish(f, ack, err)
	case transient(err) && !errors.Is(err, publisher.ErrUnconfirmed):
		p.finish(f, Ack{}, fmt.Errorf("natspub: publish to %q with key %q: %w: %w", m.Subject, f.key, publisher.ErrUnconfirmed, err))
	default:
		p.finish(f, Ack{}, fmt.Errorf("natspub: publish to %q with key %q: %w", m.Subject, f.key, err))
	}
}

// again makes the tries that are left.
func (p *Publisher) again(ctx context.Context, m *nats.Msg, key string) (Ack, error) {
	rest := &Publisher{js: p.js, cfg: p.cfg}
	if rest.cfg.Retry.Attempts > 0 {
		rest.cfg.Retry.Attempts--
	}
	return rest.send(ctx, m, key)
}

func (p *Publisher) finish(f *Future, ack Ack, err error) {
	p.mu.Lock()
	delete(p.pending, f)
	if err != nil {
		if p.failed++; p.firstErr == nil {
			p.firstErr = err
		}
	}
	p.mu.Unlock()
	f.ack, f.err = ack, err
	close(f.done)
	<-p.slots
}

// Flush waits until every asynchronous message sent before the call has an outcome. It returns the first failure since
// the last Flush that returned, with how many there were, so that futures may be ignored; or ctx's cause if that ends
// first, and then nothing is forgotten.
func (p *Publisher) Flush(ctx context.Context) error {
	p.mu.Lock()
	waiting := make([]*Future, 0, len(p.pending))
	for f := range p.pending {
		waiting = append(waiting, f)
	}
	p.mu.Unlock()
	for _, f := range waiting {
		select {
		case <-f.done:
		case <-ctx.Done():
			return fmt.Errorf("natspub: messages are still on their way: %w", context.Cause(ctx))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	failed, first := p.failed, p.firstErr
	p.failed, p.firstErr = 0, nil
	if failed > 0 {
		return fmt.Errorf("natspub: %d messages failed, the first one: %w", failed, first)
	}
	return nil
}
