package natsidem_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher"
)

type order struct{ ID int }

// A worker whose producer sent the same message twice.
func Example() {
	js, stop := exampleServer()
	defer stop()
	ctx := context.Background()

	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{}) // redisstore where several processes work
	must(err)
	cfg := natsidem.Config{IdleExit: 200 * time.Millisecond} // leave it out, and Run works until ctx ends
	_, err = natsidem.EnsureConsumer(ctx, js, "ORDERS", []string{"orders.>"}, "billing", d, cfg)
	must(err)
	for range 2 {
		_, err := js.PublishMsg(ctx, &nats.Msg{
			Subject: "orders.created", Header: nats.Header{publisher.KeyHeader: {"order-4711"}}, Data: []byte(`{"id":4711}`),
		})
		must(err)
	}

	w, err := natsidem.New(js, "ORDERS", "billing", d,
		consumer.JSON(func(ctx context.Context, o order) error {
			fmt.Println("charge", o.ID, "under key", dedup.KeyFrom(ctx).ID) // pass the key on: the gateway deduplicates too
			return nil
		}), cfg)
	must(err)
	must(w.Run(ctx))
	fmt.Println("executed", w.Stats().Executed, "duplicates", w.Stats().DuplicateAcks)
	// Output:
	// charge 4711 under key order-4711
	// executed 1 duplicates 1
}

// exampleServer starts a server in this process, which only an example needs.
func exampleServer() (jetstream.JetStream, func()) {
	dir, err := os.MkdirTemp("", "natsidem-example-")
	must(err)
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
	})
	must(err)
	srv.Start()
	srv.ReadyForConnections(patience)
	nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	must(err)
	js, err := jetstream.New(nc)
	must(err)
	return js, func() {
		nc.Close()
		srv.Shutdown()
		srv.WaitForShutdown()
		must(os.RemoveAll(dir))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
