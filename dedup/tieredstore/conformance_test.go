package tieredstore_test

import (
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/dedup/storetest"
	"github.com/idemq/idemq/dedup/tieredstore"
	"github.com/idemq/idemq/internal/testserver"
)

func tiered(t *testing.T, fast, durable dedup.Store) *tieredstore.Store {
	t.Helper()
	s, err := tieredstore.New(fast, durable, tieredstore.Config{})
	require.NoError(t, err)
	return s
}

func TestConformanceOfMemoryOverMemory(t *testing.T) {
	t.Parallel()
	var clocks sync.Map // of each subtest
	storetest.Run(t, storetest.Harness{
		New: func(t *testing.T) dedup.Store {
			c := newClock()
			clocks.Store(t, c)
			other := memstore.Config{Clock: func() time.Time { return c.now().Add(-time.Hour) }} // another machine's clock
			return tiered(t, memstore.New(memstore.Config{Clock: c.now}), memstore.New(other))
		},
		Advance: func(t *testing.T, d time.Duration) {
			c, _ := clocks.Load(t)
			c.(*clock).advance(d)
		},
		Lease: 30 * time.Second,
	})
}

func TestConformanceOfRedisOverMemory(t *testing.T) {
	t.Parallel()
	onRedis(t, func(*testing.T) dedup.Store { return memstore.New(memstore.Config{}) })
}

func TestConformanceOfRedisOverKV(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(testserver.NATS(t).Conn(t))
	require.NoError(t, err)
	var n atomic.Int64
	onRedis(t, func(t *testing.T) dedup.Store {
		s, err := kvstore.New(t.Context(), js, kvstore.Config{Bucket: fmt.Sprint("durable-", n.Add(1)), Storage: jetstream.MemoryStorage})
		require.NoError(t, err)
		return s
	})
}

func onRedis(t *testing.T, durable func(*testing.T) dedup.Store) {
	t.Helper()
	rdb := testserver.Redis(t).Client(t)
	var stores sync.Map // prefix of each subtest
	storetest.Run(t, storetest.Harness{
		New: func(t *testing.T) dedup.Store {
			prefix := "tiered" + rand.Text() + ":"
			stores.Store(t, prefix)
			return tiered(t, redisstore.New(rdb, redisstore.Config{Prefix: prefix}), durable(t))
		},
		Corrupt: func(t *testing.T, k dedup.Key, raw []byte) {
			prefix, _ := stores.Load(t)
			name := prefix.(string) + "{" + k.Scope + "|" + k.ID + "}" // the names of this test need no escaping
			require.NoError(t, rdb.Set(t.Context(), name, raw, 0).Err())
		},
		Lease: 500 * time.Millisecond,
	})
}

// clock is one that stands still until it is told.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}
