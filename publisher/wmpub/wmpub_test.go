package wmpub_test

import (
	"errors"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/wmpub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type collector struct {
	topics []string
	msgs   []*message.Message
	closed bool
	err    error
}

func (c *collector) Publish(topic string, msgs ...*message.Message) error {
	c.topics, c.msgs = append(c.topics, topic), append(c.msgs, msgs...)
	return c.err
}

func (c *collector) Close() error { c.closed = true; return nil }

func TestKeysAreStampedAndKept(t *testing.T) {
	var c collector
	p, err := wmpub.Decorator(wmpub.Config{})(&c)
	require.NoError(t, err)
	fresh, bare, own, spelled := message.NewMessage("u", nil), &message.Message{}, message.NewMessage("u", nil), message.NewMessage("u", nil)
	own.Metadata.Set(publisher.KeyHeader, "order-1")
	spelled.Metadata.Set("idempotency-KEY", "order-2")
	require.NoError(t, p.Publish("orders", fresh, bare, own, spelled))
	require.Len(t, c.msgs, 4)
	key := fresh.Metadata.Get(publisher.KeyHeader)
	assert.NoError(t, uuid.Validate(key))
	assert.NoError(t, uuid.Validate(bare.Metadata.Get(publisher.KeyHeader)))
	assert.Equal(t, "order-1", own.Metadata.Get(publisher.KeyHeader))
	assert.Equal(t, message.Metadata{publisher.KeyHeader: "order-2"}, spelled.Metadata)

	c.err = errors.New("lost")
	assert.ErrorIs(t, p.Publish("orders", fresh), c.err)
	assert.Equal(t, key, fresh.Metadata.Get(publisher.KeyHeader), "published again it has the same key")
	require.NoError(t, p.Close())
	assert.True(t, c.closed)
}

func TestKeyFunc(t *testing.T) {
	var c collector
	p, err := wmpub.Decorate(&c, wmpub.Config{KeyFunc: func(topic string, h map[string][]string, body []byte) (string, error) {
		return topic + "/" + h["Tenant"][0] + "/" + string(body), nil
	}})
	require.NoError(t, err)
	msg := message.NewMessage("u", []byte("4711"))
	msg.Metadata.Set("Tenant", "blue")
	require.NoError(t, p.Publish("orders", msg))
	assert.Equal(t, "orders/blue/4711", msg.Metadata.Get(publisher.KeyHeader))
}

func TestWhatCannotBeStampedIsNotPublished(t *testing.T) {
	_, err := wmpub.Decorate(nil, wmpub.Config{})
	assert.ErrorIs(t, err, wmpub.ErrInvalid)
	var c collector
	p, err := wmpub.Decorate(&c, wmpub.Config{})
	require.NoError(t, err)
	bad, twice := message.NewMessage("u", nil), message.NewMessage("u", nil)
	bad.Metadata.Set(publisher.KeyHeader, "two words")
	twice.Metadata = message.Metadata{publisher.KeyHeader: "a", "idempotency-key": "a"}
	for _, msg := range []*message.Message{bad, twice} {
		assert.ErrorIs(t, p.Publish("orders", message.NewMessage("u", nil), msg), publisher.ErrMalformedKey)
	}
	assert.ErrorIs(t, p.Publish("orders", nil), wmpub.ErrInvalid)
	assert.Empty(t, c.msgs)
	assert.NoError(t, p.Publish("orders"))
}
