package dedup

import (
	"context"
	"sync"
	"time"
)

// lazyContext is a context with what context.WithTimeout and context.WithCancelCause give, made when somebody asks for it: a
// call of a store that answers at once, and a handler that does not wait, never look at a channel or need a timer.
type lazyContext struct {
	parent   context.Context //nolint:containedctx // it is a context
	deadline time.Time       // zero for none of its own
	guard    *Guard          // whose claim it is; nil for the parent's

	mu     sync.Mutex
	ended  bool
	real   context.Context //nolint:containedctx // likewise; nil until somebody asks for the channel
	cancel context.CancelCauseFunc
}

// withLimit is a context for one call of the store, which begins now. The caller ends it.
func withLimit(parent context.Context, now time.Time, d time.Duration) *lazyContext {
	return &lazyContext{parent: parent, deadline: now.Add(d)}
}

// Deadline returns the earlier one of its own and the parent's.
func (c *lazyContext) Deadline() (time.Time, bool) {
	d, ok := c.parent.Deadline()
	if c.deadline.IsZero() || ok && d.Before(c.deadline) {
		return d, ok
	}
	return c.deadline, true
}

// Done makes the channel, and the timer that closes it.
func (c *lazyContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.make().Done()
}

// make returns the context that stands behind this one. The caller holds mu.
func (c *lazyContext) make() context.Context {
	if c.real != nil {
		return c.real
	}
	c.real, c.cancel = context.WithCancelCause(c.parent)
	if !c.deadline.IsZero() {
		timed, stop := context.WithDeadline(c.real, c.deadline)
		cancel := c.cancel
		c.real, c.cancel = timed, func(cause error) { cancel(cause); stop() }
	}
	if c.ended {
		c.cancel(nil)
	}
	return c.real
}

// Err looks at the clock itself while nobody has asked for the channel.
func (c *lazyContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.real != nil:
		return c.real.Err()
	case c.ended:
		return context.Canceled
	case c.parent.Err() != nil:
		return c.parent.Err()
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value returns the parent's, but for the claim.
func (c *lazyContext) Value(key any) any {
	if c.guard != nil && key == any(contextKey{}) {
		return c.guard
	}
	c.mu.Lock()
	behind := c.real
	c.mu.Unlock()
	if behind != nil { // package context finds its own part there, with the cause
		return behind.Value(key)
	}
	return c.parent.Value(key)
}

// end cancels it. A cause other than nil is what context.Cause says from then on.
func (c *lazyContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cause != nil && !c.ended {
		c.make()
	}
	c.ended = true
	if c.cancel != nil {
		c.cancel(cause)
	}
}
