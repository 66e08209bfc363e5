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
		e.mu.Lock()
		if e.busy == nil {
			e.busy = map[dedup.Key]chan struct{}{}
		}
		before, is := e.busy[k]
		if !is {
			done := make(chan struct{})
			e.busy[k] = done
			e.mu.Unlock()
			return func() {
				e.mu.Lock()
				defer e.mu.Unlock()
				delete(e.busy, k)
				close(done)
			}, nil
		}
		e.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
