// Command watermill-router shows a Watermill router whose handlers wmidem has made idempotent, first on gochannel and then on
// JetStream: a duplicate is acknowledged without running, a failure is tried again, and each output is published once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/consumer/wmidem/wmnats"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/examples/internal/embedded"
	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
)

const (
	orders, invoices = "idemq.example.wm.orders", "idemq.example.wm.invoices"
	limit            = time.Minute
)

func main() {
	url := flag.String("nats", "", "URL of a NATS server with JetStream; none starts one in this process")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := run(ctx, *url); err != nil {
		fmt.Fprintln(os.Stderr, "watermill-router:", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context, url string) (err error) {
	nc, done, err := embedded.Connect(url)
	if err != nil {
		return err
	}
	defer done()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{}) // redisstore where several processes work
	if err != nil {
		return err
	}
	fmt.Println("on gochannel:")
	pubsub := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	if err := act(ctx, d, pubsub, pubsub, wmidem.Config{DeadLetter: pubsub}); err != nil {
		return err
	}
	fmt.Println("on JetStream:")
	sub, err := wmnats.NewSubscriber(js, d, wmnats.SubscriberConfig{Group: "shop", Create: true, Config: natsidem.Config{NoReplays: true}})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, js.DeleteStream(ctx, wmnats.StreamName(orders)), js.DeleteStream(ctx, wmnats.StreamName(invoices)))
	}()
	letters := consumer.Config{Letters: deadletter.New(js, deadletter.Config{})} // where "idemq dlq" finds them
	return act(ctx, d, wmnats.NewPublisher(js, natspub.Config{}), sub, wmidem.Config{Config: letters})
}

// act has two handlers: billing charges orders and returns invoices, mailing sends these.
func act(ctx context.Context, d *dedup.Deduper, pub message.Publisher, sub message.Subscriber, cfg wmidem.Config) error {
	ended := make(observer, 1)
	cfg.Observer, cfg.Logger = ended, slog.New(slog.DiscardHandler)
	idem, err := wmidem.New(d, cfg)
	if err != nil {
		return err
	}
	router := message.NewDefaultRouter(watermill.NopLogger{})
	if err := idem.Install(router); err != nil { // before AddMiddleware
		return err
	}
	failed := false
	router.AddHandler("billing", orders, sub, invoices, pub, func(msg *message.Message) ([]*message.Message, error) {
		if string(msg.Payload) == "order 2" && !failed {
			failed = true
			fmt.Println("  billing: the gateway does not answer for", string(msg.Payload))
			return nil, errors.New("no answer")
		}
		fmt.Println("  billing: charged", string(msg.Payload))
		return message.Messages{message.NewMessage(watermill.NewUUID(), append([]byte("invoice of "), msg.Payload...))}, nil
	})
	router.AddConsumerHandler("mailing", invoices, sub, func(msg *message.Message) error {
		fmt.Printf("  mailing: %s, under the derived key %.8s…\n", msg.Payload, dedup.KeyFrom(msg.Context()).ID)
		return nil
	})
	stopped := make(chan error, 1)
	go func() { stopped <- router.Run(ctx) }()
	<-router.Running()
	for _, id := range []string{"1", "1", "2"} {
		msg := message.NewMessage(watermill.NewUUID(), []byte("order "+id))
		msg.Metadata.Set(publisher.KeyHeader, "order-"+id)
		msg.Metadata.Set(nats.MsgIdHdr, msg.UUID) // the stream's duplicate window does not help, as after minutes
		if err := pub.Publish(orders, msg); err != nil {
			return err
		}
		select {
		case e := <-ended:
			if e.Kind == consumer.DuplicateAck {
				fmt.Printf("  billing: %s again, acknowledged without running\n", e.Message.Data)
			}
		case err := <-stopped:
			return err
		}
	}
	err = errors.Join(router.Close(), <-stopped) // when all is settled
	b, m := idem.Stats("billing"), idem.Stats("mailing")
	fmt.Printf("  orders charged: %d, duplicates acknowledged: %d, retried: %d, invoices published: %d\n",
		b.Executed, b.DuplicateAcks, b.Retried, m.Delivered)
	return err
}

// observer is told of duplicates and of invoices that are sent, which is when an order is through.
type observer chan consumer.Event

func (o observer) Observe(e consumer.Event) {
	if e.Kind == consumer.DuplicateAck || e.Kind == consumer.Executed && e.Message.Subject == invoices {
		o <- e
	}
}
