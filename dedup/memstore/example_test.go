package memstore_test

import (
	"context"
	"fmt"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// A test that steers the clock sees a vanished owner's key taken over without waiting.
func ExampleNew() {
	now := time.Date(2026, 8, 15, 12, 0, 0, 0, time.UTC)
	store := memstore.New(memstore.Config{Clock: func() time.Time { return now }})
	claim := dedup.Claim{
		Key: dedup.Key{Scope: "ORDERS/billing", ID: "order-4711"}, Nonce: "first",
		Lease: 30 * time.Second, Retention: time.Hour,
	}
	ctx := context.Background()
	acquire := func() {
		verdict, record, err := store.Acquire(ctx, claim)
		fmt.Println(verdict, "attempt", record.Attempt, "wait", record.Wait(), err)
	}

	acquire()
	claim.Nonce = "second"
	acquire()
	now = now.Add(30 * time.Second)
	acquire()
	// Output:
	// granted attempt 1 wait 30s <nil>
	// busy attempt 1 wait 30s <nil>
	// granted attempt 2 wait 30s <nil>
}
