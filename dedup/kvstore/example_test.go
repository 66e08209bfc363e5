package kvstore_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
)

// The second call with the same key does not run the function; it gets the first one's result.
func Example() {
	url, stop := startServer()
	defer stop()
	nc, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := kvstore.New(ctx, js, kvstore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	d, err := dedup.New(store, dedup.Config{})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		out, err := d.Do(ctx, dedup.Key{Scope: "invoices", ID: "2026-0815"}, func(context.Context) ([]byte, error) {
			return []byte("sent"), nil
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", out.Verdict, out.Result())
	}
	fmt.Println(store.Describe())
	// Output:
	// granted: sent
	// duplicate: sent
	// kv://idemq
}

// startServer stands for the NATS server that is there already.
func startServer() (url string, stop func()) {
	dir, err := os.MkdirTemp("", "idemq-example-")
	if err != nil {
		log.Fatal(err)
	}
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
		JetStreamMaxMemory: 1 << 28, JetStreamMaxStore: 1 << 30,
	})
	if err != nil {
		log.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		log.Fatal("the server did not start")
	}
	return srv.ClientURL(), func() {
		srv.Shutdown()
		srv.WaitForShutdown()
		_ = os.RemoveAll(dir)
	}
}
