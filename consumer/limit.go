package consumer

import (
	"context"
	"sync"
	"time"
)

// limit is a context that outlives its parent and ends at a time. Unlike one of package context it costs a timer only if
// somebody waits for its end: most answers are sent without waiting. Its parent has no cancellation.
type limit struct {
	context.Context //nolint:containedctx // it is one

	until time.Time
	mu    sync.Mutex
	done  chan struct{}
	timer *time.Timer
}

func newLimit(ctx context.Context, d time.Duration) *limit {
	if ctx.Done() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	return &limit{Context: ctx, until: time.Now().Add(d)}
}

// Deadline implements context.Context.
func (l *limit) Deadline() (time.Time, bool) { return l.until, true }

// Done implements context.Context.
func (l *limit) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		done := make(chan struct{})
		l.done, l.timer = done, time.AfterFunc(time.Until(l.until), func() { close(done) })
	}
	return l.done
}

// Err implements context.Context.
func (l *limit) Err() error {
	if time.Now().Before(l.until) {
		return nil
	}
	return context.DeadlineExceeded
}

// stop frees the timer.
func (l *limit) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
}
