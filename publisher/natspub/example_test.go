package natspub_test

import (
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
)

// The second publish of one order is recognised by the stream.
func Example() {
	js, stop := startNATS()
	defer stop()
	ctx := context.Background()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		fmt.Println(err)
		return
	}
	pub := natspub.New(js, natspub.Config{})
	for range 2 {
		ack, err := pub.Publish(ctx, "orders.created", []byte(`{"id":4711}`), publisher.Key("order-4711"))
		fmt.Println(ack.Key, ack.Sequence, ack.Duplicate, err)
	}
	// Output:
	// order-4711 1 false <nil>
	// order-4711 1 true <nil>
}

func startNATS() (jetstream.JetStream, func()) {
	dir, err := os.MkdirTemp("", "natspub")
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
