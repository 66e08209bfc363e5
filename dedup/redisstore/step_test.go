package redisstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// stepped acquires a key and saves a step under it.
func stepped(t *testing.T, s *redisstore.Store, k dedup.Key) dedup.Hold {
	t.Helper()
	_, r, err := s.Acquire(testContext(t), dedup.Claim{Key: k, Nonce: "n", Lease: time.Hour, Retention: time.Hour})
	require.NoError(t, err)
	h := dedup.Hold{Key: k, Fence: r.Fence, Nonce: r.Nonce}
	require.NoError(t, s.SaveStep(testContext(t), h, dedup.SavedStep{Name: "one", Data: []byte("x")}))
	return h
}

// A record that somebody else removed leaves its steps behind until they expire; a new record must not take them for its own.
func TestLeftoverStepsAreNobodys(t *testing.T) {
	t.Parallel()
	rdb := testserver.Redis(t).Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	k := dedup.Key{Scope: "leftovers", ID: "k"}
	stepped(t, s, k)
	require.NoError(t, rdb.Del(testContext(t), redisstore.NameOf(s, k)).Err())
	none := func() {
		t.Helper()
		got, err := s.Steps(testContext(t), k)
		require.NoError(t, err)
		assert.Empty(t, got)
	}
	none()
	_, r, err := s.Acquire(testContext(t), dedup.Claim{Key: k, Nonce: "m", Lease: time.Hour, Retention: time.Hour})
	require.NoError(t, err)
	none()
	require.NoError(t, s.SaveStep(testContext(t), dedup.Hold{Key: k, Fence: r.Fence, Nonce: r.Nonce}, dedup.SavedStep{Name: "two"}))
	got, err := s.Steps(testContext(t), k)
	require.NoError(t, err)
	assert.Equal(t, []dedup.SavedStep{{Name: "two", Data: []byte{}}}, got)
}

func TestStepsLiveAsLongAsTheRecord(t *testing.T) {
	t.Parallel()
	rdb := testserver.Redis(t).Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	k := dedup.Key{Scope: "expiry", ID: "k|{}*"}
	h := stepped(t, s, k)
	name := redisstore.NameOf(s, k)
	same := func(what string) {
		t.Helper()
		var record, steps *redis.DurationCmd
		_, err := rdb.TxPipelined(testContext(t), func(p redis.Pipeliner) error {
			record, steps = p.PTTL(testContext(t), name), p.PTTL(testContext(t), name+":steps}")
			return nil
		})
		require.NoError(t, err)
		assert.Positive(t, steps.Val(), what)
		assert.InDelta(t, float64(record.Val()), float64(steps.Val()), float64(2*time.Millisecond), what)
	}
	same("saved")
	require.NoError(t, s.Extend(testContext(t), h, 10*time.Hour))
	same("extended")
	require.NoError(t, s.Settle(testContext(t), h, dedup.Settlement{State: dedup.Consumed, Retention: time.Minute}))
	same("settled")
	assert.True(t, strings.HasPrefix(name, "idemq:{expiry|") && strings.HasSuffix(name, "}"), "patterns of access rights match both names")
	assert.Positive(t, rdb.Exists(testContext(t), name+":steps}").Val())
	defer func() {
		require.NoError(t, s.Forget(testContext(t), k, false))
		assert.Zero(t, rdb.Exists(testContext(t), name+":steps}").Val(), "forgotten with the record")
	}()
	for r, err := range s.List(testContext(t), dedup.Filter{Scope: "expiry"}) {
		require.NoError(t, err)
		assert.Equal(t, k, r.Key, "the steps are not listed as a record")
	}
}

func TestGarbageInThePlaceOfStepsIsUnreadable(t *testing.T) {
	t.Parallel()
	rdb := testserver.Redis(t).Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	k := dedup.Key{Scope: "garbage", ID: "k"}
	h := stepped(t, s, k)
	name := redisstore.NameOf(s, k) + ":steps}"
	raw, err := rdb.Get(testContext(t), name).Result()
	require.NoError(t, err)
	for _, garbage := range []string{raw + "garbage", raw + "9 9\nshort", raw[:len(raw)-1]} {
		require.NoError(t, rdb.Set(testContext(t), name, garbage, time.Hour).Err())
		_, err = s.Steps(testContext(t), k)
		require.ErrorIs(t, err, dedup.ErrUnreadable, garbage)
		require.ErrorIs(t, s.SaveStep(testContext(t), h, dedup.SavedStep{Name: "two"}), dedup.ErrUnreadable, garbage)
	}
}
