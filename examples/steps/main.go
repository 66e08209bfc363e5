// Command steps shows a handler that makes three external calls. It fails between them, twice, and is tried again: what
// is done is not done again, and its result is there.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

const limit = time.Minute

// order is what the message says.
type order struct{ ID, Item, Card string }

// Results of the external calls. They are kept as JSON, so their fields must be exported.
type (
	reservation struct{ Shelf string }
	receipt     struct{ Number int }
	parcel      struct{ Tracking string }
)

// shop stands for three services that know nothing of idempotency.
type shop struct {
	reserved, charged, shipped int
	trouble                    []string // what goes wrong next
}

func (s *shop) reserve(_ context.Context, item string) (reservation, error) {
	s.reserved++
	fmt.Println("  warehouse: reserves", item)
	return reservation{Shelf: fmt.Sprint("shelf ", s.reserved)}, nil
}

func (s *shop) charge(_ context.Context, card, key string) (receipt, error) {
	s.charged++ // a real bank gets the key, and deduplicates what comes again after a crash right here
	fmt.Println("  bank: charges", card, "for", key)
	return receipt{Number: 4700 + s.charged}, nil
}

func (s *shop) ship(_ context.Context, shelf string, receiptNumber int) (parcel, error) {
	if s.next("no van") {
		return parcel{}, errors.New("there is no van today")
	}
	s.shipped++
	fmt.Println("  van: ships from", shelf, "with receipt", receiptNumber)
	return parcel{Tracking: fmt.Sprint("T", 100+s.shipped)}, nil
}

// next says whether this is what goes wrong now.
func (s *shop) next(trouble string) bool {
	if len(s.trouble) == 0 || s.trouble[0] != trouble {
		return false
	}
	s.trouble = s.trouble[1:]
	return true
}

// handle is the handler. In a worker it has the same steps, and gets the same context.
func (s *shop) handle(ctx context.Context, o order) (string, error) {
	place, err := dedup.Step(ctx, "reserve-stock", func(ctx context.Context) (reservation, error) {
		return s.reserve(ctx, o.Item)
	})
	if err != nil {
		return "", err
	}
	paid, err := dedup.Step(ctx, "charge-card", func(ctx context.Context) (receipt, error) {
		return s.charge(ctx, o.Card, dedup.KeyFrom(ctx).ID)
	})
	if err != nil {
		return "", err
	}
	if s.next("crash") {
		panic("out of memory")
	}
	sent, err := dedup.Step(ctx, "ship-parcel", func(ctx context.Context) (parcel, error) {
		return s.ship(ctx, place.Shelf, paid.Number)
	})
	return sent.Tracking, err
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "steps:", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	store := memstore.New(memstore.Config{}) // redisstore or kvstore where several processes work
	d, err := dedup.New(store, dedup.Config{})
	if err != nil {
		return err
	}
	s := &shop{trouble: []string{"crash", "no van"}}
	key := dedup.Key{Scope: "orders", ID: "order-4711"}
	for delivery := 1; delivery <= 4; delivery++ { // the broker brings the message again and again
		fmt.Println("delivery", delivery)
		deliver(ctx, d, key, s)
	}
	kept, err := store.Steps(ctx, key)
	if err != nil {
		return err
	}
	fmt.Println("kept with the key, until it is forgotten:")
	for _, st := range kept {
		info, err := st.Info()
		if err != nil {
			return err
		}
		fmt.Printf("  %-14s %s\n", st.Name, info.Result)
	}
	fmt.Printf("reserved %d, charged %d, shipped %d\n", s.reserved, s.charged, s.shipped)
	return nil
}

// deliver is what a consumer does with one delivery.
func deliver(ctx context.Context, d *dedup.Deduper, key dedup.Key, s *shop) {
	defer func() {
		if v := recover(); v != nil { // a worker turns a panic into a retry
			fmt.Println("  the handler panics:", v)
		}
	}()
	out, err := d.Do(ctx, key, func(ctx context.Context) ([]byte, error) {
		tracking, err := s.handle(ctx, order{ID: key.ID, Item: "a lamp", Card: "card 1111"})
		return []byte(tracking), err
	})
	if err != nil {
		fmt.Println("  the handler fails:", err)
		return
	}
	fmt.Printf("  %s: %s\n", out.Verdict, out.Result())
}
