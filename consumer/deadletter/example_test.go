package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

func Example() {
	js, stop := startNATS()
	defer stop()
	ctx := context.Background()
	queue := deadletter.New(js, deadletter.Config{})
	if err := queue.Ensure(ctx); err != nil {
		fmt.Println(err)
		return
	}
	err := queue.Publish(ctx, &consumer.Letter{
		Class: dedup.Permanent, Error: "no such customer", Scope: "ORDERS/billing", Key: "order-4711", Fence: 1,
		Stream: "ORDERS", Durable: "billing", Data: []byte(`{"id":4711}`),
	})
	fmt.Println("published:", err)
	l, err := queue.Read(ctx, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s %s: %s: %s\n", l.Key, l.Class, l.Error, l.Data)
	// Output:
	// published: <nil>
	// order-4711 permanent: no such customer: {"id":4711}
}

func ExampleReplayer() {
	js, stop := startNATS()
	defer stop()
	ctx := context.Background()
	queue := deadletter.New(js, deadletter.Config{})
	replays := deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{})
	if err := errors.Join(queue.Ensure(ctx), replays.Ensure(ctx)); err != nil {
		fmt.Println(err)
		return
	}
	store := memstore.New(memstore.Config{}) // the store of the workers
	err := queue.Publish(ctx, &consumer.Letter{
		Class: dedup.Permanent, Error: "no such customer", Generation: 1, LastFailure: time.Now(), Scope: "ORDERS/billing",
		Key: "order-4711", Fence: 1, Stream: "ORDERS", Durable: "billing", Data: []byte(`{"id":4711}`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	replayer := deadletter.NewReplayer(queue, replays, store, deadletter.ReplayConfig{})
	for e, err := range queue.List(ctx, deadletter.Filter{Text: "customer"}) {
		if err != nil {
			fmt.Println(err)
			continue
		}
		got, err := replayer.Replay(ctx, e, deadletter.ReplayOptions{})
		fmt.Println(e.Sequence, got.Outcome, got.Key, err)
		_, err = replayer.Replay(ctx, e, deadletter.ReplayOptions{})
		fmt.Println("again:", errors.Is(err, deadletter.ErrReplayed))
	}
	// Output:
	// 1 published order-4711 <nil>
	// again: true
}

func startNATS() (jetstream.JetStream, func()) {
	dir, err := os.MkdirTemp("", "deadletter")
	if err != nil {
		panic(err)
	}
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		panic(err)
	}
	srv.Start()
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		panic(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err)
	}
	return js, func() {
		nc.Close()
		srv.Shutdown()
		srv.WaitForShutdown()
		_ = os.RemoveAll(dir)
	}
}
