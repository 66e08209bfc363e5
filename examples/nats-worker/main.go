// Command nats-worker shows a plain nats.go handler that natsidem.Wrap has made idempotent: its producer sends messages
// again when the stream's duplicate window does not help any more, and the handler runs once for each key.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/examples/internal/embedded"
	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
)

const (
	stream, durable = "IDEMQ_EXAMPLE_ORDERS", "billing"
	limit           = time.Minute
	look            = 20 * time.Millisecond
)

func main() {
	url := flag.String("nats", "", "URL of a NATS server with JetStream; none starts one in this process")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := run(ctx, *url); err != nil {
		fmt.Fprintln(os.Stderr, "nats-worker:", err)
		cancel()
		os.Exit(1)
	}
}

var refused bool // Consume calls its handler for one message after another

// handle is the handler as it was before: it knows nothing of duplicates.
func handle(msg jetstream.Msg) {
	if string(msg.Data()) == "order 2" && !refused {
		refused = true
		fmt.Println("  the gateway refuses", string(msg.Data()))
		_ = msg.NakWithDelay(time.Second)
		return
	}
	fmt.Println("  charge", string(msg.Data()))
	if err := msg.Ack(); err != nil {
		fmt.Println("  not recorded:", err)
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
	var seen duplicates
	cfg := natsidem.Config{Config: consumer.Config{Observer: &seen}, NoReplays: true}
	cons, err := natsidem.EnsureConsumer(ctx, js, stream, []string{"idemq.example.orders"}, durable, d, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, js.DeleteStream(ctx, stream)) }()
	last, err := publish(ctx, js)
	if err != nil {
		return err
	}

	// These five lines make it idempotent; cons.Consume(handle) was here before.
	wrapped, err := natsidem.Wrap(ctx, js, stream, durable, d, handle, cfg)
	if err != nil {
		return err
	}
	running, err := cons.Consume(wrapped, jetstream.PullMaxMessages(1))
	if err != nil {
		return err
	}
	err = finished(ctx, cons, last)
	running.Drain()
	<-running.Closed()
	fmt.Println("duplicates acknowledged without running:", seen.n.Load())
	return err
}

// publish sends three orders, and each of them again with an id that the stream's duplicate window does not know, as it is
// when a producer repeats itself after minutes.
func publish(ctx context.Context, js jetstream.JetStream) (last uint64, err error) {
	pub := natspub.New(js, natspub.Config{})
	for _, try := range []string{"first", "second"} {
		for order := 1; order <= 3; order++ {
			key := fmt.Sprintf("order-%d", order)
			m := &nats.Msg{
				Subject: "idemq.example.orders", Data: fmt.Appendf(nil, "order %d", order),
				Header: nats.Header{nats.MsgIdHdr: {try + " " + key}},
			}
			ack, err := pub.PublishMsg(ctx, m, publisher.Key(key))
			if err != nil {
				return 0, err
			}
			last = ack.Sequence
			fmt.Printf("%s try of %s stored as message %d\n", try, key, last)
		}
	}
	return last, nil
}

// duplicates counts what was acknowledged without running.
type duplicates struct{ n atomic.Int64 }

func (d *duplicates) Observe(e consumer.Event) {
	if e.Kind == consumer.DuplicateAck {
		d.n.Add(1)
	}
}

// finished waits until every message up to the last is acknowledged.
func finished(ctx context.Context, cons jetstream.Consumer, last uint64) error {
	for {
		info, err := cons.Info(ctx)
		if err != nil || info.AckFloor.Stream >= last {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
	}
}
