package wmnats_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// The publisher stamps what has neither metadata nor UUID; what the server does not take is refused; and a message so large that
// its dead letter does not fit is kept.
func TestBareAndLargeMessages(t *testing.T) {
	t.Parallel()
	b := run(t, "hostile.orders", 10*time.Second, func(msg *message.Message) error {
		assert.NotEmpty(t, dedup.KeyFrom(msg.Context()).ID)
		if len(msg.Payload) > 0 {
			return consumer.Permanent(errors.New("too much"))
		}
		return nil
	})
	pub := b.publisher()
	require.NoError(t, pub.Publish(b.topic, &message.Message{}))
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 })
	limit := int(b.nc.MaxPayload())
	require.ErrorIs(t, pub.Publish(b.topic, message.NewMessage("u", make([]byte, limit))), nats.ErrMaxPayload)
	require.NoError(t, pub.Publish(b.topic, message.NewMessage("u", make([]byte, limit-200))))
	b.eventually(func(s consumer.Stats) bool { return s.LettersFailed >= 1 })
	assert.Zero(t, b.idem.Stats("billing-handler").DeadLettered)
	c, err := b.js.Consumer(t.Context(), "hostile_orders", "billing")
	require.NoError(t, err)
	info, err := c.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, info.NumAckPending, "it is kept")
}
