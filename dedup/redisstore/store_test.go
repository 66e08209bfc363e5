package redisstore_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

func TestScriptsAreFoundAgainAfterAFlush(t *testing.T) {
	t.Parallel()
	rdb := testserver.PrivateRedis(t).Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	flush := func() { require.NoError(t, rdb.ScriptFlush(testContext(t)).Err()) }

	r := acquire(t, s, claimOf("a", "n1"), dedup.Granted)
	flush()
	acquire(t, s, claimOf("a", "n2"), dedup.Busy)
	flush()
	require.NoError(t, s.Extend(testContext(t), holdOf(r), time.Minute))
	flush()
	for _, a := range s.AcquireMany(testContext(t), []dedup.Claim{claimOf("a", "n1"), claimOf("b", "n1")}) {
		require.NoError(t, a.Err)
		require.Equal(t, dedup.Granted, a.Verdict)
	}
	flush()
	require.NoError(t, s.Settle(testContext(t), holdOf(r), consumed))
	flush()
	got, err := s.Get(testContext(t), r.Key)
	require.NoError(t, err)
	require.Equal(t, "done", string(got.Result))
}

// header is a stored record with one field replaced.
func header(field int, value string) string {
	f := strings.Split("1 a 5 n1 1 0 0 1 - 9 0 1000 5 0 5 - 0", " ")
	f[field] = value
	return strings.Join(f, " ") + "\n"
}

var garbage = map[string]string{
	"empty": "", "text": "hello", "later version": "2 a future format\n", "no newline": strings.TrimSpace(header(0, "1")),
	"unknown state": header(1, "x"), "absent state": header(1, "-"), "fence with a zero": header(2, "05"),
	"fence beyond 2^53": header(2, "9007199254740993"), "fence without successor": header(2, "9007199254740992"),
	"negative fence": header(2, "-5"), "huge fence": header(2, strings.Repeat("9", 400)), "nonce too long": header(3, strings.Repeat("n", 65)),
	"nonce of odd bytes": header(3, "n\xff"), "attempt out of range": header(4, "2147483648"), "fingerprint": header(8, "abc"),
	"fingerprint in capitals": header(8, strings.Repeat("AB", 16)), "lease": header(9, "1e9"), "cut cause": header(16, "7"),
	"one field too many": "1 " + header(0, "1"), "binary": "\x00\xff\n1 a",
}

// Nothing that stands in Redis stops a neighbour, is changed by a script, or is taken for a record by one side only.
func TestUnreadableRecordsHurtOnlyThemselves(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	ctx := testContext(t)
	var claims []dedup.Claim
	for name, raw := range garbage {
		id := strings.ReplaceAll(name, " ", "-")
		require.NoError(t, rdb.Set(ctx, nameOf(prefix, id), raw, time.Hour).Err())
		claims = append(claims, claimOf(id, "n1"), claimOf("good-"+id, "n1"))
	}
	require.NoError(t, rdb.LPush(ctx, nameOf(prefix, "list"), "x").Err())
	claims = append(claims, claimOf("list", "n1"), claimOf("good", "n1"))

	acquired := s.AcquireMany(ctx, claims)
	var settlements []dedup.HeldSettlement
	for i, a := range acquired {
		id := claims[i].Key.ID
		settlements = append(settlements, dedup.HeldSettlement{Hold: dedup.Hold{Key: claims[i].Key, Fence: 5, Nonce: "n1"}, Settlement: consumed})
		if strings.HasPrefix(id, "good") {
			require.NoError(t, a.Err, id)
			settlements[i].Hold = holdOf(a.Record)
			continue
		}
		require.ErrorIs(t, a.Err, dedup.ErrUnreadable, id)
		h := settlements[i].Hold
		require.ErrorIs(t, s.Extend(ctx, h, time.Minute), dedup.ErrUnreadable, id)
		require.ErrorIs(t, s.Release(ctx, h, dedup.Release{}), dedup.ErrUnreadable, id)
		require.ErrorIs(t, s.LetterSent(ctx, h.Key, 5), dedup.ErrUnreadable, id)
		_, err := s.Reopen(ctx, dedup.ReopenRequest{Key: h.Key, Fence: 5, Generation: 1, Retention: time.Hour})
		require.ErrorIs(t, err, dedup.ErrUnreadable, id)
		if id != "fence-without-successor" { // it can be looked at, but not followed
			_, err = s.Get(ctx, h.Key)
			require.ErrorIs(t, err, dedup.ErrUnreadable, id)
		}
	}
	for i, err := range s.SettleMany(ctx, settlements) {
		if id := claims[i].Key.ID; strings.HasPrefix(id, "good") {
			require.NoError(t, err, id)
		} else {
			require.ErrorIs(t, err, dedup.ErrUnreadable, id)
		}
	}
	for name, raw := range garbage {
		require.Equal(t, raw, rdb.Get(ctx, nameOf(prefix, strings.ReplaceAll(name, " ", "-"))).Val(), "%s was changed", name)
	}

	listed, broken := 0, 0
	for r, err := range s.List(ctx, dedup.Filter{Scope: "ORDERS/billing"}) {
		listed++
		if err != nil {
			require.ErrorIs(t, err, dedup.ErrUnreadable)
			require.NotEmpty(t, r.Key.ID)
			broken++
		}
	}
	assert.Equal(t, len(claims), listed)
	assert.Equal(t, len(garbage), broken) // the list, and all garbage but one
	require.NoError(t, s.Forget(ctx, claims[len(claims)-2].Key, false))
	acquire(t, s, claims[len(claims)-2], dedup.Granted)
}

func TestLargeFencesKeepEveryDigit(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	ctx := testContext(t)
	const last = dedup.Fence(1<<53 - 2)
	require.NoError(t, rdb.Set(ctx, nameOf(prefix, "k"), header(2, fmt.Sprint(uint64(last))), time.Hour).Err())
	r := acquire(t, s, claimOf("k", "n2"), dedup.Granted)
	require.Equal(t, last+1, r.Fence)
	require.Equal(t, 1, r.Abandoned)
	stale := holdOf(r)
	stale.Fence--
	require.ErrorIs(t, s.Settle(ctx, stale, consumed), dedup.ErrLeaseLost)
	require.NoError(t, s.Settle(ctx, holdOf(r), consumed))
}

func TestRequestsThatCannotBeStored(t *testing.T) {
	t.Parallel()
	s, _, _ := open(t)
	ctx := testContext(t)
	r := acquire(t, s, claimOf("k", "n1"), dedup.Granted)
	claims := []dedup.Claim{claimOf("x", ""), claimOf("x", "-"), claimOf("x", "a b"), claimOf("x", "a\n"), claimOf("x", dedup.Nonce(strings.Repeat("n", 65))), claimOf("y", "n1")}
	for i, a := range s.AcquireMany(ctx, claims) {
		if i == len(claims)-1 {
			require.NoError(t, a.Err)
			continue
		}
		require.False(t, storeError(t, a.Err).Indeterminate)
	}
	_, err := s.Get(ctx, claims[0].Key)
	require.ErrorIs(t, err, dedup.ErrNotFound)
	odd := dedup.Cause{Class: "two words"}
	require.False(t, storeError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.DeadOwed, Cause: odd})).Indeterminate)
	require.False(t, storeError(t, s.Release(ctx, holdOf(r), dedup.Release{Cause: odd})).Indeterminate)
	require.ErrorIs(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: 77}), dedup.ErrLeaseLost)
	_, err = s.Reopen(ctx, dedup.ReopenRequest{Key: r.Key, Generation: math.MaxInt32})
	require.Error(t, err)
	require.NoError(t, s.Extend(ctx, holdOf(r), time.Duration(math.MaxInt64)))
	got, err := s.Get(ctx, r.Key)
	require.NoError(t, err)
	require.Equal(t, dedup.Acquired, got.State)
	require.Empty(t, s.AcquireMany(ctx, nil))
	require.Empty(t, s.SettleMany(ctx, nil))
}

// A settlement that is remembered for no time must not fail the others of its call.
func TestNoRetentionIsForgottenSoon(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	a, b := acquire(t, s, claimOf("a", "n1"), dedup.Granted), acquire(t, s, claimOf("b", "n1"), dedup.Granted)
	for _, err := range s.SettleMany(testContext(t), []dedup.HeldSettlement{
		{Hold: holdOf(a), Settlement: dedup.Settlement{State: dedup.Consumed}}, {Hold: holdOf(b), Settlement: consumed},
	}) {
		require.NoError(t, err)
	}
	require.LessOrEqual(t, rdb.PTTL(testContext(t), nameOf(prefix, "a")).Val(), time.Millisecond)
	acquire(t, s, claimOf("b", "n2"), dedup.Duplicate)
}

func TestTheMemoryIsNeverTheLease(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	ctx := testContext(t)
	ttl := func() time.Duration { return rdb.PTTL(ctx, nameOf(prefix, "k")).Val() }
	about := func(want time.Duration) {
		t.Helper()
		require.InDelta(t, float64(want), float64(ttl()), float64(10*time.Second))
	}
	r := acquire(t, s, claimOf("k", "n1"), dedup.Granted)
	about(time.Hour + time.Minute)
	require.InDelta(t, float64(ttl()), float64(r.ExpiresIn()), float64(10*time.Second))
	require.NoError(t, s.Release(ctx, holdOf(r), dedup.Release{Delay: 5 * time.Hour}))
	about(6 * time.Hour)
	require.NoError(t, rdb.Del(ctx, nameOf(prefix, "k")).Err())
	r = acquire(t, s, claimOf("k", "n2"), dedup.Granted)
	require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.DeadSent, Retention: 9 * time.Hour}))
	about(9 * time.Hour)
	_, err := s.Reopen(ctx, dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: time.Hour})
	require.NoError(t, err)
	about(9 * time.Hour) // not shrunk
	r = acquire(t, s, claimOf("k", "n3"), dedup.Granted)
	require.NoError(t, s.Settle(ctx, holdOf(r), consumed))
	about(9 * time.Hour)
}

func TestABatchOfEqualKeysIsTreatedInOrder(t *testing.T) {
	t.Parallel()
	s, _, _ := open(t)
	var claims []dedup.Claim
	for i := range 600 { // more than one script takes
		c := claimOf(fmt.Sprintf("k%d", i/2), dedup.Nonce(fmt.Sprintf("n%d", i)))
		if i%50 == 0 {
			c.Lease *= 2 // other settings
		}
		claims = append(claims, c)
	}
	var settlements []dedup.HeldSettlement
	for i, a := range s.AcquireMany(testContext(t), claims) {
		require.NoError(t, a.Err)
		require.Equal(t, claims[i].Key, a.Record.Key)
		require.Equal(t, []dedup.Verdict{dedup.Granted, dedup.Busy}[i%2], a.Verdict)
		require.Equal(t, claims[i-i%2].Nonce, a.Record.Nonce)
		h := holdOf(a.Record)
		h.Nonce = claims[i].Nonce
		settlements = append(settlements, dedup.HeldSettlement{Hold: h, Settlement: consumed})
	}
	for i, err := range s.SettleMany(testContext(t), settlements) {
		require.Equal(t, []error{nil, dedup.ErrLeaseLost}[i%2], err)
	}
}

func TestListSelectsByScopeAndState(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	ctx := testContext(t)
	scopes := []string{"a*", "ab", "a[b]", `a\`, "a{|}%"}
	for _, scope := range scopes {
		for i := range 3 {
			c := claimOf(fmt.Sprintf("k%d", i), "n1")
			c.Key.Scope = scope
			r := acquire(t, s, c, dedup.Granted)
			if i == 0 {
				require.NoError(t, s.Settle(ctx, holdOf(r), consumed))
			}
		}
	}
	require.NoError(t, rdb.Set(ctx, prefix+"{not ours}", "x", time.Hour).Err())
	count := func(f dedup.Filter) (n int) {
		for r, err := range s.List(ctx, f) {
			require.NoError(t, err)
			require.True(t, f.Selects(&r))
			n++
		}
		return n
	}
	require.Equal(t, 15, count(dedup.Filter{}))
	for _, scope := range scopes {
		require.Equal(t, 3, count(dedup.Filter{Scope: scope}), scope)
		require.Equal(t, 1, count(dedup.Filter{Scope: scope, States: []dedup.State{dedup.Consumed}}), scope)
	}
	for range s.List(ctx, dedup.Filter{}) { //nolint:errcheck // only that it ends matters
		break
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range s.List(ended, dedup.Filter{}) {
		require.ErrorIs(t, err, context.Canceled)
	}
}
