package tieredstore

import (
	"context"
	"sync"

	"github.com/idemq/idemq/dedup"
)

// endings lets one call at a time end a claim. To settle takes a step in each tier, and a Release in between would end the
// claim in two ways; only its holder, in this process, can do that.
type endings struct {
	mu   sync.Mutex
	busy map[dedup.Key]chan struct{} // closed when the call is over
}

// begin waits its turn. The caller calls over when it is done.
func (e *endings) begin(ctx context.Context, k dedup.Key) (over func(), err error) {
	for {
		over, before := e.enter(k)
		if over != nil {
			return over, nil
		}
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// try is begin for one who does not wait.
func (e *endings) try(k dedup.Key) (over func(), free bool) {
	over, _ = e.enter(k)
	return over, over != nil
}

// enter returns over, or what is closed when the call that is under way is over.
func (e *endings) enter(k dedup.Key) (over func(), before <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if busy, is := e.busy[k]; is {
		return nil, busy
	}
	if e.busy == nil {
		e.busy = map[dedup.Key]chan struct{}{}
	}
	done := make(chan struct{})
	e.busy[k] = done
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.busy, k)
		close(done)
	}, nil
}
