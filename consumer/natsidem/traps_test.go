package natsidem_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

// What JetStream does that idemq has to survive. If one of these fails after an upgrade, a rule may have lost its reason.

func trap(t *testing.T, cfg jetstream.ConsumerConfig) (*testserver.NATSServer, *nats.Conn, jetstream.JetStream, jetstream.Consumer) {
	t.Helper()
	srv := testserver.NATS(t)
	nc := srv.Conn(t, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>", "orders.>"}})
	require.NoError(t, err)
	cfg.Durable, cfg.AckPolicy = "c", jetstream.AckExplicitPolicy
	c, err := js.CreateConsumer(t.Context(), "S", cfg)
	require.NoError(t, err)
	return srv, nc, js, c
}

func next(t *testing.T, c jetstream.Consumer) jetstream.Msg {
	t.Helper()
	m, err := c.Next(jetstream.FetchMaxWait(patience))
	require.NoError(t, err)
	return m
}

func deliveries(t *testing.T, m jetstream.Msg) uint64 {
	t.Helper()
	meta, err := m.Metadata()
	require.NoError(t, err)
	return meta.NumDelivered
}

func TestTrapStaleAckIsAccepted(t *testing.T) {
	t.Parallel()
	_, _, js, c := trap(t, jetstream.ConsumerConfig{AckWait: 100 * time.Millisecond})
	_, err := js.Publish(t.Context(), "s.a", nil)
	require.NoError(t, err)
	stale := next(t, c)
	current := next(t, c)
	require.EqualValues(t, 2, deliveries(t, current))
	require.NoError(t, stale.DoubleAck(t.Context()), "proves durability, not ownership")
	info, err := c.Info(t.Context())
	require.NoError(t, err)
	assert.Zero(t, info.NumAckPending, "the running delivery's message is gone")
	require.NoError(t, current.DoubleAck(t.Context()), "a repeated one, too")
}

func TestTrapStaleNakMakesAnotherDelivery(t *testing.T) {
	t.Parallel()
	_, _, js, c := trap(t, jetstream.ConsumerConfig{AckWait: 3 * time.Second})
	_, err := js.Publish(t.Context(), "s.a", nil)
	require.NoError(t, err)
	stale := next(t, c)
	running := next(t, c)
	began := time.Now()
	require.NoError(t, stale.Nak())
	beside := next(t, c)
	assert.Equal(t, deliveries(t, running)+1, deliveries(t, beside))
	assert.Less(t, time.Since(began), 2900*time.Millisecond, "it came by the nak, not by AckWait")
}

func TestTrapBackOffBreaksDelayedNaks(t *testing.T) {
	t.Parallel()
	const asked = 100 * time.Millisecond
	_, _, js, c := trap(t, jetstream.ConsumerConfig{MaxDeliver: -1, BackOff: []time.Duration{time.Second, 2 * time.Second}})
	_, err := js.Publish(t.Context(), "s.a", nil)
	require.NoError(t, err)
	worst := time.Duration(0)
	for range 3 {
		m := next(t, c)
		began := time.Now()
		require.NoError(t, m.NakWithDelay(asked))
		again := next(t, c)
		worst = max(worst, time.Since(began))
		require.NoError(t, again.NakWithDelay(asked))
	}
	assert.Greater(t, worst, 5*asked, "some delay is not the one that was asked for")
}

func TestTrapPublishWindowSwallowsTheSameID(t *testing.T) {
	t.Parallel()
	_, _, js, _ := trap(t, jetstream.ConsumerConfig{})
	first, err := js.Publish(t.Context(), "s.a", []byte("one"), jetstream.WithMsgID("id"))
	require.NoError(t, err)
	second, err := js.Publish(t.Context(), "s.b", []byte("two"), jetstream.WithMsgID("id"))
	require.NoError(t, err)
	assert.False(t, first.Duplicate)
	assert.True(t, second.Duplicate, "it ignores subject and body")
	assert.Equal(t, first.Sequence, second.Sequence)
}

func TestTrapInProgressWhileDisconnectedSaysNothing(t *testing.T) {
	t.Parallel()
	srv, nc, js, c := trap(t, jetstream.ConsumerConfig{})
	_, err := js.Publish(t.Context(), "s.a", nil)
	require.NoError(t, err)
	m := next(t, c)
	srv.Stop()
	require.Eventually(t, nc.IsReconnecting, patience, tick)
	require.NoError(t, m.InProgress(), "it is only buffered")
	require.NoError(t, m.Ack(), "and so is an ack, which goes out whenever the server is back")
}

func TestTrapUndecodableHeadersPassAsNone(t *testing.T) {
	t.Parallel()
	srv, nc, js, c := trap(t, jetstream.ConsumerConfig{})
	b := &bench{t: t, srv: srv, nc: nc, js: js}
	b.publishRaw("NATS/1.0\r\nno colon here\r\n\r\n", "body")
	m := next(t, c)
	assert.Nil(t, m.Headers())
	assert.Equal(t, "body", string(m.Data()))
	s, err := js.Stream(t.Context(), "S")
	require.NoError(t, err)
	_, err = s.GetMsg(t.Context(), 1)
	require.Error(t, err, "the client's own call does not give the bytes")
}

// Such a message is never seen by any client: it is delivered again after every AckWait, and what came behind it in the
// same pull waits that long, too. A worker pulls by itself.
func TestTrapEmptyMessageWithAStatusHeaderIsTakenForTheServersWord(t *testing.T) {
	t.Parallel()
	_, _, js, c := trap(t, jetstream.ConsumerConfig{})
	_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "s.a", Header: nats.Header{"Status": {"404"}}})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "s.b", []byte("behind"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { // it hears of them a moment after the publisher has its confirmation
		info, err := c.Info(t.Context())
		return err == nil && info.NumPending == 2
	}, patience, tick)
	batch, err := c.FetchNoWait(2)
	require.NoError(t, err)
	got := 0
	for range batch.Messages() {
		got++
	}
	require.NoError(t, batch.Error())
	assert.Zero(t, got)
	info, err := c.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 2, info.NumAckPending)
}

func TestEmptyMessageWithAStatusHeaderIsHandled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publishHeader(nats.Header{publisher.KeyHeader: {"k1"}, "Status": {"404"}}, "")
	b.publishHeader(nats.Header{publisher.KeyHeader: {"k2"}, "Status": {"409"}, "Description": {"Consumer Deleted"}}, "")
	b.publish("k3", "behind")
	b.run(succeed)
	b.stats(func(s consumer.Stats) bool { return s.Executed == 3 })
	b.settled()
}

// Messages without headers are told from those whose headers cannot be parsed without asking the stream.
func TestMessageWithoutHeadersCostsNoRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spy := b.srv.Conn(t)
	asked, err := spy.SubscribeSync("$JS.API.STREAM.MSG.GET.>")
	require.NoError(t, err)
	require.NoError(t, spy.Flush())
	_, err = b.js.Publish(t.Context(), "orders.created", []byte("bare"))
	require.NoError(t, err)
	b.run(succeed)
	b.stats(func(s consumer.Stats) bool { return s.DeadLettered == 1 })
	b.settled()
	require.NoError(t, spy.Flush())
	n, _, err := asked.Pending()
	require.NoError(t, err)
	assert.Zero(t, n)
}
