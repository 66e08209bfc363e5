// Package breaker keeps callers from waiting for a store that is down, each until its time limit. It is a circuit breaker
// of gobreaker, with a short way around it while the store is well: that takes no lock and no clock.
package breaker

import (
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	// Failures in a row open the breaker.
	Failures = 5
	// Pause is how long it stays open before the store is tried again.
	Pause = 2 * time.Second
)

// Breaker is safe for concurrent use.
type Breaker struct {
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
	well    atomic.Bool // it is closed, and the last call that it was told of was answered
}

// New returns a closed breaker. It calls changed with the names of its states.
func New(name string, changed func(from, to string)) *Breaker {
	return &Breaker{circuit: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: name, Timeout: Pause,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= Failures },
		OnStateChange: func(_ string, from, to gobreaker.State) { changed(from.String(), to.String()) },
	})}
}

// Call is one call of the store.
type Call struct {
	b    *Breaker
	done func(error) // nil on the short way
}

// Allow returns a call that the caller must end, or an error if the store is known to be down.
func (b *Breaker) Allow() (Call, error) {
	if b.well.Load() {
		return Call{b: b}, nil
	}
	done, err := b.circuit.Allow()
	return Call{b: b, done: done}, err
}

// End tells whether the store has answered, by its failure.
func (c Call) End(failure error) {
	switch {
	case c.done == nil && failure == nil: // nothing that the breaker does not know
	case c.done == nil:
		c.b.well.Store(false)
		if done, err := c.b.circuit.Allow(); err == nil {
			done(failure)
		}
	default:
		c.done(failure)
		if failure == nil && c.b.circuit.State() == gobreaker.StateClosed {
			c.b.well.Store(true)
		}
	}
}

// Open says whether the store is known to be down.
func (b *Breaker) Open() bool { return !b.well.Load() && b.circuit.State() == gobreaker.StateOpen }
