package wmidem

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
)

// errSettled: somebody else acked or nacked the original message.
var errSettled = errors.New("wmidem: the message was answered already, the other way")

// delivery is one delivery of a message of somebody else's Pub/Sub.
type delivery struct {
	s       *subscription
	msg     *message.Message
	message consumer.Message
}

func (d *delivery) init(s *subscription, msg *message.Message, handler string) {
	topic := message.SubscribeTopicFromCtx(msg.Context())
	if topic == "" {
		topic = s.topic
	}
	d.s, d.msg = s, msg
	d.message = consumer.Message{Subject: topic, Durable: handler, Deliveries: 1, Header: Header(msg), Data: msg.Payload}
}

// Message implements consumer.Delivery.
func (d *delivery) Message() *consumer.Message { return &d.message }

// Ack implements consumer.Delivery.
func (d *delivery) Ack(context.Context) error {
	if !d.msg.Ack() {
		return errSettled
	}
	return nil
}

// Nak holds the message for the delay, since a nack has none, and then nacks it.
func (d *delivery) Nak(_ context.Context, delay time.Duration) error {
	d.s.hold(min(delay, d.s.i.cfg.MaxHold), d.msg)
	return nil
}

// Term acks: the letter is published, and Watermill knows no other way to end a message.
func (d *delivery) Term(ctx context.Context, _ string) error { return d.Ack(ctx) }

// InProgress has nothing to renew: a Pub/Sub of Watermill has no call for it.
func (d *delivery) InProgress(context.Context) error { return nil }

// Abandon implements consumer.Abandoner: most Pub/Subs would wait for an answer for ever. The claim protects from what a
// further delivery could do.
func (d *delivery) Abandon() { d.s.hold(d.s.i.cfg.MaxHold, d.msg) }
