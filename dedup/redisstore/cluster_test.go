package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// Batches reach every master, and each answer comes back to its own key.
func TestBatchesSpreadOverACluster(t *testing.T) {
	t.Parallel()
	c := testserver.RedisCluster(t)
	rdb := c.Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	ctx := testContext(t)
	const keys = 3000
	claims := make([]dedup.Claim, keys)
	settlements := make([]dedup.HeldSettlement, keys)
	for i := range claims {
		claims[i] = claimOf(fmt.Sprintf("order-%d", i), "n1")
	}
	for i, a := range s.AcquireMany(ctx, claims) {
		require.NoError(t, a.Err)
		require.Equal(t, dedup.Granted, a.Verdict)
		require.Equal(t, claims[i].Key, a.Record.Key)
		st := consumed
		st.Result = []byte(claims[i].Key.ID)
		settlements[i] = dedup.HeldSettlement{Hold: holdOf(a.Record), Settlement: st}
	}
	for _, err := range s.SettleMany(ctx, settlements) {
		require.NoError(t, err)
	}
	total := int64(0)
	for _, m := range c.Masters() {
		n, err := m.Client(t).DBSize(ctx).Result()
		require.NoError(t, err)
		assert.Greater(t, n, int64(keys/6), "a master has far fewer keys than its third")
		total += n
	}
	require.EqualValues(t, keys, total)
	for i := range claims {
		claims[i].Nonce = "n2"
	}
	for i, a := range s.AcquireMany(ctx, claims) {
		require.NoError(t, a.Err)
		require.Equal(t, dedup.Duplicate, a.Verdict)
		require.Equal(t, claims[i].Key.ID, string(a.Record.Result))
	}
	listed := 0
	for _, err := range s.List(ctx, dedup.Filter{}) {
		require.NoError(t, err)
		listed++
	}
	require.Equal(t, keys, listed)
}

// moveSlot gives a slot with all its keys to another master, as redis-cli does it.
func moveSlot(t testing.TB, c *testserver.RedisClusterServers, slot, from, to int) {
	t.Helper()
	ctx := testContext(t)
	src, dst := c.Masters()[from].Client(t), c.Masters()[to].Client(t)
	id := func(i int) string {
		id, err := c.Masters()[i].Client(t).Do(ctx, "CLUSTER", "MYID").Text()
		require.NoError(t, err)
		return id
	}
	host, port, err := net.SplitHostPort(c.Addrs()[to])
	require.NoError(t, err)
	require.NoError(t, dst.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", id(from)).Err())
	require.NoError(t, src.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", id(to)).Err())
	for {
		keys, err := src.ClusterGetKeysInSlot(ctx, slot, 5).Result()
		require.NoError(t, err)
		if len(keys) == 0 {
			break
		}
		args := []any{"MIGRATE", host, port, "", 0, 5000, "KEYS"}
		for _, k := range keys {
			args = append(args, k)
		}
		require.NoError(t, src.Do(ctx, args...).Err())
	}
	for _, i := range []int{to, from, 3 - to - from} {
		require.NoError(t, c.Masters()[i].Client(t).Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", id(to)).Err())
	}
}

// redirections is how often the masters sent somebody to another master.
func redirections(t testing.TB, c *testserver.RedisClusterServers, kind string) (n int) {
	t.Helper()
	pattern := regexp.MustCompile("errorstat_" + kind + `:count=(\d+)`)
	for _, m := range c.Masters() {
		info, err := m.Client(t).Info(testContext(t), "errorstats").Result()
		require.NoError(t, err)
		if found := pattern.FindStringSubmatch(info); found != nil {
			count, err := strconv.Atoi(found[1])
			require.NoError(t, err)
			n += count
		}
	}
	return n
}

// lifeOf is what the workers know of one key.
type lifeOf struct {
	grants             atomic.Int64
	settling, consumed atomic.Bool
}

// A key whose slot moves is never granted twice and never forgotten, whether its calls travel alone or with others.
func TestASlotMovesWhileClaimsRun(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"batch", "coalesced"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			slotMoves(t, path == "coalesced")
		})
	}
}

func slotMoves(t *testing.T, coalesced bool) {
	c := testserver.RedisCluster(t)
	rdb := c.Client(t)
	s := redisstore.New(rdb, redisstore.Config{Prefix: "{moves}:"}) // a hash tag before ours: all keys in one slot
	if coalesced {
		redisstore.Queueing(s)
	}
	slot64, err := rdb.ClusterKeySlot(testContext(t), redisstore.NameOf(s, claimOf("k", "n1").Key)).Result()
	require.NoError(t, err)
	slot := int(slot64)

	const window = 30 // keys that the workers fight for at a time
	var lives sync.Map
	var settled, next atomic.Int64
	ctx, cancel := context.WithCancel(testContext(t))
	// again repeats a call that the store did not answer; nothing else may go wrong.
	again := func(op func() error) (err error) {
		for {
			err = op()
			if se := (*dedup.StoreError)(nil); !errors.As(err, &se) || ctx.Err() != nil {
				return err
			}
		}
	}
	work := func(worker int) {
		for n := 0; ctx.Err() == nil; n++ {
			id := fmt.Sprintf("k%d", next.Load()+rand.Int64N(window))
			v, _ := lives.LoadOrStore(id, &lifeOf{})
			life := v.(*lifeOf)
			was := life.consumed.Load()
			var got dedup.Acquisition
			err := again(func() error {
				claim := claimOf(id, dedup.Nonce(fmt.Sprintf("w%d-%d", worker, n)))
				if !coalesced {
					got = s.AcquireMany(ctx, []dedup.Claim{claim})[0]
					return got.Err
				}
				got.Verdict, got.Record, got.Err = s.Acquire(ctx, claim)
				return got.Err
			})
			if ctx.Err() != nil {
				return
			}
			if !assert.NoError(t, err) {
				return
			}
			switch got.Verdict {
			case dedup.Granted:
				assert.EqualValues(t, 1, life.grants.Add(1), "%s was granted twice", id)
				assert.False(t, was, "%s was granted after it was consumed", id)
				stale := holdOf(got.Record)
				stale.Nonce = "stale"
				if err := again(func() error { return s.Settle(ctx, stale, consumed) }); ctx.Err() == nil {
					assert.ErrorIs(t, err, dedup.ErrLeaseLost)
				}
				life.settling.Store(true)
				st := consumed
				st.Result = []byte(id)
				err := again(func() error { return s.Settle(ctx, holdOf(got.Record), st) })
				if ctx.Err() != nil {
					return
				}
				assert.NoError(t, err)
				life.consumed.Store(true)
				settled.Add(1)
				next.Add(1)
			case dedup.Duplicate:
				assert.True(t, life.settling.Load(), "%s is said to be consumed", id)
				assert.Equal(t, id, string(got.Record.Result))
			default:
				assert.Equal(t, dedup.Busy, got.Verdict)
			}
		}
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() { work(worker) })
	}
	progress := func() {
		before := settled.Load()
		assert.Eventually(t, func() bool { return settled.Load() > before+20 }, time.Minute, 5*time.Millisecond)
	}
	owner := slot * len(c.Masters()) / 16384
	for range 6 {
		progress()
		to := (owner + 1) % len(c.Masters())
		moveSlot(t, c, slot, owner, to)
		owner = to
	}
	progress()
	cancel()
	wg.Wait()
	moved, asked := redirections(t, c, "MOVED"), redirections(t, c, "ASK")
	t.Logf("%d keys settled over 6 moves of their slot; %d times MOVED, %d times ASK", settled.Load(), moved, asked)
	assert.Positive(t, moved)
	assert.Positive(t, asked)
}
