package idemtest_test

import (
	"context"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/idemtest"
	"github.com/idemq/idemq/dedup"
)

// keyedGateway is a fake of a gateway that takes an idempotency key and charges once for each.
type keyedGateway struct {
	effects *idemtest.Effects
	seen    map[string]bool
}

func (g *keyedGateway) charge(_ context.Context, key string, _ payment) error {
	if !g.seen[key] {
		g.seen[key] = true
		g.effects.RecordKey(key)
	}
	return nil
}

// The same handler, mended: it passes the key on, and the gateway charges once for it.
func Example_mended() {
	handler := func(effects *idemtest.Effects) consumer.Handler {
		g := &keyedGateway{effects: effects, seen: map[string]bool{}}
		return consumer.JSON(func(ctx context.Context, p payment) error { return g.charge(ctx, dedup.KeyFrom(ctx).ID, p) })
	}

	t := &printer{} // in a test: the *testing.T
	idemtest.Run(t, handler, idemtest.Message("order-4711", `{"id":4711}`))
	// Output:
	// ok   redelivery
	// ok   crash
	// ok   lost-lease
	// ok   parallel
	// ok   poison
	// ok   slow
}
