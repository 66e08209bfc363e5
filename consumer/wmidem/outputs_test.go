package wmidem_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// flakyPublisher fails as often as it is told to.
type flakyPublisher struct {
	message.Publisher

	failures atomic.Int32
	state    func() dedup.State // of the key that is being handled
	seen     dedup.State        // at the last Publish
}

func (p *flakyPublisher) Publish(topic string, msgs ...*message.Message) error {
	if p.failures.Add(-1) >= 0 {
		return errors.New("the publisher is down")
	}
	if p.state != nil {
		p.seen = p.state()
	}
	return p.Publisher.Publish(topic, msgs...)
}

func receive(t *testing.T, ch <-chan *message.Message, n int) []*message.Message {
	t.Helper()
	var got []*message.Message
	for range n {
		select {
		case msg := <-ch:
			msg.Ack()
			got = append(got, msg)
		case <-time.After(soon):
			require.Fail(t, "an output is missing", "%d of %d", len(got), n)
		}
	}
	return got
}

func keysOf(msgs []*message.Message) (keys []string) {
	for _, m := range msgs {
		keys = append(keys, m.Metadata.Get(publisher.KeyHeader))
	}
	return keys
}

func TestOutputsBearDerivedKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{}).install()
	out, err := b.pubsub.Subscribe(t.Context(), "invoices")
	require.NoError(t, err)
	b.router.AddHandler("billing", "orders", b.pubsub, "invoices", b.pubsub,
		func(msg *message.Message) ([]*message.Message, error) {
			own := keyed("own-key", "own")
			copied := msg.Copy()
			copied.Payload = []byte("copied")
			bare := &message.Message{UUID: "u", Payload: []byte("bare")} // without metadata
			twice := message.NewMessage("u", []byte("twice"))
			return message.Messages{message.NewMessage("u", []byte("new")), own, copied, bare, msg, msg, twice, twice}, nil
		})
	b.run()
	b.publish("orders", keyed("order-1", "x"))
	got := receive(t, out, 8)
	key := dedup.Key{Scope: "billing", ID: "order-1"}
	want := map[string][]string{
		"new": {wmidem.OutputKey(key, 0)}, "own": {"own-key"}, "copied": {wmidem.OutputKey(key, 2)},
		"bare": {wmidem.OutputKey(key, 3)}, "x": {wmidem.OutputKey(key, 4), wmidem.OutputKey(key, 5)},
		"twice": {wmidem.OutputKey(key, 6), wmidem.OutputKey(key, 7)},
	}
	have := map[string][]string{}
	for _, m := range got {
		have[string(m.Payload)] = append(have[string(m.Payload)], m.Metadata.Get(publisher.KeyHeader))
	}
	for _, keys := range have {
		slices.Sort(keys)
	}
	for _, keys := range want {
		slices.Sort(keys)
	}
	assert.Equal(t, want, have)
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 }, "billing")
}

func TestOutputKeysDiffer(t *testing.T) {
	t.Parallel()
	keys := map[string]bool{}
	for _, k := range []dedup.Key{{Scope: "a", ID: "b"}, {Scope: "ab", ID: ""}, {Scope: "", ID: "ab"}, {Scope: "b", ID: "a"}} {
		for n := range 3 {
			key := wmidem.OutputKey(k, n)
			assert.NoError(t, dedup.ValidateID(key))
			keys[key] = true
		}
	}
	assert.Len(t, keys, 12)
	assert.Equal(t, "7f41521b527b8261b2cf6fb42b41d1da416ec995", wmidem.OutputKey(dedup.Key{Scope: "billing", ID: "order-1"}, 0),
		"another derivation would give new keys to the retries of what an older version has published")
}

// The outputs are published, and only then the key is consumed. A retry gives them the same keys.
func TestTheKeyIsConsumedAfterTheOutputsArePublished(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{}).install()
	out, err := b.pubsub.Subscribe(t.Context(), "invoices")
	require.NoError(t, err)
	pub := &flakyPublisher{Publisher: b.pubsub, state: func() dedup.State { return b.state("billing", "order-1") }}
	pub.failures.Store(2)
	var runs calls
	b.router.AddHandler("billing", "orders", b.pubsub, "invoices", pub,
		func(*message.Message) ([]*message.Message, error) {
			runs.add("all")
			return message.Messages{message.NewMessage("a", []byte("a")), message.NewMessage("b", []byte("b"))}, nil
		})
	b.run()
	b.publish("orders", keyed("order-1", "x"))
	keys := keysOf(receive(t, out, 2))
	b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.Retried == 2 }, "billing")
	assert.Equal(t, 3, runs.of("all"))
	assert.Equal(t, dedup.Acquired, pub.seen)
	key := dedup.Key{Scope: "billing", ID: "order-1"}
	assert.ElementsMatch(t, []string{wmidem.OutputKey(key, 0), wmidem.OutputKey(key, 1)}, keys)
}

func TestOutputsThatCannotBe(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick(), dedup.Config{MaxAttempts: 1}).install()
	b.router.AddHandler("billing", "orders", b.pubsub, "invoices", b.pubsub,
		func(msg *message.Message) ([]*message.Message, error) {
			if string(msg.Payload) == "nil" {
				return message.Messages{nil}, nil
			}
			return message.Messages{keyed("two words", "x")}, nil
		})
	b.run()
	b.publish("orders", keyed("order-1", "nil"))
	assert.Contains(t, b.letter().Error, "output 0 of the handler is nil")
	b.publish("orders", keyed("order-2", "malformed"))
	assert.Contains(t, b.letter().Error, "malformed idempotency key")
}
