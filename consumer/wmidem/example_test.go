package wmidem_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

func Example() {
	pubsub := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	router := message.NewDefaultRouter(watermill.NopLogger{})

	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	acked := make(chan struct{}, 1)
	idem, err := wmidem.New(d, wmidem.Config{DeadLetter: pubsub, Config: consumer.Config{
		Logger: slog.New(slog.DiscardHandler), Backoff: consumer.Backoff{Initial: time.Millisecond},
		Observer: observer(func(e consumer.Event) {
			if e.Kind == consumer.DuplicateAck {
				acked <- struct{}{}
			}
		}),
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := idem.Install(router); err != nil {
		fmt.Println(err)
		return
	}
	failed := false
	router.AddConsumerHandler("billing", "orders", pubsub, func(msg *message.Message) error {
		if !failed {
			failed = true
			fmt.Println("the gateway does not answer")
			return context.DeadlineExceeded
		}
		fmt.Println("charged", dedup.KeyFrom(msg.Context()).ID)
		return nil
	})
	done := make(chan error)
	go func() { done <- router.Run(context.Background()) }()
	<-router.Running()

	for _, uuid := range []string{"first", "second"} { // the same operation, published twice
		msg := message.NewMessage(uuid, []byte(`{"id":4711}`))
		msg.Metadata.Set("Idempotency-Key", "order-4711")
		if err := pubsub.Publish("orders", msg); err != nil {
			fmt.Println(err)
		}
	}
	<-acked
	fmt.Println("the duplicate is acknowledged")
	fmt.Println(router.Close(), <-done)
	// Output:
	// the gateway does not answer
	// charged order-4711
	// the duplicate is acknowledged
	// <nil> <nil>
}

type observer func(consumer.Event)

func (f observer) Observe(e consumer.Event) { f(e) }
