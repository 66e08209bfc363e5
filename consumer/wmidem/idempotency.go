package wmidem

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// Idempotency makes handlers of Watermill routers idempotent. It is safe for concurrent use and may serve any number of
// routers; handlers of one name share their memory.
type Idempotency struct {
	d   *dedup.Deduper
	cfg Config

	mu        sync.RWMutex
	scopes    map[string]string             // by handler
	pipelines map[string]*consumer.Pipeline // by scope
	routers   []*message.Router
}

// New returns an Idempotency on d. The error wraps [ErrConfig] or consumer.ErrConfig.
func New(d *dedup.Deduper, cfg Config) (*Idempotency, error) {
	if d == nil {
		return nil, fmt.Errorf("%w: the deduper is nil", ErrConfig)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	i := &Idempotency{d: d, cfg: cfg, scopes: map[string]string{}, pipelines: map[string]*consumer.Pipeline{}}
	_, err = i.newPipeline("check") // so that settings are refused here
	return i, err
}

// Install makes all handlers of a router idempotent, whatever its Pub/Sub, those that are added later included. Call it
// before any AddMiddleware, so that it sees what the other middlewares make of a handler's error; see the package comment
// for their order.
//
// The error wraps [ErrConfig] if the router runs already or has this installed. A handler without a name, or with one
// that cannot be a scope, makes Run of the router fail with an error that wraps [ErrConfig] or dedup.ErrInvalidKey.
func (i *Idempotency) Install(r *message.Router) error {
	if r == nil {
		return fmt.Errorf("%w: the router is nil", ErrConfig)
	}
	i.mu.Lock()
	installed := slices.Contains(i.routers, r)
	if !installed {
		i.routers = append(i.routers, r)
	}
	i.mu.Unlock()
	switch {
	case installed:
		return fmt.Errorf("%w: it is installed on this router already", ErrConfig)
	case r.IsRunning() || r.IsClosed():
		return fmt.Errorf("%w: the router runs already, and its handlers with it; call Install before Run", ErrConfig)
	}
	r.AddSubscriberDecorators(func(sub message.Subscriber) (message.Subscriber, error) {
		var errs []error
		for name := range r.Handlers() { // the router holds its lock, and has not subscribed yet
			_, err := i.pipeline(name)
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		return i.decorate(sub, message.HandlerNameFromCtx, true)
	})
	r.AddMiddleware(i.companion)
	return nil
}

// Decorator returns a subscriber decorator for use without a router: whoever reads the messages acks them when the effect
// is done, or nacks them to try again. All messages have the handler's scope. Beside a router use Install.
func (i *Idempotency) Decorator(handler string) message.SubscriberDecorator {
	return func(sub message.Subscriber) (message.Subscriber, error) {
		if _, err := i.pipeline(handler); err != nil {
			return nil, err
		}
		return i.decorate(sub, handlerName(handler).of, false)
	}
}

// Stats returns the counts of a handler since its first message; zeros if there was none.
func (i *Idempotency) Stats(handler string) consumer.Stats {
	i.mu.RLock()
	defer i.mu.RUnlock()
	scope, ok := i.scopes[handler]
	if !ok {
		return consumer.Stats{}
	}
	return i.pipelines[scope].Stats()
}

// pipeline returns the pipeline of a handler, with the handler's scope.
func (i *Idempotency) pipeline(handler string) (*consumer.Pipeline, error) {
	i.mu.RLock()
	p := i.pipelines[i.scopes[handler]]
	i.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	if handler == "" {
		return nil, fmt.Errorf("%w: a handler has no name; the name is its scope, so give it one that stays the same", ErrConfig)
	}
	scope := i.cfg.Scope(handler)
	p, err := i.scoped(scope)
	if err != nil {
		return nil, fmt.Errorf("wmidem: the handler %q cannot have the scope %q; rename it or set Config.Scope: %w", handler, scope, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.scopes[handler] = scope
	return p, nil
}

// scoped returns the pipeline of a scope.
func (i *Idempotency) scoped(scope string) (*consumer.Pipeline, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if p := i.pipelines[scope]; p != nil {
		return p, nil
	}
	p, err := i.newPipeline(scope)
	if err == nil {
		i.pipelines[scope] = p
	}
	return p, err
}

// running returns the messages whose handlers run now.
func (i *Idempotency) running() (ms []*consumer.Message) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for _, p := range i.pipelines {
		ms = append(ms, p.Running()...)
	}
	return ms
}

func (i *Idempotency) newPipeline(scope string) (*consumer.Pipeline, error) {
	return consumer.New(i.d, scope, consumer.HandlerFunc(handle), i.cfg.Config)
}
