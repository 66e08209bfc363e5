package wmnats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/consumer/wmidem/wmnats"
	"github.com/idemq/idemq/dedup"
)

// outage is a store that cannot be asked while it is down.
type outage struct {
	dedup.Store

	down atomic.Bool
}

func (o *outage) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	if o.down.Load() {
		return 0, dedup.Record{}, &dedup.StoreError{Op: "acquire", Key: c.Key, Err: errors.New("injected fault")}
	}
	return o.Store.Acquire(ctx, c)
}

// opened counts how often the log says that the store's circuit breaker has opened.
type opened struct {
	slog.Handler

	n *atomic.Int32
}

func (o opened) Enabled(context.Context, slog.Level) bool { return true }

func (o opened) WithAttrs([]slog.Attr) slog.Handler { return o }

func (o opened) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "to" && a.Value.String() == "open" {
			o.n.Add(1)
		}
		return true
	})
	return nil
}

// While the store is down nothing is pulled but what tries it, however soon the server would deliver again.
func TestAnOutageOfTheStoreStopsPulling(t *testing.T) {
	t.Parallel()
	const (
		messages, workers = 300, 4
		failures          = 5 // in a row open the breaker
		openings          = 2 // the second one when a try has failed
	)
	s := newServer(t)
	store := &outage{Store: s.store}
	store.down.Store(true)
	d, err := dedup.New(store, dedup.Config{Lease: 10 * time.Second})
	require.NoError(t, err)
	var breaker atomic.Int32
	log := slog.New(opened{slog.DiscardHandler, &breaker})
	sub, err := wmnats.NewSubscriber(s.js, d, wmnats.SubscriberConfig{
		Config: natsidem.Config{Config: consumer.Config{Logger: quiet}, Workers: workers, NoReplays: true}, Group: "billing", Create: true,
	})
	require.NoError(t, err)
	idem, err := wmidem.New(d, wmidem.Config{
		Config: consumer.Config{Logger: log, StoreDownDelay: time.Millisecond}, DeadLetter: s.publisher(),
	})
	require.NoError(t, err)
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: soon}, watermill.NopLogger{})
	require.NoError(t, err)
	require.NoError(t, idem.Install(router))
	var runs atomic.Int32
	router.AddConsumerHandler("billing", "outage.orders", sub, func(*message.Message) error { runs.Add(1); return nil })
	_, err = s.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "outage_orders", Subjects: []string{"outage.orders"}})
	require.NoError(t, err)
	for i := range messages {
		msg := message.NewMessage("u", nil)
		msg.Metadata.Set("Idempotency-Key", fmt.Sprint("order-", i))
		require.NoError(t, s.publisher().Publish("outage.orders", msg))
	}
	done := make(chan error, 1)
	go func() { done <- router.Run(context.Background()) }()
	t.Cleanup(func() {
		assert.NoError(t, router.Close())
		assert.NoError(t, <-done)
	})

	require.Eventually(t, func() bool { return breaker.Load() >= openings }, soon, 5*time.Millisecond)
	delivered := idem.Stats("billing").Delivered
	// Pulls that were under way when the breaker opened, and those of each try, bring what the workers can take; without the
	// breaker it is thousands.
	const pulls = 10
	assert.LessOrEqual(t, delivered, uint64(failures+pulls*openings*workers), "it pulls only to give back")
	assert.Zero(t, runs.Load())
	store.down.Store(false)
	require.Eventually(t, func() bool { return runs.Load() == messages }, soon, 5*time.Millisecond)
	assert.EqualValues(t, messages, idem.Stats("billing").Executed)
}
