package redisstore_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m, testserver.VerifyLeaks(), testserver.MostlyWaits()) }

const testLimit = 3 * time.Minute

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	t.Cleanup(cancel)
	return ctx
}

var prefixes atomic.Int64

// ownPrefix is one that no other test uses; the server may be shared with other runs.
func ownPrefix() string {
	return fmt.Sprintf("test:%d-%d:", time.Now().UnixNano(), prefixes.Add(1))
}

// open returns a store of the test's own on the shared server.
func open(t testing.TB) (*redisstore.Store, *redis.Client, string) {
	t.Helper()
	rdb, prefix := testserver.Redis(t).Client(t), ownPrefix()
	return redisstore.New(rdb, redisstore.Config{Prefix: prefix}), rdb, prefix
}

func claimOf(id string, nonce dedup.Nonce) dedup.Claim {
	return dedup.Claim{
		Key: dedup.Key{Scope: "ORDERS/billing", ID: id}, Nonce: nonce,
		Lease: time.Minute, Retention: time.Hour, DeadRetention: 2 * time.Hour, MaxAttempts: 3, Letters: true,
	}
}

// nameOf is the name of the key that claimOf claims.
func nameOf(prefix, id string) string { return prefix + "{ORDERS/billing|" + id + "}" }

func holdOf(r dedup.Record) dedup.Hold { return dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce} }

var consumed = dedup.Settlement{State: dedup.Consumed, Result: []byte("done"), Retention: time.Hour}

// acquire claims a key and demands the verdict.
func acquire(t testing.TB, s dedup.Store, c dedup.Claim, want dedup.Verdict) dedup.Record {
	t.Helper()
	v, r, err := s.Acquire(testContext(t), c)
	require.NoError(t, err)
	require.Equal(t, want, v, "verdict %v", v)
	return r
}

// storeError demands a *dedup.StoreError.
func storeError(t testing.TB, err error) *dedup.StoreError {
	t.Helper()
	var se *dedup.StoreError
	require.ErrorAs(t, err, &se)
	return se
}
