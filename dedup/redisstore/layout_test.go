package redisstore_test

import (
	"cmp"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

func compact(t testing.TB) (*redisstore.Store, *redis.Client, string) {
	t.Helper()
	rdb, prefix := testserver.Redis(t).Client(t), ownPrefix()
	return redisstore.New(rdb, redisstore.Config{Prefix: prefix, Layout: redisstore.Compact}), rdb, prefix
}

var payload = dedup.Fingerprint{1, 2, 3, 4, 5}

// digested leaves a consumed key of which nothing but its digest is there, as if the lease after its settlement were over.
func digested(t testing.TB, s *redisstore.Store, id string) dedup.Record {
	t.Helper()
	c := claimOf(id, dedup.Nonce("n-"+id))
	c.Fingerprint = payload
	r := acquire(t, s, c, dedup.Granted)
	require.NoError(t, s.Settle(testContext(t), holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
	rdb := redisstore.ClientOf(s)
	left := rdb.PTTL(testContext(t), redisstore.NameOf(s, r.Key)).Val()
	require.True(t, left > 0 && left <= c.Lease, "the record itself lives for one lease more, not %v", left)
	require.NoError(t, rdb.Del(testContext(t), redisstore.NameOf(s, r.Key)).Err())
	bucket, digest := redisstore.BucketOf(s, r.Key)
	require.True(t, rdb.HExists(testContext(t), bucket, string(digest)).Val())
	return r
}

func TestADigestIsAConsumedKey(t *testing.T) {
	t.Parallel()
	s, _, _ := compact(t)
	ctx := testContext(t)
	r := digested(t, s, "k")
	c := claimOf("k", "n2")
	for fp, want := range map[dedup.Fingerprint]dedup.Verdict{{}: dedup.Duplicate, payload: dedup.Duplicate, {9}: dedup.Conflict} {
		c.Fingerprint = fp
		got := acquire(t, s, c, want)
		require.Equal(t, dedup.Consumed, got.State)
		require.WithinDuration(t, got.ReadAt.Add(time.Hour), got.ExpiresAt, testLimit)
		require.Equal(t, want, s.AcquireMany(ctx, []dedup.Claim{c, c})[1].Verdict)
	}
	got, err := s.Get(ctx, r.Key)
	require.NoError(t, err)
	require.Equal(t, dedup.Consumed, got.State)
	require.Greater(t, got.ExpiresIn(), time.Hour-testLimit)
	h := holdOf(r)
	for name, err := range map[string]error{
		"settle": s.Settle(ctx, h, consumed), "extend": s.Extend(ctx, h, time.Minute), "release": s.Release(ctx, h, dedup.Release{}),
		"sent": s.LetterSent(ctx, r.Key, r.Fence), "step": s.SaveStep(ctx, h, dedup.SavedStep{Name: "x"}),
	} {
		require.ErrorIs(t, err, dedup.ErrLeaseLost, name)
	}
	answer, err := s.Reopen(ctx, dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: time.Hour})
	require.NoError(t, err)
	require.Equal(t, dedup.Resolved, answer)
	steps, err := s.Steps(ctx, r.Key)
	require.NoError(t, err)
	require.Empty(t, steps)
	require.NoError(t, s.Forget(ctx, r.Key, false))
	require.ErrorIs(t, s.Forget(ctx, r.Key, false), dedup.ErrNotFound)
	c.Fingerprint = dedup.Fingerprint{9}
	require.Greater(t, acquire(t, s, c, dedup.Granted).Fence, r.Fence)
}

// The same call repeated while the record is there succeeds, and tells how long the key is remembered in truth.
func TestACompactKeyIsARecordForOneLeaseMore(t *testing.T) {
	t.Parallel()
	s, _, _ := compact(t)
	ctx := testContext(t)
	r := acquire(t, s, claimOf("k", "n1"), dedup.Granted)
	st := dedup.Settlement{State: dedup.Consumed, Retention: 5 * time.Hour}
	for range 2 {
		require.NoError(t, s.Settle(ctx, holdOf(r), st))
		got := acquire(t, s, claimOf("k", "n2"), dedup.Duplicate)
		require.Equal(t, r.Fence, got.Fence)
		require.WithinDuration(t, got.ReadAt.Add(5*time.Hour), got.ExpiresAt, testLimit)
	}
	require.ErrorIs(t, s.Settle(ctx, dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: "x"}, st), dedup.ErrLeaseLost)
	require.NoError(t, s.Forget(ctx, r.Key, false))
	acquire(t, s, claimOf("k", "n3"), dedup.Granted)
}

// What has more to say than that it is consumed stays a record.
func TestWhatStaysARecord(t *testing.T) {
	t.Parallel()
	s, rdb, _ := compact(t)
	ctx := testContext(t)
	for id, end := range map[string]func(r dedup.Record) error{
		"result": func(r dedup.Record) error { return s.Settle(ctx, holdOf(r), consumed) },
		"dead": func(r dedup.Record) error {
			return s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.DeadSent, Retention: time.Hour})
		},
		"brief": func(r dedup.Record) error {
			return s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Minute})
		},
		"steps": func(r dedup.Record) error {
			if err := s.SaveStep(ctx, holdOf(r), dedup.SavedStep{Name: "one"}); err != nil {
				return err
			}
			return s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour})
		},
		"failed": func(r dedup.Record) error { return s.Release(ctx, holdOf(r), dedup.Release{}) },
	} {
		r := acquire(t, s, claimOf(id, dedup.Nonce(id)), dedup.Granted)
		require.NoError(t, end(r), id)
		bucket, digest := redisstore.BucketOf(s, r.Key)
		require.False(t, rdb.HExists(ctx, bucket, string(digest)).Val(), id)
		require.GreaterOrEqual(t, rdb.PTTL(ctx, redisstore.NameOf(s, r.Key)).Val(), time.Minute-time.Second, id)
	}
}

// Exact to a second: never earlier than the retention, and forgotten at the latest a second after it, also in a bucket that
// lives on.
func TestADigestExpires(t *testing.T) {
	t.Parallel()
	rdb, prefix := testserver.Redis(t).Client(t), ownPrefix()
	s := redisstore.New(rdb, redisstore.Config{Prefix: prefix, Layout: redisstore.Compact, Buckets: 64})
	ctx := testContext(t)
	const retention = 2500 * time.Millisecond
	settle := func(c dedup.Claim, retention time.Duration) dedup.Record {
		c.Lease = 10 * time.Millisecond
		r := acquire(t, s, c, dedup.Granted)
		require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: retention}))
		return r
	}
	c, alone := claimOf("k", "n1"), claimOf("alone", "n2")
	bucket, _ := redisstore.BucketOf(s, c.Key)
	other, _ := redisstore.BucketOf(s, alone.Key)
	require.NotEqual(t, bucket, other)
	neighbour := claimOf("", "n3")
	for i := 0; ; i++ {
		neighbour.Key.ID = fmt.Sprint("neighbour", i)
		if name, _ := redisstore.BucketOf(s, neighbour.Key); name == bucket {
			break
		}
	}
	settle(neighbour, time.Hour)
	r := settle(c, retention)
	settle(alone, retention)
	got, err := s.Get(ctx, r.Key)
	require.NoError(t, err)
	require.GreaterOrEqual(t, got.ExpiresAt.Sub(r.CreatedAt), retention)
	settled, err := rdb.Time(ctx).Result()
	require.NoError(t, err)
	require.LessOrEqual(t, got.ExpiresAt.Sub(settled), retention+time.Second)

	var again dedup.Record
	c.Nonce = "n4"
	require.Eventually(t, func() bool {
		v, got, err := s.Acquire(ctx, c)
		require.NoError(t, err)
		again = got
		return v == dedup.Granted
	}, time.Minute, 20*time.Millisecond)
	require.GreaterOrEqual(t, again.CreatedAt.Sub(r.CreatedAt), retention)
	require.Greater(t, again.Fence, r.Fence)
	acquire(t, s, claimOf(neighbour.Key.ID, "n5"), dedup.Duplicate)
	require.Eventually(t, func() bool { return rdb.Exists(ctx, other).Val() == 0 }, time.Minute, 50*time.Millisecond, "a bucket goes with its last digest")
}

// A store looks at two digests for each new one, so expired ones do not pile up in a bucket that is in use.
func TestExpiredDigestsAreSwept(t *testing.T) {
	t.Parallel()
	rdb, prefix := testserver.Redis(t).Client(t), ownPrefix()
	s := redisstore.New(rdb, redisstore.Config{Prefix: prefix, Layout: redisstore.Compact, Buckets: 64})
	ctx := testContext(t)
	bucket, _ := redisstore.BucketOf(s, claimOf("k0", "n").Key)
	const old = 200
	for i := range old { // expired in 1970
		require.NoError(t, rdb.HSet(ctx, bucket, fmt.Sprintf("%016d", i), "\x00\x00\x00\x01\x00\x00\x00\x00").Err())
	}
	added := 0
	for i := 0; rdb.HLen(ctx, bucket).Val() > int64(added)+old/10; i++ {
		k := claimOf(fmt.Sprint("k", i), dedup.Nonce(fmt.Sprint("n", i)))
		if name, _ := redisstore.BucketOf(s, k.Key); name == bucket {
			digested(t, s, k.Key.ID)
			added++
		}
		require.Less(t, added, 2*old)
	}
}

// Bytes that mean nothing stand for a key of which a later version knows more: it is not granted.
func TestAnUnreadableDigest(t *testing.T) {
	t.Parallel()
	s, rdb, _ := compact(t)
	ctx := testContext(t)
	r := digested(t, s, "k")
	bucket, digest := redisstore.BucketOf(s, r.Key)
	for _, garbage := range []string{"", "1234567", "123456789"} {
		require.NoError(t, rdb.HSet(ctx, bucket, digest, garbage).Err())
		_, _, err := s.Acquire(ctx, claimOf("k", "n2"))
		require.ErrorIs(t, err, dedup.ErrUnreadable)
		_, err = s.Get(ctx, r.Key)
		require.ErrorIs(t, err, dedup.ErrUnreadable)
		require.ErrorIs(t, s.Settle(ctx, holdOf(r), consumed), dedup.ErrUnreadable)
		require.NoError(t, s.Forget(ctx, r.Key, false))
		_, err = s.Get(ctx, r.Key)
		require.ErrorIs(t, err, dedup.ErrNotFound)
	}
	require.NoError(t, rdb.Del(ctx, bucket).Err())
	require.NoError(t, rdb.Set(ctx, bucket, "no hash", time.Minute).Err())
	_, _, err := s.Acquire(ctx, claimOf("k", "n2"))
	require.ErrorContains(t, err, "WRONGTYPE")
}

// Who may not read buckets gets an error, and never a key that is consumed.
func TestBucketsNeedTheirRights(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t)
	rights := []string{"-@all", "+evalsha", "+eval", "+time", "+get", "+mget", "+set", "+pttl", "+pubsub", "+spublish"}
	user := func(name string, more ...string) *redisstore.Store {
		url := server.AddUser(t, name, "secret", append(append([]string{"~idemq:{ORDERS/billing|*}", "&idemq:{ORDERS/billing|*}"}, rights...), more...)...)
		return redisstore.New(redisstore.ClientOf(openURL(t, url)), redisstore.Config{Layout: redisstore.Compact})
	}
	worker := user("worker", "+hget", "+hset", "+hdel", "+hrandfield", "+ttl", "+expireat", "+pexpire", "+hexists", "+del")
	for i := range 20 { // enough for entries to be looked at
		digested(t, worker, fmt.Sprint("k", i))
	}
	_, _, err := user("old").Acquire(testContext(t), claimOf("k1", "n2"))
	require.Error(t, err)
	acquire(t, worker, claimOf("k1", "n2"), dedup.Duplicate)
}

// Workers of one layout after another, in both directions, and two at a time: nothing that is consumed is granted again.
func TestMovingBetweenLayoutsForgetsNothing(t *testing.T) {
	t.Parallel()
	rdb, prefix := testserver.Redis(t).Client(t), ownPrefix()
	store := func(l redisstore.Layout) *redisstore.Store {
		return redisstore.New(rdb, redisstore.Config{Prefix: prefix, Layout: l})
	}
	readable, moving, compact := store(redisstore.Readable), store(redisstore.Moving), store(redisstore.Compact)
	ctx := testContext(t)
	for i, w := range []struct{ claims, settles, asks *redisstore.Store }{
		{readable, readable, moving}, {readable, moving, readable}, {moving, readable, readable}, // to Moving and back
		{moving, moving, compact}, {moving, compact, moving}, {compact, moving, moving}, // to Compact and back
		{compact, compact, moving}, {compact, moving, compact}, {moving, compact, compact},
	} {
		for _, late := range []bool{false, true} {
			c := claimOf(fmt.Sprint("k", i, late), dedup.Nonce(fmt.Sprintf("n-%d-%v", i, late)))
			r := acquire(t, w.claims, c, dedup.Granted)
			acquire(t, w.asks, claimOf(c.Key.ID, "other"), dedup.Busy)
			require.NoError(t, w.settles.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
			bucket, digest := redisstore.BucketOf(compact, c.Key)
			if late && rdb.HExists(ctx, bucket, string(digest)).Val() { // the lease after the settlement is over
				require.Equal(t, compact, w.settles)
				require.NoError(t, rdb.Del(ctx, redisstore.NameOf(compact, c.Key)).Err())
			}
			acquire(t, w.asks, claimOf(c.Key.ID, "other"), dedup.Duplicate)
			acquire(t, w.claims, claimOf(c.Key.ID, "other"), dedup.Duplicate)
			require.NoError(t, w.asks.Forget(ctx, c.Key, false))
			require.Greater(t, acquire(t, w.claims, claimOf(c.Key.ID, "other"), dedup.Granted).Fence, r.Fence)
		}
	}
}

func TestABucketLiesInTheSlotOfItsRecords(t *testing.T) {
	t.Parallel()
	rdb := cluster(t)
	ctx := testContext(t)
	for _, cfg := range []redisstore.Config{{}, {Buckets: 1 << 20}, {Prefix: "a{b}c:"}, {Prefix: "p}{:"}} {
		cfg.Layout = redisstore.Compact
		s := redisstore.New(rdb, cfg)
		slots := map[string]int64{}
		for i := range 300 {
			k := dedup.Key{Scope: fmt.Sprintf("sc{o}pe|%d", i%3), ID: fmt.Sprintf("{id}%d", i)}
			bucket, digest := redisstore.BucketOf(s, k)
			require.Len(t, digest, 16)
			want, err := rdb.ClusterKeySlot(ctx, redisstore.NameOf(s, k)).Result()
			require.NoError(t, err)
			got, err := rdb.ClusterKeySlot(ctx, bucket).Result()
			require.NoError(t, err)
			require.Equal(t, want, got, "%s and %s", redisstore.NameOf(s, k), bucket)
			slots[bucket] = got
		}
		require.Greater(t, len(slots), 200)
	}
}

func TestCheckFindsWhatMakesBucketsLarge(t *testing.T) {
	t.Parallel()
	server := testserver.PrivateRedis(t, "--appendonly", "yes")
	rdb := server.Client(t)
	s := redisstore.New(rdb, redisstore.Config{Layout: redisstore.Compact})
	require.Empty(t, check(t, s), "the server's defaults are right")
	require.NoError(t, rdb.ConfigSet(testContext(t), "hash-max-listpack-entries", "128").Err())
	require.NoError(t, rdb.ConfigSet(testContext(t), "hash-max-listpack-value", "8").Err())
	found := check(t, s)
	require.Len(t, found, 2)
	require.Contains(t, found["hash-max-listpack-entries"].String(), "is 128; it must be at least 512")
	require.Empty(t, check(t, redisstore.New(rdb, redisstore.Config{Layout: redisstore.Moving})))
	user := server.AddUser(t, "worker", "secret", "~*", "+@all", "-config")
	for _, f := range check(t, redisstore.New(redisstore.ClientOf(openURL(t, user)), redisstore.Config{Layout: redisstore.Compact})) {
		require.True(t, f.Unknown(), "%v", f)
	}
}

// A consumed key with an id of 36 characters takes at most 40 bytes, everything counted.
func TestBytesOfACompactKey(t *testing.T) {
	t.Parallel()
	got := bytesPerKey(t, redisstore.Config{Layout: redisstore.Compact, Buckets: 512}, 50_000)
	t.Logf("%.1f bytes a key", got)
	require.LessOrEqual(t, got, 40.0)
}

// Bytes a key by the server's used_memory, for each layout and some numbers of buckets:
//
//	go test ./dedup/redisstore -run '^$' -bench MemoryOfAKey -benchtime 1x
func BenchmarkMemoryOfAKey(b *testing.B) {
	for _, m := range []struct {
		name string
		cfg  redisstore.Config
		keys int
	}{
		{"readable", redisstore.Config{}, 100_000},
		{"readable", redisstore.Config{}, 1_000_000},
		{"compact", redisstore.Config{Layout: redisstore.Compact, Buckets: 1024}, 100_000},
		{"compact", redisstore.Config{Layout: redisstore.Compact}, 100_000},
		{"compact", redisstore.Config{Layout: redisstore.Compact}, 300_000},
		{"compact", redisstore.Config{Layout: redisstore.Compact}, 1_000_000},
	} {
		b.Run(fmt.Sprintf("%s/buckets=%d/keys=%d", m.name, m.cfg.Buckets, m.keys), func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(bytesPerKey(b, m.cfg, m.keys), "B/key")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// bytesPerKey fills a server of its own with consumed keys, waits until their records are gone where digests take their
// places, and returns what the server uses for each.
func bytesPerKey(t testing.TB, cfg redisstore.Config, keys int) float64 {
	t.Helper()
	rdb := testserver.PrivateRedis(t, "--slowlog-log-slower-than", "-1").Client(t) // its entries are no records
	s := redisstore.New(rdb, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	_, err := s.Get(ctx, claimOf("k", "n").Key) // a connection is open
	require.ErrorIs(t, err, dedup.ErrNotFound)
	before := usedMemory(ctx, t, rdb)
	for from := 0; from < keys; from += redisstore.MaxKeys {
		claims := make([]dedup.Claim, min(redisstore.MaxKeys, keys-from))
		for i := range claims {
			claims[i] = claimOf(fmt.Sprintf("018f4e5c-7b1a-7000-8000-%012d", from+i), dedup.Nonce(fmt.Sprintf("ABCDEFGHIJKLMNOPQRSTUVWXYZ.%d", i)))
			claims[i].Lease, claims[i].Fingerprint = time.Second, payload
		}
		settlements := make([]dedup.HeldSettlement, len(claims))
		for i, a := range s.AcquireMany(ctx, claims) {
			require.NoError(t, a.Err)
			settlements[i] = dedup.HeldSettlement{Hold: holdOf(a.Record), Settlement: dedup.Settlement{State: dedup.Consumed, Retention: 24 * time.Hour}}
		}
		for _, err := range s.SettleMany(ctx, settlements) {
			require.NoError(t, err)
		}
	}
	if cfg.Layout == redisstore.Compact {
		bucketCount := int64(cmp.Or(cfg.Buckets, 4096))
		require.Eventually(t, func() bool {
			return rdb.DBSize(ctx).Val() <= bucketCount // a server forgets what nobody asks for little by little
		}, 5*time.Minute, 100*time.Millisecond)
	}
	// It makes its tables smaller in the background, too.
	var used float64
	require.Eventually(t, func() bool {
		last := used
		used = usedMemory(ctx, t, rdb)
		return used >= last && last > 0
	}, 5*time.Minute, 2*time.Second)
	return (used - before) / float64(keys)
}

func usedMemory(ctx context.Context, t testing.TB, rdb *redis.Client) (bytes float64) {
	t.Helper()
	info, err := rdb.InfoMap(ctx, "memory").Result()
	require.NoError(t, err)
	_, err = fmt.Sscan(info["Memory"]["used_memory"], &bytes)
	require.NoError(t, err)
	return bytes
}
