package wmnats_test

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/consumer/wmidem/wmnats"
	"github.com/idemq/idemq/dedup"
)

func charge(context.Context, string, []byte) error { return nil }

// A handler on JetStream, with dead letters where "idemq dlq" finds them.
func Example() {
	handle := func(ctx context.Context, js jetstream.JetStream, d *dedup.Deduper, router *message.Router) error {
		idem, err := wmidem.New(d, wmidem.Config{Config: consumer.Config{Letters: deadletter.New(js, deadletter.Config{})}})
		if err != nil {
			return err
		}
		if err := idem.Install(router); err != nil {
			return err
		}
		sub, err := wmnats.NewSubscriber(js, d, wmnats.SubscriberConfig{Group: "billing", Create: true})
		if err != nil {
			return err
		}
		router.AddConsumerHandler("billing", "orders.created", sub, func(msg *message.Message) error {
			return charge(msg.Context(), dedup.KeyFrom(msg.Context()).ID, msg.Payload)
		})
		return router.Run(ctx)
	}
	_ = handle
}
