package wmidem_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/dedup"
)

func TestMiddlewareAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{MaxAttempts: 3})
	var runs calls
	b.router.AddMiddleware(b.idem.Middleware)
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
		assert.Equal(t, "billing", dedup.KeyFrom(msg.Context()).Scope)
		n := runs.add(string(msg.Payload))
		switch {
		case string(msg.Payload) == "poison":
			return consumer.Permanent(errFlaky)
		case string(msg.Payload) == "panic":
			panic("boom")
		case n == 1:
			return errFlaky
		}
		return nil
	})
	b.run()
	b.publish("orders", keyed("k", "x"), keyed("k", "x"), keyed("k", "x"))
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.Retried == 1 && s.DuplicateAcks == 2 }, "billing")
	assert.Equal(t, 2, runs.of("x"))

	b.publish("orders", keyed("p", "poison"))
	assert.Equal(t, dedup.Permanent, b.letter().Class)
	b.publish("orders", keyed("q", "panic"))
	assert.Contains(t, b.letter().Stack, "TestMiddlewareAlone")
	assert.Equal(t, 3, runs.of("panic"))
	b.publish("orders", message.NewMessage("u", nil))
	assert.Equal(t, dedup.MissingKey, b.letter().Class)
}

func TestMiddlewareAloneRefusesOutputs(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{MaxAttempts: 1})
	b.router.AddMiddleware(b.idem.Middleware)
	b.router.AddHandler("billing", "orders", b.pubsub, "invoices", b.pubsub, message.PassthroughHandler)
	b.run()
	b.publish("orders", keyed("k", "x"))
	assert.Equal(t, wmidem.ErrOutputs.Error(), b.letter().Error)
}

func TestMiddlewareBesideInstallIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{MaxAttempts: 1}).install()
	b.router.AddMiddleware(b.idem.Middleware)
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error { return nil })
	b.run()
	b.publish("orders", keyed("k", "x"))
	assert.Contains(t, b.letter().Error, "use one of them")
}
