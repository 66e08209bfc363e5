package main

import (
	"context"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/tieredstore"
)

// storeTiered stands before the addresses of a fast and a durable store, with a comma between them. It is how workers note
// such a store at their durable consumers.
const storeTiered = "tiered"

func joinTiers(fast, durable string) string { return storeTiered + ":" + fast + "," + durable }

// splitTiers takes an address of two tiers apart. The first may be a list with commas of its own.
func splitTiers(address string) (fast, durable string, ok bool) {
	both, ok := strings.CutPrefix(address, storeTiered+":")
	if !ok {
		return "", "", false
	}
	at := -1
	for _, kind := range []string{storePostgres + "://", storePostgresQL + "://", storeSQLite + "://", storeKV} {
		at = max(at, strings.LastIndex(both, ","+kind))
	}
	if at < 0 {
		return both, "", true
	}
	return both[:at], both[at+1:], true
}

// at returns the same program with another store.
func (a *app) at(store string) *app {
	as := *a
	as.store = store
	return &as
}

func (a *app) checkTiers(fast, durable string) error {
	if durable == "" {
		return usagef("--durable-store takes postgres://…, sqlite://FILE or kv, behind a --store that is Redis")
	}
	for _, store := range []string{fast, durable} {
		if _, _, err := a.at(store).storeKind(); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(fast, storeRedis) && !strings.HasPrefix(fast, storeUnix) {
		return usagef("--durable-store stands behind Redis, not behind %s; use that store alone", redact(fast))
	}
	return nil
}

// openTiers opens the store that is made of two.
func (a *app) openTiers(ctx context.Context, js jetstream.JetStream) (dedup.Store, func(), error) {
	_, durable, _ := splitTiers(a.store)
	d, closeDurable, err := a.at(durable).openStore(ctx, js)
	if err != nil {
		return nil, nil, err
	}
	return a.inFrontOf(ctx, js, d, closeDurable)
}

// inFrontOf opens the fast tier before a durable one that is open, which is closed with it, or if that fails.
func (a *app) inFrontOf(ctx context.Context, js jetstream.JetStream, d dedup.Store, closeDurable func()) (dedup.Store, func(), error) {
	fast, _, _ := splitTiers(a.store)
	f, closeFast, err := a.at(fast).openStore(ctx, js)
	if err != nil {
		closeDurable()
		return nil, nil, err
	}
	s, err := tieredstore.New(f, d, tieredstore.Config{})
	if err != nil {
		closeFast()
		closeDurable()
		return nil, nil, &exitError{exitUsage, err}
	}
	return s, func() { closeFast(); closeDurable() }, nil
}

// database returns the same program with the database that its store is, or that stands behind it; nil if there is none.
func (a *app) database() *app {
	if _, durable, ok := splitTiers(a.store); ok {
		a = a.at(durable)
	}
	if !a.isSQL() {
		return nil
	}
	return a
}
