package wmnats

import (
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/publisher/natspub"
)

// Publisher is a message.Publisher that stamps keys: the one in the metadata is kept, else Config.KeyFunc is asked. Every
// message is confirmed by its stream before Publish returns. It is safe for concurrent use.
type Publisher struct {
	p      *natspub.Publisher
	closed atomic.Bool
}

// NewPublisher returns a publisher. A topic is a subject of a stream.
func NewPublisher(js jetstream.JetStream, cfg natspub.Config) *Publisher {
	return &Publisher{p: natspub.New(js, cfg)}
}

// Publish implements message.Publisher: one message after another, within each message's own context. The metadata
// become headers, see wmidem.SetHeader; a Nats-Msg-Id among them is kept. The first error ends it; errors are those of
// natspub.Publisher, and [ErrClosed].
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	for _, msg := range messages {
		if p.closed.Load() {
			return ErrClosed
		}
		out := &nats.Msg{Subject: topic, Header: wmidem.Header(msg), Data: msg.Payload}
		if _, err := p.p.PublishMsg(msg.Context(), out); err != nil {
			return err
		}
	}
	return nil
}

// Close implements message.Publisher. It does not close the connection.
func (p *Publisher) Close() error {
	p.closed.Store(true)
	return nil
}
