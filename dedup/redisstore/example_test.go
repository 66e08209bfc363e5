package redisstore_test

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
)

// A key is claimed once; its duplicate gets what the first run left. The example needs a server, so it is only compiled.
func Example() {
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
	defer func() { _ = rdb.Close() }()
	d, err := dedup.New(redisstore.New(rdb, redisstore.Config{}), dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		guard, out, err := d.Begin(context.Background(), dedup.Key{Scope: "ORDERS/billing", ID: "order-4711"}, dedup.Fingerprint{})
		switch {
		case err != nil:
			fmt.Println(err)
		case guard != nil:
			fmt.Println(out.Verdict, guard.Consume(context.Background(), []byte("receipt 1")))
		default:
			fmt.Println(out.Verdict, string(out.Result()))
		}
	}
}

// Open takes the URL of a server, as a command line has it. Describe is fit for logs: it shows no password.
func ExampleOpen() {
	store, stop, err := redisstore.Open("rediss://worker:secret@redis.example:6380/2", redisstore.Config{Prefix: "billing:"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = stop() }()
	fmt.Println(store.Describe())

	_, _, err = redisstore.Open("redis://worker:secret@redis.example:port", redisstore.Config{})
	fmt.Println(err)
	// Output:
	// rediss://redis.example:6380/2?prefix=billing%3A
	// redisstore: malformed URL; it must look like redis://host:6379/0, rediss://user:password@host:6379/0 (with TLS), redis+sentinel://host:26379,host2:26379/mymaster/0, redis+cluster://host:6379,host2:6379 or unix:///run/redis.sock?db=0
}

// The master of a Sentinel group is found by asking its sentinels, here with credentials of their own.
func ExampleOpen_sentinel() {
	store, stop, err := redisstore.Open("redis+sentinel://worker:secret@b.example,a.example/mymaster?sentinel_user=ops&sentinel_password=secret",
		redisstore.Config{WaitReplicas: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = stop() }()
	fmt.Println(store.Describe())
	// Output: redis+sentinel://a.example:26379,b.example:26379/mymaster/0
}
