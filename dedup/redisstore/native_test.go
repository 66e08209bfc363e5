package redisstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// Where the server compares and sets by itself, settlements run no script, and what differs still goes by the rules. On
// other servers the store asks once and never again.
func TestTheServerIsAskedOnceWhetherItComparesAndSets(t *testing.T) {
	t.Parallel()
	rdb := testserver.PrivateRedis(t).Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	ctx := testContext(t)
	able := rdb.Do(ctx, "SET", "probe", "x", "IFEQ", "y").Err().Error() == "redis: nil"
	settle := func(id string) map[string]int {
		h := holdOf(acquire(t, s, claimOf(id, dedup.Nonce(id)), dedup.Granted))
		return commands(t, rdb, func(ctx context.Context) { require.NoError(t, s.Settle(ctx, h, consumed)) })
	}
	require.Equal(t, 2, settle("first")["set"], "the settlement and the question")
	require.Equal(t, able, redisstore.ComparesAndSets(s))
	for i := range 3 {
		counts := settle(fmt.Sprint("k", i))
		require.Equal(t, 1, counts["set"])
		require.Equal(t, able, counts["evalsha"] == 0)
	}
	r, err := s.Get(ctx, claimOf("k0", "n").Key)
	require.NoError(t, err)
	require.WithinDuration(t, r.ReadAt, r.UpdatedAt, testLimit)
	require.Equal(t, "done", string(r.Result))

	var held []dedup.HeldSettlement
	for i := range 6 {
		r := acquire(t, s, claimOf(fmt.Sprint("many", i), dedup.Nonce(fmt.Sprint("many", i))), dedup.Granted)
		held = append(held, dedup.HeldSettlement{Hold: holdOf(r), Settlement: consumed})
	}
	another := redisstore.New(rdb, redisstore.Config{})
	require.NoError(t, another.Extend(ctx, held[1].Hold, time.Hour))
	require.NoError(t, s.Forget(ctx, held[2].Hold.Key, true))
	require.NoError(t, rdb.Set(ctx, redisstore.NameOf(s, held[3].Hold.Key), "garbage", 0).Err())
	require.NoError(t, another.Settle(ctx, held[4].Hold, dedup.Settlement{State: dedup.DeadSent, Retention: time.Hour}))
	errs := s.SettleMany(ctx, held)
	for i, want := range []error{nil, nil, dedup.ErrLeaseLost, dedup.ErrUnreadable, dedup.ErrLeaseLost, nil} {
		require.ErrorIs(t, errs[i], want, "%d", i)
	}
}
