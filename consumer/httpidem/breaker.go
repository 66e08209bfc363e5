package httpidem

import (
	"context"
	"errors"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/breaker"
)

// newBreaker returns what keeps requests from waiting for a store that is down, each until its time limit.
func newBreaker(cfg Config) *breaker.Breaker {
	return breaker.New(cfg.Service, func(from, to string) {
		cfg.Logger.Warn("httpidem: store circuit breaker", "service", cfg.Service, "from", from, "to", to)
	})
}

// begin asks the store, unless it is known to be down.
func (x *exchange) begin(ctx context.Context) (*dedup.Guard, dedup.Outcome, error) {
	call, err := x.m.breaker.Allow()
	if err != nil {
		return nil, dedup.Outcome{}, &dedup.StoreError{Op: "acquire", Key: x.key, Err: err}
	}
	g, out, err := x.m.d.Begin(ctx, x.key, x.fp)
	if err == nil || !isDown(err) {
		call.End(nil)
	} else {
		call.End(err)
	}
	return g, out, err
}

// isDown says whether the store did not answer. Any other error is an answer.
func isDown(err error) bool {
	var se *dedup.StoreError
	return errors.As(err, &se) || errors.Is(err, context.DeadlineExceeded)
}
