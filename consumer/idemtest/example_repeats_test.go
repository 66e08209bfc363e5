package idemtest_test

import (
	"context"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/idemtest"
)

// gateway is a fake of a payment gateway that charges whenever it is called.
type gateway struct{ effects *idemtest.Effects }

func (g *gateway) charge(ctx context.Context, _ payment) error {
	g.effects.Record(ctx)
	return nil
}

// A handler that calls a gateway without telling it which operation that is. If its process dies after the call, the next
// one charges the customer again; and a worker that was stopped, and lost its lease, charges beside the new owner.
func Example_repeats() {
	handler := func(effects *idemtest.Effects) consumer.Handler {
		g := &gateway{effects: effects}
		return consumer.JSON(func(ctx context.Context, p payment) error { return g.charge(ctx, p) })
	}

	t := &printer{} // in a test: the *testing.T
	idemtest.Run(t, handler, idemtest.Message("order-4711", `{"id":4711}`))
	// Output:
	// ok   redelivery
	// FAIL crash
	// idemtest: crash: the effect of key "order-4711" happened 2 times instead of once
	//   what happened: the handler had its effect, and its process died before the key was recorded as consumed. Nobody
	//     can know from outside that the effect is done: when the lease had run out, another worker got the message and
	//     ran the handler again
	//   what to do: pass the key on (dedup.KeyFrom(ctx).ID) and let the sink refuse one that it has seen: a unique
	//     constraint on scope and key in the effect's own transaction, or a far side that deduplicates on the key
	//   runs:
	//     after 0s: "order-4711" on worker 1, attempt 1: effects 1, returned nil; its process died before that was recorded
	//     after 31s: "order-4711" on worker 2, attempt 2: effects 1, returned nil
	// FAIL lost-lease
	// idemtest: lost-lease: the effect of key "order-4711" happened 2 times instead of once
	//   what happened: a worker lost its lease, so that another one took the key over; the handler's context was
	//     cancelled with dedup.ErrLeaseLost, and it had its effect all the same, beside the new owner's
	//   what to do: look at the context right before the effect and pass it on to the sink (a fake must look at
	//     ctx.Err() as the real one does); that narrows the gap. To close it, pass the key on (dedup.KeyFrom(ctx).ID)
	//     and let the sink refuse one that it has seen: a unique constraint on scope and key in the effect's own
	//     transaction, or a far side that deduplicates on the key
	//   runs:
	//     after 31s: "order-4711" on worker 2, attempt 2: effects 1, returned nil
	//     after 31s: "order-4711" on worker 1, attempt 1: effects 1, returned nil; it was stopped first, and lost its lease
	// ok   parallel
	// ok   poison
	// ok   slow
}
