package redisstore_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/dedup/storetest"
	"github.com/idemq/idemq/internal/testserver"
)

// paths are the ways that a call can take to the server.
var paths = map[string]func(redis.UniversalClient) dedup.Store{
	"alone": func(rdb redis.UniversalClient) dedup.Store {
		return redisstore.New(rdb, redisstore.Config{NoCoalescing: true})
	},
	"coalesced": func(rdb redis.UniversalClient) dedup.Store {
		return redisstore.Queueing(redisstore.New(rdb, redisstore.Config{}))
	},
	"compact": func(rdb redis.UniversalClient) dedup.Store {
		return longer{redisstore.Queueing(redisstore.New(rdb, redisstore.Config{Layout: redisstore.Compact}))}
	},
	"compact, alone": func(rdb redis.UniversalClient) dedup.Store {
		return longer{redisstore.New(rdb, redisstore.Config{Layout: redisstore.Compact, NoCoalescing: true})}
	},
	"compact, batch": func(rdb redis.UniversalClient) dedup.Store {
		return longerBatch{longer{redisstore.New(rdb, redisstore.Config{Layout: redisstore.Compact})}}
	},
	"batch": func(rdb redis.UniversalClient) dedup.Store {
		return batched{redisstore.New(rdb, redisstore.Config{})}
	},
}

// batched is a store whose single calls are batches.
type batched struct{ *redisstore.Store }

func (b batched) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	a := b.AcquireMany(ctx, []dedup.Claim{c})[0]
	return a.Verdict, a.Record, a.Err
}

func (b batched) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	return b.SettleMany(ctx, []dedup.HeldSettlement{{Hold: h, Settlement: s}})[0]
}

// longer remembers what is consumed for more than a lease, or it would not go into buckets: the suite's leases are as long as
// its retentions.
type longer struct{ *redisstore.Store }

func (l longer) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	return l.Store.Settle(ctx, h, longerRetention(s))
}

type longerBatch struct{ longer }

func (l longerBatch) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	return batched{l.Store}.Acquire(ctx, c)
}

func (l longerBatch) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	return batched{l.Store}.Settle(ctx, h, longerRetention(s))
}

func longerRetention(s dedup.Settlement) dedup.Settlement {
	if s.Retention > time.Hour {
		s.Retention *= 10
	}
	return s
}

// conforms runs the suite over one kind of client, on every path. Its records are found by their names, as a stranger would.
func conforms(t *testing.T, client func(t testing.TB) redis.UniversalClient) {
	t.Helper()
	for path, open := range paths {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			var clients sync.Map // of each subtest
			storetest.Run(t, storetest.Harness{
				New: func(t *testing.T) dedup.Store {
					rdb := client(t)
					clients.Store(t, rdb)
					return open(rdb)
				},
				Corrupt: func(t *testing.T, k dedup.Key, raw []byte) {
					v, _ := clients.Load(t)
					rdb := v.(redis.UniversalClient)
					name := redisstore.NameOf(redisstore.New(rdb, redisstore.Config{}), k)
					require.NoError(t, rdb.Set(testContext(t), name, raw, 0).Err())
				},
			})
		})
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	conforms(t, func(t testing.TB) redis.UniversalClient { return testserver.Redis(t).Client(t) })
}

func TestConformanceOnACluster(t *testing.T) {
	t.Parallel()
	rdb := cluster(t)
	conforms(t, func(testing.TB) redis.UniversalClient { return rdb })
}

func TestConformanceThroughSentinel(t *testing.T) {
	t.Parallel()
	rdb := testserver.RedisSentinel(t, testserver.SentinelConfig{}).Client(t)
	conforms(t, func(testing.TB) redis.UniversalClient { return rdb })
}
