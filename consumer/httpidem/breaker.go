package httpidem

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/idemq/idemq/dedup"
)

const (
	breakerFailures = 5               // in a row open the breaker
	breakerPause    = 2 * time.Second // before the store is tried again
)

// newBreaker returns what keeps requests from waiting for a store that is down, each until its time limit.
func newBreaker(cfg Config) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: cfg.Service, Timeout: breakerPause,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerFailures },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			cfg.Logger.Warn("httpidem: store circuit breaker", "service", cfg.Service, "from", from.String(), "to", to.String())
		},
	})
}

// begin asks the store, unless it is known to be down.
func (x *exchange) begin(ctx context.Context) (*dedup.Guard, dedup.Outcome, error) {
	done, err := x.m.breaker.Allow()
	if err != nil {
		return nil, dedup.Outcome{}, &dedup.StoreError{Op: "acquire", Key: x.key, Err: err}
	}
	g, out, err := x.m.d.Begin(ctx, x.key, x.fp)
	if err == nil || !isDown(err) {
		done(nil)
	} else {
		done(err)
	}
	return g, out, err
}

// isDown says whether the store did not answer. Any other error is an answer.
func isDown(err error) bool {
	var se *dedup.StoreError
	return errors.As(err, &se) || errors.Is(err, context.DeadlineExceeded)
}
