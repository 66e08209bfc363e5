package natsidem_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
)

// wrap consumes with a wrapped handler until the test ends.
func (b *bench) wrap(fn func(jetstream.Msg)) {
	b.t.Helper()
	h, err := natsidem.Wrap(b.t.Context(), b.js, "ORDERS", "billing", b.deduper(), fn, b.cfg)
	require.NoError(b.t, err)
	c, err := b.js.Consumer(b.t.Context(), "ORDERS", "billing")
	require.NoError(b.t, err)
	cc, err := c.Consume(h, jetstream.PullMaxMessages(1))
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		cc.Stop()
		<-cc.Closed()
	})
}

func TestWrapSettlesThenAcks(t *testing.T) {
	t.Parallel()
	for name, ack := range map[string]func(context.Context, jetstream.Msg) error{
		"Ack":       func(_ context.Context, m jetstream.Msg) error { return m.Ack() },
		"DoubleAck": func(ctx context.Context, m jetstream.Msg) error { return m.DoubleAck(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.publish("k", "1")
			b.publish("k", "1")
			b.wrap(func(m jetstream.Msg) {
				assert.Equal(t, "1", string(m.Data()))
				assert.NoError(t, m.InProgress())
				assert.NoError(t, ack(t.Context(), m))
				assert.ErrorIs(t, m.Ack(), jetstream.ErrMsgAlreadyAckd)
				assert.ErrorIs(t, m.Nak(), jetstream.ErrMsgAlreadyAckd)
				assert.ErrorIs(t, m.InProgress(), jetstream.ErrMsgAlreadyAckd)
			})
			assert.Equal(t, "+ACK", b.nextAnswer())
			assert.Equal(t, dedup.Consumed, b.store.record("k").State)
			assert.Equal(t, "+ACK", b.nextAnswer())
			b.noAnswer()
			assert.Equal(t, 1, b.store.record("k").Attempt)
		})
	}
}

func TestWrapKnowsUnreadableHeadersFromNone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publishRaw("NATS/1.0\r\nno colon here\r\n\r\n", "body")
	b.publishHeader(nil, "body")
	b.wrap(func(jetstream.Msg) { assert.Fail(t, "neither has a key") })
	b.settled()
	require.Len(t, b.letters.all(), 2)
	assert.Equal(t, dedup.Malformed, b.letters.all()[0].Class)
	assert.NotEmpty(t, b.letters.all()[0].RawHeader)
	assert.Equal(t, dedup.MissingKey, b.letters.all()[1].Class)
}

func TestWrapReleasesKillsAndRetries(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tries := map[string]int{} // handlers run one after another
	b.wrap(func(m jetstream.Msg) {
		key := m.Headers().Get("Idempotency-Key")
		tries[key]++
		switch {
		case tries[key] > 1:
			assert.NoError(t, m.Ack())
		case key == "nak":
			assert.NoError(t, m.Nak())
		case key == "delay":
			assert.NoError(t, m.NakWithDelay(200*time.Millisecond))
		case key == "panic":
			panic("boom")
		case key == "term":
			assert.NoError(t, m.TermWithReason("no\r\nsuch account"))
		}
	})
	for key, states := range map[string][]string{
		"nak": {"-NAK {", "+ACK"}, "delay": {"-NAK {", "+ACK"}, "panic": {"-NAK {", "+ACK"}, "silent": {"-NAK {", "+ACK"},
		"term": {"+TERM idemq: dead letter, class permanent"},
	} {
		b.publish(key, "1")
		for _, s := range states {
			assert.Contains(t, b.nextAnswer(), s, key)
		}
	}
	require.Len(t, b.letters.all(), 1)
	assert.Equal(t, "no\r\nsuch account", b.letters.all()[0].Error)
	assert.Equal(t, dedup.DeadSent, b.store.record("term").State)
	assert.Equal(t, 2, b.store.record("silent").Attempt)
}

func TestWrapTellsTheHandlerThatTheLeaseIsLost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("k", "1")
	errs := make(chan error, 1)
	b.wrap(func(m jetstream.Msg) {
		b.store.steal("k")
		errs <- m.Ack()
	})
	require.ErrorIs(t, <-errs, dedup.ErrLeaseLost)
	b.noAnswer()
}
