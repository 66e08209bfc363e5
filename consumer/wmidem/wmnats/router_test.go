package wmnats_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/consumer/wmidem/wmnats"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
)

// bench is a router on JetStream with wmidem installed and the handler "billing" on a topic of its own.
type bench struct {
	*server

	t     *testing.T
	topic string
	queue *deadletter.Queue
	idem  *wmidem.Idempotency
}

// run starts the router. Dead letters go to a topic of the dead-letter stream, through our publisher.
func run(t *testing.T, topic string, lease time.Duration, h message.NoPublishHandlerFunc) *bench {
	t.Helper()
	b := &bench{server: newServer(t), t: t, topic: topic}
	b.queue = deadletter.New(b.js, deadletter.Config{})
	var err error
	b.d, err = dedup.New(b.store, dedup.Config{Lease: lease, MaxAttempts: 2})
	require.NoError(t, err)
	sub, err := wmnats.NewSubscriber(b.js, b.d, wmnats.SubscriberConfig{
		Config: natsidem.Config{Config: consumer.Config{Logger: quiet}, Grace: time.Second},
		Group:  "billing", Create: true,
	})
	require.NoError(t, err)
	b.idem, err = wmidem.New(b.d, wmidem.Config{
		Config: consumer.Config{Logger: quiet, Backoff: consumer.Backoff{Initial: 10 * time.Millisecond}}, DeadLetter: b.publisher(),
	})
	require.NoError(t, err)
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: soon}, watermill.NopLogger{})
	require.NoError(t, err)
	require.NoError(t, b.idem.Install(router))
	router.AddConsumerHandler("billing-handler", topic, sub, h)
	done := make(chan error, 1)
	go func() { done <- router.Run(context.Background()) }()
	select {
	case <-router.Running():
	case err := <-done:
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		assert.NoError(t, router.Close())
		assert.NoError(t, <-done)
	})
	return b
}

func (b *bench) publish(msg *nats.Msg, key string) {
	b.t.Helper()
	msg.Subject = b.topic
	_, err := natspub.New(b.js, natspub.Config{}).PublishMsg(b.t.Context(), msg, publisher.Key(key))
	require.NoError(b.t, err)
}

func (b *bench) eventually(what func(s consumer.Stats) bool) {
	b.t.Helper()
	assert.Eventually(b.t, func() bool { return what(b.idem.Stats("billing-handler")) }, soon, 5*time.Millisecond,
		"%+v", b.idem.Stats("billing-handler"))
}

// entry waits for the dead letter of the topic with this class.
func (b *bench) entry(class dedup.Class) (found deadletter.Entry) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		for e, err := range b.queue.List(b.t.Context(), deadletter.Filter{}) {
			if err == nil && e.Letter.Stream == wmnats.StreamName(b.topic) && e.Letter.Class == class {
				found = e
				return true
			}
		}
		return false
	}, soon, 20*time.Millisecond)
	return found
}

func TestRouterOnJetStream(t *testing.T) {
	t.Parallel()
	var flaky, seen atomic.Int32
	b := run(t, "router.orders", 10*time.Second, func(msg *message.Message) error {
		assert.Equal(t, "router_orders/billing", dedup.KeyFrom(msg.Context()).Scope)
		h := wmidem.Header(msg)
		assert.Equal(t, []string{"a", "b", "c"}, h["Tag"])
		assert.Equal(t, []string{"my-id"}, h["Nats-Msg-Id"])
		seen.Add(1)
		if flaky.Add(1) == 1 {
			return errors.New("flaky")
		}
		return nil
	})
	b.publish(&nats.Msg{Data: []byte("x"), Header: nats.Header{"Tag": {"a", "b", "c"}, "Nats-Msg-Id": {"my-id"}}}, "order-1")
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.Retried == 1 })
	b.publish(&nats.Msg{Data: []byte("x"), Header: nats.Header{"Nats-Msg-Id": {"other"}}}, "order-1")
	b.eventually(func(s consumer.Stats) bool { return s.DuplicateAcks == 1 })
	assert.EqualValues(t, 2, seen.Load())
	c, err := b.js.Consumer(t.Context(), "router_orders", "billing")
	require.NoError(t, err)
	assert.Eventually(t, func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0
	}, soon, 10*time.Millisecond)
	assert.Equal(t, "router_orders/billing", c.CachedInfo().Config.Metadata[natsidem.MetadataScope])
}

// The letter goes through our publisher to a topic of the dead-letter stream; listing and replay take it from there, and
// the replay comes back through the subscriber.
func TestDeadLettersAreListedAndReplayed(t *testing.T) {
	t.Parallel()
	var mended atomic.Bool
	b := run(t, "replay.orders", 10*time.Second, func(msg *message.Message) error {
		assert.Equal(t, "u-1", msg.UUID)
		if !mended.Load() {
			return consumer.Permanent(errors.New("no such product"))
		}
		return nil
	})
	b.publish(&nats.Msg{Data: []byte("x"), Header: nats.Header{wmidem.UUIDHeader: {"u-1"}}}, "order-1")
	e := b.entry(dedup.Permanent)
	assert.Equal(t, "no such product", e.Letter.Error)
	assert.Equal(t, "order-1", e.Letter.Key)
	assert.Equal(t, e.Letter.ID(), e.ID)
	b.eventually(func(s consumer.Stats) bool { return s.DeadLettered == 1 })
	mended.Store(true)
	rs := deadletter.NewReplayStream(b.js, deadletter.ReplayStreamConfig{})
	out, err := deadletter.NewReplayer(b.queue, rs, b.store, deadletter.ReplayConfig{}).Replay(t.Context(), e, deadletter.ReplayOptions{})
	require.NoError(t, err)
	assert.Equal(t, deadletter.Published, out.Outcome)
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 })
}

// A handler may take longer than the server's deadline and than the lease: both are renewed.
func TestLeaseAndDeadlineAreRenewedTogether(t *testing.T) {
	t.Parallel()
	began, finish := make(chan struct{}), make(chan struct{})
	const lease = 6 * time.Second // a loaded machine must be able to renew it
	b := run(t, "slow.orders", lease, func(msg *message.Message) error {
		close(began)
		<-finish
		return msg.Context().Err()
	})
	progress, err := b.nc.SubscribeSync("$JS.ACK.slow_orders.billing.>")
	require.NoError(t, err)
	b.publish(&nats.Msg{Data: []byte("x")}, "order-1")
	<-began
	for range 4 { // each a third of the lease
		m, err := progress.NextMsg(soon)
		require.NoError(t, err)
		assert.Equal(t, "+WPI", string(m.Data))
		assert.NotEmpty(t, m.Reply, "it asks for a confirmation")
	}
	close(finish)
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.Delivered == 1 })
}

func TestUnreadableHeadersBecomeADeadLetter(t *testing.T) {
	t.Parallel()
	b := run(t, "raw.orders", 10*time.Second, func(*message.Message) error { return nil })
	raw(t, b.nc.ConnectedUrl(), "raw.orders", "NATS/1.0\r\nno colon here\r\n\r\n", "body")
	assert.Equal(t, "NATS/1.0\r\nno colon here\r\n\r\n", string(b.entry(dedup.Malformed).Letter.RawHeader))
	b.publish(&nats.Msg{Data: []byte("x")}, "order-1")
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 })
}

func raw(t *testing.T, url, subject, header, body string) {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "nats://"))
	require.NoError(t, err)
	defer c.Close()
	_, err = fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false,\"protocol\":1}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		subject, len(header), len(header)+len(body), header, body)
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(soon)))
	buf, got := make([]byte, 4096), ""
	for !strings.Contains(got, "PONG") {
		n, err := c.Read(buf)
		require.NoError(t, err)
		got += string(buf[:n])
	}
}

func TestWhatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sub := s.subscriber(t, "g", 0)
	for _, topic := range []string{"", "a b", "a..b", "a.*", "a.>", ".", "a\r\nb"} {
		_, err := sub.Subscribe(t.Context(), topic)
		assert.ErrorIs(t, err, wmnats.ErrConfig, topic)
		assert.ErrorIs(t, s.publisher().Publish(topic, message.NewMessage("u", nil)), wmnats.ErrConfig, topic)
	}
	for _, cfg := range []wmnats.SubscriberConfig{
		{NackDelay: -1}, {Config: natsidem.Config{IdleExit: 1}}, {Config: natsidem.Config{FilterSubject: "x"}},
	} {
		_, err := wmnats.NewSubscriber(s.js, s.d, cfg)
		assert.ErrorIs(t, err, wmnats.ErrConfig)
	}
	_, err := wmnats.NewSubscriber(nil, s.d, wmnats.SubscriberConfig{})
	assert.ErrorIs(t, err, wmnats.ErrConfig)

	missing, err := wmnats.NewSubscriber(s.js, s.d, wmnats.SubscriberConfig{Config: natsidem.Config{NoReplays: true}})
	require.NoError(t, err)
	_, err = missing.Subscribe(t.Context(), "is.not.there")
	assert.ErrorIs(t, err, natsidem.ErrConfig)

	_, err = s.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "WIDE", Subjects: []string{"wide.>"}})
	require.NoError(t, err)
	_, err = s.js.CreateConsumer(t.Context(), "WIDE", jetstream.ConsumerConfig{
		Durable: "watermill", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1,
	})
	require.NoError(t, err)
	wide, err := wmnats.NewSubscriber(s.js, s.d, wmnats.SubscriberConfig{
		Config: natsidem.Config{NoReplays: true}, Stream: func(string) string { return "WIDE" },
	})
	require.NoError(t, err)
	_, err = wide.Subscribe(t.Context(), "wide.one")
	assert.ErrorContains(t, err, "filter subject")

	require.NoError(t, sub.Close())
	_, err = sub.Subscribe(t.Context(), "late")
	assert.ErrorIs(t, err, wmnats.ErrClosed)
	pub := s.publisher()
	require.NoError(t, pub.Close())
	assert.ErrorIs(t, pub.Publish("late", message.NewMessage("u", nil)), wmnats.ErrClosed)
}
