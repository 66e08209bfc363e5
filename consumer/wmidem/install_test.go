package wmidem_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher"
)

func TestDuplicatesRunOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{}).install()
	var runs calls
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
		assert.Equal(t, dedup.Key{Scope: "billing", ID: "order-1"}, dedup.KeyFrom(msg.Context()))
		assert.NotZero(t, dedup.FenceFrom(msg.Context()))
		assert.Equal(t, "billing", message.HandlerNameFromCtx(msg.Context()))
		runs.add(string(msg.Payload))
		return nil
	})
	b.run()
	b.publish("orders", keyed("order-1", "x"), keyed("order-1", "x"))
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.DuplicateAcks == 1 }, "billing")
	b.publish("orders", keyed("order-1", "x"))
	b.eventually(func(s consumer.Stats) bool { return s.DuplicateAcks == 2 }, "billing")
	assert.Equal(t, 1, runs.of("x"))
	assert.Equal(t, dedup.Consumed, b.state("billing", "order-1"))
	b.noLetter()
}

func TestTwoHandlersOfOneTopicBothRun(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{}).install()
	for _, name := range []string{"billing", "shipping"} {
		b.router.AddConsumerHandler(name, "orders", b.pubsub, func(*message.Message) error { return nil })
	}
	b.run()
	b.publish("orders", keyed("order-1", "x"))
	for _, name := range []string{"billing", "shipping"} {
		b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.DuplicateAcks == 0 }, name)
	}
}

// The handler fails once. Watermill's Deduplicator has marked the key by then and takes the redelivery for a duplicate.
func TestOneFailureLosesAMessageWithTheDeduplicatorAndNotHere(t *testing.T) {
	t.Parallel()
	flaky := func(runs *calls, done *calls) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			if runs.add(string(msg.Payload)) == 1 {
				return errFlaky
			}
			done.add(string(msg.Payload))
			return nil
		}
	}
	var theirs, theirsDone, ours, oursDone calls

	b := newBench(t, quick(), dedup.Config{}).install()
	b.router.AddConsumerHandler("ours", "orders", b.pubsub, flaky(&ours, &oursDone))
	b.run()

	other := newBench(t, quick(), dedup.Config{})
	answered := make(chan struct{}, 2) // for each delivery that was let through or dropped
	other.router.AddMiddleware(
		func(h message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				defer func() { answered <- struct{}{} }()
				return h(msg)
			}
		},
		(&middleware.Deduplicator{
			KeyFactory: middleware.NewMessageHasherFromMetadataField(publisher.KeyHeader), Repository: seen{&sync.Map{}}, Timeout: time.Second,
		}).Middleware,
	)
	other.router.AddConsumerHandler("theirs", "orders", other.pubsub, flaky(&theirs, &theirsDone))
	other.run()

	b.publish("orders", keyed("order-1", "x"))
	other.publish("orders", keyed("order-1", "x"))
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.Retried == 1 }, "ours")
	<-answered
	<-answered
	assert.Equal(t, 1, oursDone.of("x"), "the effect is there")
	assert.Equal(t, 0, theirsDone.of("x"), "the effect is lost, and the message acknowledged")
}

func TestFailuresAreRetriedAndUsedUpAttemptsDie(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{MaxAttempts: 3}).install()
	var runs calls
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
		assert.Equal(t, runs.add("all"), dedup.AttemptFrom(msg.Context()))
		return errFlaky
	})
	b.run()
	sent := keyed("order-1", "x")
	sent.Metadata.Set("Tenant", "blue")
	b.publish("orders", sent)
	l := b.letter()
	assert.Equal(t, dedup.Exhausted, l.Class)
	assert.Equal(t, 3, l.Attempts)
	assert.Equal(t, 3, runs.of("all"))
	assert.Equal(t, "flaky", l.Error)
	assert.Equal(t, "billing", l.Scope)
	assert.Equal(t, "billing", l.Durable)
	assert.Equal(t, "orders", l.Subject)
	assert.Equal(t, "order-1", l.Key)
	assert.Equal(t, []byte("x"), l.Data)
	assert.Equal(t, []string{"blue"}, l.Header["Tenant"])
	assert.Equal(t, []string{sent.UUID}, l.Header[wmidem.UUIDHeader])
	b.eventually(func(s consumer.Stats) bool { return s.DeadLettered == 1 }, "billing")
	assert.Equal(t, dedup.DeadSent, b.state("billing", "order-1"))
}

func TestErrorsChooseTheClass(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{}).install()
	var runs calls
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
		n := runs.add(string(msg.Payload))
		switch p := string(msg.Payload); {
		case p == "permanent":
			return consumer.Permanent(errors.New("no such product"))
		case p == "later" && n == 1:
			return consumer.RetryAfter(0, errFlaky)
		case p == "panic":
			panic("boom")
		}
		return nil
	})
	b.run()
	b.publish("orders", keyed("k-permanent", "permanent"))
	l := b.letter()
	assert.Equal(t, dedup.Permanent, l.Class)
	assert.Equal(t, "no such product", l.Error)
	assert.Equal(t, 1, runs.of("permanent"))

	b.publish("orders", keyed("k-later", "later"))
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 }, "billing")

	b.publish("orders", keyed("k-panic", "panic"))
	l = b.letter()
	assert.Equal(t, dedup.Exhausted, l.Class)
	assert.Contains(t, l.Error, "boom")
	assert.Contains(t, l.Stack, "TestErrorsChooseTheClass")
	assert.Equal(t, dedup.DefaultMaxAttempts, runs.of("panic"))
}

func TestMissingKeys(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, derive func(*consumer.Message) (string, error)) *bench {
		t.Helper()
		cfg := quick()
		cfg.DeriveKey = derive
		b := newBench(t, cfg, dedup.Config{}).install()
		b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error { return nil })
		b.run()
		return b
	}
	t.Run("dead letter", func(t *testing.T) {
		t.Parallel()
		b := run(t, nil)
		b.publish("orders", message.NewMessage("u-1", []byte("x")), message.NewMessage("u-2", []byte("x")))
		first, second := b.letter(), b.letter()
		assert.Equal(t, dedup.MissingKey, first.Class)
		assert.NotEqual(t, first.ID(), second.ID(), "two messages are two letters")
		b.eventually(func(s consumer.Stats) bool { return s.DeadLettered == 2 && s.Executed == 0 }, "billing")
	})
	t.Run("uuid", func(t *testing.T) {
		t.Parallel()
		b := run(t, wmidem.MessageUUID)
		b.publish("orders", message.NewMessage("u-1", []byte("x")), message.NewMessage("u-1", []byte("x")))
		b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.DuplicateAcks == 1 }, "billing")
		b.publish("orders", message.NewMessage("", []byte("x")))
		assert.Equal(t, dedup.MissingKey, b.letter().Class)
	})
	t.Run("function", func(t *testing.T) {
		t.Parallel()
		b := run(t, func(m *consumer.Message) (string, error) { return "body-" + string(m.Data), nil })
		b.publish("orders", message.NewMessage("u-1", []byte("x")))
		b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 }, "billing")
		assert.Equal(t, dedup.Consumed, b.state("billing", "body-x"))
	})
}

func TestAnotherPayloadUnderAKeyIsALetter(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{}).install()
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error { return nil })
	b.run()
	b.publish("orders", keyed("k", "x"))
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 }, "billing")
	b.publish("orders", keyed("k", "y"))
	l := b.letter()
	assert.Equal(t, dedup.ConflictingPayload, l.Class)
	assert.Equal(t, []byte("y"), l.Data)
}

func TestWhatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	_, err = wmidem.New(nil, wmidem.Config{})
	assert.ErrorIs(t, err, wmidem.ErrConfig)
	_, err = wmidem.New(d, wmidem.Config{})
	assert.ErrorContains(t, err, "DeadLetter is nil")
	cfg := quick()
	cfg.DeadLetter = newBench(t, cfg, dedup.Config{}).pubsub
	for _, change := range []func(c *wmidem.Config){
		func(c *wmidem.Config) { c.MaxHold = -1 }, func(c *wmidem.Config) { c.Grace = -1 },
		func(c *wmidem.Config) { c.Backoff.Multiplier = 0.5 },
	} {
		c := cfg
		change(&c)
		_, err = wmidem.New(d, c)
		assert.Error(t, err)
	}

	b := newBench(t, quick(), dedup.Config{}).install()
	assert.ErrorIs(t, b.idem.Install(nil), wmidem.ErrConfig)
	assert.ErrorContains(t, b.idem.Install(b.router), "installed on this router already")

	for name, want := range map[string]string{"": "has no name", "two words": "rename it or set Config.Scope"} {
		b := newBench(t, quick(), dedup.Config{}).install()
		b.router.AddConsumerHandler(name, "orders", b.pubsub, func(*message.Message) error { return nil })
		assert.ErrorContains(t, b.router.Run(t.Context()), want)
		require.NoError(t, b.pubsub.Close())
	}

	late := newBench(t, quick(), dedup.Config{})
	late.router.AddConsumerHandler("billing", "orders", late.pubsub, func(*message.Message) error { return nil })
	late.run()
	assert.ErrorContains(t, late.idem.Install(late.router), "before Run")

	twice := newBench(t, quick(), dedup.Config{})
	sub, err := twice.idem.Decorator("a")(twice.pubsub)
	require.NoError(t, err)
	_, err = twice.idem.Decorator("a")(sub)
	assert.ErrorContains(t, err, "decorated already")
	_, err = twice.idem.Decorator("a")(nil)
	assert.ErrorIs(t, err, wmidem.ErrConfig)
}

func TestScopeIsConfigurable(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Scope = func(handler string) string { return "shop/" + handler }
	b := newBench(t, cfg, dedup.Config{}).install()
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error { return nil })
	b.run()
	b.publish("orders", keyed("k", "x"))
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 }, "billing")
	assert.Equal(t, dedup.Consumed, b.state("shop/billing", "k"))
}
