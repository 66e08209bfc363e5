package wmidem

import (
	"context"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// Native is a message's own delivery, which a Pub/Sub that can do more than ack and nack puts into the message's context
// (see [WithNative]): delays, a deadline that can be renewed, an end without another delivery. The one in package wmnats
// does.
type Native interface {
	// Take says that the delivery is answered by whoever called it, and no more by the message's Ack or Nack. The returned
	// function says that this is over, or left to the pipeline that keeps the delivery. Before it fetches further messages
	// the subscription calls admit, which waits while the store is known to be down.
	Take(admit func(context.Context) error) (done func())
	// Delivery returns the delivery.
	Delivery() consumer.Delivery
	// Scope is that of the subscription; it takes the place of the handler's.
	Scope() string
}

type nativeKey struct{}

// WithNative returns a context with n for the context of a message.
func WithNative(ctx context.Context, n Native) context.Context {
	return context.WithValue(ctx, nativeKey{}, n)
}

func nativeOf(ctx context.Context) Native {
	n, _ := ctx.Value(nativeKey{}).(Native)
	return n
}

// adopt makes a subscription's scope the one of its handler.
func (i *Idempotency) adopt(handler, scope string) (*consumer.Pipeline, error) {
	i.mu.RLock()
	p, known := i.pipelines[scope], i.scopes[handler] == scope
	i.mu.RUnlock()
	if p != nil && known {
		return p, nil
	}
	if err := dedup.ValidateScope(scope); err != nil {
		return nil, err
	}
	p, err := i.scoped(scope)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.scopes[handler] = scope
	return p, nil
}
