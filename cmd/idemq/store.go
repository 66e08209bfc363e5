package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
)

const storeChoices = `choose where records are kept, with --store or IDEMQ_STORE:
  redis://127.0.0.1:6379   Redis (rediss:// for TLS; redis+sentinel://HOST:26379/MASTER, redis+cluster://HOST:6379)
  kv                       JetStream KV on the same NATS connection
  postgres://HOST/DB       Postgres, once idemq store migrate has made the tables
  sqlite://FILE            SQLite, likewise; for the processes of one machine
  memory://                this process alone; everything is forgotten when it ends
Behind Redis --durable-store or IDEMQ_DURABLE_STORE can name postgres://, sqlite:// or kv, which remembers what Redis forgets.`

// Kinds of stores, which are also the schemes of their URLs.
const (
	storeRedis       = "redis"
	storeRedisTLS    = "rediss"
	storeSentinel    = "redis+sentinel"
	storeSentinelTLS = "rediss+sentinel"
	storeCluster     = "redis+cluster"
	storeClusterTLS  = "rediss+cluster"
	storeUnix        = "unix"
	storeKV          = "kv"
	storePostgres    = "postgres"
	storePostgresQL  = "postgresql"
	storeSQLite      = "sqlite"
	storeMemory      = "memory"
)

// storeKind says what kind of store was asked for, without connecting to anything. There is no default: a wrong guess
// would run things twice.
func (a *app) storeKind() (kind, rest string, err error) {
	if a.store == "" {
		return "", "", usagef("no store: %s", storeChoices)
	}
	if fast, durable, ok := splitTiers(a.store); ok {
		return storeTiered, "", a.checkTiers(fast, durable)
	}
	kind, rest, _ = strings.Cut(a.store, "://")
	switch kind {
	case storeRedis, storeRedisTLS, storeSentinel, storeSentinelTLS, storeCluster, storeClusterTLS, storeUnix:
		_, closeStore, err := redisstore.Open(a.store, redisstore.Config{}) // sends nothing yet
		if err != nil {
			return "", "", &exitError{exitUsage, err}
		}
		return kind, rest, closeStore()
	case storeKV:
		return kind, rest, nil
	case storePostgres, storePostgresQL, storeSQLite:
		if _, _, err := sqlSource(a.store, false); err != nil {
			return "", "", &exitError{exitUsage, err}
		}
		return kind, rest, nil
	case storeMemory:
		if rest == "" && a.store != storeMemory {
			return kind, rest, nil
		}
	}
	return "", "", usagef("unknown store %q: %s", redact(a.store), storeChoices)
}

// openStore opens the store that was asked for. Only for kv must js be given.
func (a *app) openStore(ctx context.Context, js jetstream.JetStream) (dedup.Store, func(), error) {
	kind, rest, err := a.storeKind()
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case storeTiered:
		return a.openTiers(ctx, js)
	case storeMemory:
		return memstore.New(memstore.Config{}), func() {}, nil
	case storeKV:
		var s *kvstore.Store
		err := a.patiently(ctx, func(ctx context.Context) (err error) {
			s, err = kvstore.New(ctx, js, kvstore.Config{Bucket: rest, MustExist: a.mustExist})
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("cannot use the store kv at %s: %w", redact(a.nats), err)
		}
		return s, func() {}, nil
	case storePostgres, storePostgresQL, storeSQLite:
		db, closeDB, err := a.openSQL(ctx)
		if err != nil {
			return nil, nil, err
		}
		return db.store, closeDB, nil
	default:
		s, closeStore, err := redisstore.Open(a.store, redisstore.Config{})
		if err != nil {
			return nil, nil, err
		}
		if err := a.patiently(ctx, s.Ping); err != nil {
			_ = closeStore()
			return nil, nil, fmt.Errorf("cannot reach the store: %w", err)
		}
		return s, func() { _ = closeStore() }, nil
	}
}
