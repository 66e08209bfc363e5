package tieredstore_test

import (
	"context"
	"fmt"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/tieredstore"
)

func Example() {
	// In production: redisstore.New(rdb, …) in front, and a SQL store or kvstore behind it.
	fast, durable := memstore.New(memstore.Config{}), memstore.New(memstore.Config{})
	store, err := tieredstore.New(fast, durable, tieredstore.Config{})
	if err != nil {
		panic(err)
	}
	d, err := dedup.New(store, dedup.Config{})
	if err != nil {
		panic(err)
	}
	key := dedup.Key{Scope: "invoices", ID: "2026-0815"}
	send := func(context.Context) ([]byte, error) { fmt.Println("sent"); return []byte("receipt 1"), nil }
	ctx := context.Background()
	out, err := d.Do(ctx, key, send)
	fmt.Println(out.Verdict, err)

	// The fast tier forgets the key; the durable one does not.
	if err := fast.Forget(ctx, key, false); err != nil {
		panic(err)
	}
	out, err = d.Do(ctx, key, send)
	fmt.Printf("%s %v: %s\n", out.Verdict, err, out.Result())
	// Output:
	// sent
	// granted <nil>
	// duplicate <nil>: receipt 1
}
