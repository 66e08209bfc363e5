package idemtest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/idemtest"
	"github.com/idemq/idemq/dedup"
)

// A handler of steps stands a crash after them, which one without does not: what was done is known although the key was
// never settled. What steps cannot bar is a lease that is lost within one.
func TestStepsStandACrash(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{"steps": {}, "plain": {"crash"}} {
		r := newRecorder()
		idemtest.Run(r, func(effects *idemtest.Effects) consumer.Handler {
			return consumer.HandlerFunc(func(ctx context.Context, _ *consumer.Message) error {
				for _, part := range []string{"reserve", "charge", "ship"} {
					call := func(ctx context.Context) (int, error) { effects.Record(ctx); return 1, nil }
					var err error
					if name == "steps" {
						_, err = dedup.Step(ctx, part, call)
					} else {
						_, err = call(ctx)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		}, idemtest.Message("order-4711", `{"id":4711}`), idemtest.Without(idemtest.LostLease, idemtest.Poison))
		assert.ElementsMatch(t, want, r.failed(), "%s: %v", name, r.said)
	}
}
