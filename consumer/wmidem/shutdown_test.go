package wmidem_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/dedup"
)

func TestRouterClosedInTheMiddleOfAHandlerWaitsForIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{}).install()
	began, finish := make(chan struct{}), make(chan struct{})
	outputs := &closable{}
	b.router.AddHandler("billing", "orders", b.pubsub, "invoices", outputs,
		func(msg *message.Message) ([]*message.Message, error) {
			close(began)
			<-finish
			return message.Messages{message.NewMessage("u", nil)}, msg.Context().Err()
		})
	b.run()
	b.publish("orders", keyed("order-1", "x"))
	<-began
	closed := make(chan struct{})
	go func() { defer close(closed); b.stop() }()
	require.Eventually(t, func() bool { return b.pubsub.Publish("closed?", keyed("k", "")) != nil }, soon, time.Millisecond)
	close(finish)
	<-closed
	assert.EqualValues(t, 1, outputs.published.Load(), "the publisher was open until the outputs were published")
	assert.Equal(t, dedup.Consumed, b.state("billing", "order-1"))
}

// closable is a publisher that takes nothing after Close.
type closable struct {
	closed    atomic.Bool
	published atomic.Int32
}

func (p *closable) Publish(string, ...*message.Message) error {
	if p.closed.Load() {
		return errors.New("closed")
	}
	p.published.Add(1)
	return nil
}

func (p *closable) Close() error { p.closed.Store(true); return nil }

func TestHandlersAreCancelledAfterGraceAndNothingCounts(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Grace = 10 * time.Millisecond
	b := newBench(t, cfg, dedup.Config{}).install()
	began := make(chan struct{})
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
		close(began)
		<-msg.Context().Done()
		assert.ErrorIs(t, context.Cause(msg.Context()), consumer.ErrShutdown)
		return msg.Context().Err()
	})
	b.run()
	b.publish("orders", keyed("order-1", "x"))
	<-began
	b.stop()
	r, err := b.store.Get(t.Context(), dedup.Key{Scope: "billing", ID: "order-1"})
	require.NoError(t, err)
	assert.Equal(t, dedup.Failed, r.State)
	assert.Zero(t, r.Attempt, "a shutdown uses up no attempt")
}

func TestAHandlerThatIgnoresTheCancellationIsNamed(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Grace = 10 * time.Millisecond
	b := newBench(t, cfg, dedup.Config{})
	sub, err := b.idem.Decorator("billing")(b.pubsub)
	require.NoError(t, err)
	msgs, err := sub.Subscribe(t.Context(), "orders")
	require.NoError(t, err)
	handle := b.idem.Companion
	began, finish := make(chan struct{}), make(chan struct{})
	go func() {
		for msg := range msgs {
			_, _ = handle(func(*message.Message) ([]*message.Message, error) { close(began); <-finish; return nil, nil })(msg)
			msg.Ack()
		}
	}()
	b.publish("orders", keyed("order-1", "x"))
	<-began
	err = sub.Close()
	assert.ErrorIs(t, err, wmidem.ErrHandlerIgnoresCancellation)
	assert.ErrorContains(t, err, `handler "billing", topic "orders", key "order-1"`)
	assert.Equal(t, dedup.Acquired, b.state("billing", "order-1"), "nobody else may begin")
	close(finish)
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 }, "billing")
}

// Whoever reads without a router, and stops reading, must not keep Close.
func TestCloseWithReadersThatNeverAnswer(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Grace = 10 * time.Millisecond
	b := newBench(t, cfg, dedup.Config{})
	sub, err := b.idem.Decorator("billing")(b.pubsub)
	require.NoError(t, err)
	msgs, err := sub.Subscribe(t.Context(), "orders")
	require.NoError(t, err)
	b.publish("orders", keyed("taken", "x"))
	msg := <-msgs
	b.publish("orders", keyed("waiting", "x"))
	b.eventually(func(s consumer.Stats) bool { return s.Delivered == 2 }, "billing")
	require.NoError(t, sub.Close())
	<-msg.Context().Done()
	_, open := <-msgs
	assert.False(t, open)
	b.eventually(func(s consumer.Stats) bool { return s.Interrupted >= 1 }, "billing")
	_, err = sub.Subscribe(t.Context(), "orders")
	assert.Error(t, err)
}

func TestHostileMessages(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{}).install()
	large := make([]byte, 1<<20)
	var got atomic.Int32
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
		if len(msg.Payload) == len(large) {
			got.Add(1)
		}
		return nil
	})
	b.run()
	odd := keyed("k", "x")
	odd.Metadata["idempotency-KEY"] = "k"
	control := keyed("k2\n", "x")
	control.Metadata["bad\r\nname"] = "bad\r\nvalue\x00"
	huge := keyed(string(make([]byte, 10_000)), "x")
	b.publish("orders",
		&message.Message{UUID: "nil metadata"}, &message.Message{}, odd, control, huge, keyed("ключ", "x"), keyed("a,\"b\"", "x"),
		keyed("large", string(large)))
	classes := map[dedup.Class]int{}
	for range 6 {
		l := b.letter()
		classes[l.Class]++
		if l.Header["bad\r\nname"] != nil {
			assert.Equal(t, []string{"bad\r\nvalue\x00"}, l.Header["bad\r\nname"])
			classes["control"]++
		}
	}
	assert.Equal(t, map[dedup.Class]int{dedup.MissingKey: 2, dedup.Malformed: 4, "control": 1}, classes)
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 2 && s.DeadLettered == 6 }, "billing")
	assert.EqualValues(t, 1, got.Load())
}

func TestALostClaimIsAnsweredInTheEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{Lease: 300 * time.Millisecond}).install()
	var runs calls
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
		if runs.add("all") == 1 {
			assert.NoError(t, b.store.Forget(context.Background(), dedup.KeyFrom(msg.Context()), true))
			<-msg.Context().Done()
			assert.ErrorIs(t, context.Cause(msg.Context()), dedup.ErrLeaseLost)
		}
		return nil
	})
	b.run()
	b.publish("orders", keyed("order-1", "x"))
	b.eventually(func(s consumer.Stats) bool { return s.LeaseLost == 1 && s.Executed == 1 }, "billing")
}

func TestAFailingDeadLetterPublisherKeepsTheMessage(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.LetterDelay = time.Millisecond
	pub := &flakyPublisher{}
	cfg.DeadLetter = pub
	pub.failures.Store(3)
	b := newBench(t, cfg, dedup.Config{})
	pub.Publisher = b.pubsub
	b.install()
	var runs calls
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error {
		runs.add("all")
		return consumer.Permanent(errFlaky)
	})
	b.run()
	b.publish("orders", keyed("order-1", "x"))
	assert.Equal(t, "flaky", b.letter().Error)
	b.eventually(func(s consumer.Stats) bool { return s.LettersFailed == 3 && s.DeadLettered == 1 }, "billing")
	assert.Equal(t, 1, runs.of("all"))
}
