package consumer_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/idemq/idemq/consumer"
)

// Where somebody else claims, as many messages as claims elsewhere wait for a worker, and the broker's deadline of one that has
// waited is renewed before it is handed on.
func TestDeliveriesWaitForAProcess(t *testing.T) {
	t.Parallel()
	for _, reachable := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			release, open := gate()
			defer open()
			taken := make(chan string, 4)
			b := newFlow(t, 1, ok)
			flow := b.p.Flow(t.Context(), 1, func(ctx context.Context, del consumer.Delivery) {
				taken <- del.Message().Key
				if del.Message().Subject == "slow" {
					<-release
				}
				_ = del.Ack(ctx)
			})
			defer func() { flow.Stop(); <-flow.Done() }()
			assert.Equal(t, 1, flow.Window(), "while the speed of the workers is not known")
			offer := func(subject string) *delivery {
				d := b.message(subject, "x")
				d.m.Subject = subject
				flow.Offer(d, false)
				synctest.Wait()
				return d
			}
			b.until(offer("first"), "ack")
			assert.Greater(t, flow.Window(), 1, "the workers are quick")
			slow, waits := offer("slow"), offer("waits")
			waits.unhealthy = !reachable
			assert.Len(t, taken, 2)
			pass(10 * time.Second) // a third of the lease, and of the broker's deadline
			open()
			b.until(slow, "ack")
			if !reachable {
				b.until(waits, "nak")
				assert.Len(t, taken, 2)
				assert.EqualValues(t, 1, b.p.Stats().Returned)
				return
			}
			b.until(waits, "ack")
			assert.Equal(t, 1, waits.heard(), "the broker's deadline")
			assert.Zero(t, slow.heard())
		})
	}
}
