package wmidem

import (
	"context"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// subscriber is the decorated Subscriber: it claims the key of each message before anybody sees it, hands out a copy, and
// answers the original when the claim has ended.
type subscriber struct {
	i       *Idempotency
	inner   message.Subscriber
	handler func(context.Context) string // the name, from a message's context
	routed  bool                         // a router reads, with the companion among its middlewares

	mu            sync.Mutex
	closed        bool
	subscriptions map[*subscription]struct{}
}

type handlerName string

func (n handlerName) of(context.Context) string { return string(n) }

func (i *Idempotency) decorate(sub message.Subscriber, handler func(context.Context) string, routed bool) (message.Subscriber, error) {
	switch sub.(type) {
	case nil:
		return nil, fmt.Errorf("%w: the subscriber is nil", ErrConfig)
	case *subscriber:
		return nil, fmt.Errorf("%w: the subscriber is decorated already; a message would wait for its own claim", ErrConfig)
	}
	s := &subscriber{i: i, inner: sub, handler: handler, routed: routed, subscriptions: map[*subscription]struct{}{}}
	if init, ok := sub.(message.SubscribeInitializer); ok {
		return initializer{subscriber: s, SubscribeInitializer: init}, nil
	}
	return s, nil
}

// initializer keeps the inner subscriber's ability to be initialized.
type initializer struct {
	*subscriber
	message.SubscribeInitializer
}

// Subscribe implements message.Subscriber.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	ctx, stop := context.WithCancel(ctx)
	in, err := s.inner.Subscribe(ctx, topic)
	if err != nil {
		stop()
		return nil, err
	}
	sub := newSubscription(s, topic)
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.subscriptions[sub] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		sub.close()
	}
	unwatch := context.AfterFunc(ctx, sub.close)
	go func() {
		defer stop()
		defer unwatch()
		sub.run(in)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscriptions, sub)
	}()
	return sub.out, nil
}

// Close closes the inner subscriber and waits until running handlers have returned, within Grace. The error is the inner
// one's, or wraps [ErrHandlerIgnoresCancellation].
func (s *subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	open := make([]*subscription, 0, len(s.subscriptions))
	for sub := range s.subscriptions {
		open = append(open, sub)
	}
	s.mu.Unlock()
	for _, sub := range open {
		sub.close() // first: the inner one may wait for answers
	}
	err := s.inner.Close()
	for _, sub := range open {
		<-sub.done
		if sub.stuck != nil {
			err = sub.stuck
		}
	}
	return err
}
