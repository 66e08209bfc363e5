// Command request-reply shows a NATS micro service whose duplicate requests get the stored reply: a client that does not
// know whether its request took effect asks again under the same key, and gets the first answer.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/examples/internal/embedded"
	"github.com/idemq/idemq/publisher"
)

const (
	subject = "idemq.example.charges"
	limit   = time.Minute
)

func main() {
	url := flag.String("nats", "", "URL of a NATS server; none starts one in this process")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := run(ctx, *url); err != nil {
		fmt.Fprintln(os.Stderr, "request-reply:", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context, url string) error {
	nc, done, err := embedded.Connect(url)
	if err != nil {
		return err
	}
	defer done()
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{}) // redisstore where several processes serve
	if err != nil {
		return err
	}
	bank := &bank{}
	for range 2 { // two instances share the requests, and the store
		s, err := micro.AddService(nc, micro.Config{
			Name: "charges", Version: "1.0.0",
			Endpoint: &micro.EndpointConfig{Subject: subject, Handler: micro.HandlerFunc(func(req micro.Request) {
				serve(ctx, d, bank, req)
			})},
		})
		if err != nil {
			return err
		}
		defer func() { _ = s.Stop() }() // the connection goes anyway
	}

	for _, r := range []struct{ key, body string }{
		{"a-1", "10 EUR from Ann"},
		{"a-1", "10 EUR from Ann"}, // the reply got lost, says the client
		{"b-1", "20 EUR from Bob"}, // refused once
		{"b-1", "20 EUR from Bob"},
		{"b-1", "20 EUR from Bob"},
		{"", "30 EUR from nobody knows whom"},
	} {
		if err := ask(ctx, nc, r.key, r.body); err != nil {
			return err
		}
	}
	fmt.Println("charges made:", bank.charges.Load())
	return nil
}

// serve answers one request: the first under its key runs, the others get its reply.
func serve(ctx context.Context, d *dedup.Deduper, b *bank, req micro.Request) {
	key, err := publisher.KeyFromHeader(req.Headers())
	if err != nil {
		_ = req.Error("400", err.Error(), nil)
		return
	}
	out, err := d.Do(ctx, dedup.Key{Scope: "charges", ID: key}, func(ctx context.Context) ([]byte, error) {
		return b.charge(ctx, string(req.Data()))
	})
	switch {
	case err != nil:
		_ = req.Error("503", err.Error(), nil) // ask again under the same key
	case out.Verdict == dedup.Granted:
		_ = req.Respond(out.Result())
	case out.Verdict == dedup.Duplicate:
		_ = req.Respond(out.Result(), micro.WithHeaders(micro.Headers{"Idempotent-Replayed": {"true"}}))
	case out.Verdict == dedup.Busy:
		_ = req.Error("409", fmt.Sprintf("somebody is at it; ask again in %v", out.Wait().Round(time.Second)), nil)
	default:
		_ = req.Error("410", "this operation failed too often; start a new one under another key", nil)
	}
}

// bank has the effects. It should get the key, too: see the README.
type bank struct{ charges, refused atomic.Int64 }

func (b *bank) charge(_ context.Context, what string) ([]byte, error) {
	if strings.Contains(what, "Bob") && b.refused.Add(1) == 1 {
		return nil, fmt.Errorf("the bank is closed")
	}
	return fmt.Appendf(nil, "receipt %d: %s", b.charges.Add(1), what), nil
}

// ask sends one request and prints its reply.
func ask(ctx context.Context, nc *nats.Conn, key, body string) error {
	m := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}}
	if key != "" {
		if err := publisher.SetKey(m.Header, key); err != nil {
			return err
		}
	}
	reply, err := nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return err
	}
	if code := reply.Header.Get(micro.ErrorCodeHeader); code != "" {
		fmt.Printf("key %q: error %s: %s\n", key, code, reply.Header.Get(micro.ErrorHeader))
		return nil
	}
	fmt.Printf("key %q: %s", key, reply.Data)
	if reply.Header.Get("Idempotent-Replayed") != "" {
		fmt.Print(" (replayed)")
	}
	fmt.Println()
	return nil
}
