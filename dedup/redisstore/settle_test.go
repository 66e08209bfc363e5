package redisstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/dedup/transition"
	"github.com/idemq/idemq/internal/testserver"
)

// A claim that this process has made is settled by comparing its record as a whole. Whatever has become of the record
// meanwhile, the settlement must come to what the rules say, for a store that knows the claim and for one that does not:
// every field takes every odd value, and bytes that are no record stay what they are.
func TestTheShortWayOfSettleFollowsTheRules(t *testing.T) {
	t.Parallel()
	knows, rdb, prefix := open(t)
	stranger := redisstore.New(rdb, redisstore.Config{Prefix: prefix})
	ctx := testContext(t)
	const at = "1790000000000000"
	odd := []string{
		"0", "1", "7", "07", "00", "42", "999", "1000", "2147483648", "86400000", "9999999999999", at, "8999999999999999", "9007199254740993", "-1", "1e3", "", "x",
		"-", "--", "n1", "permanent", strings.Repeat("ab", 16), strings.Repeat("aB", 16), strings.Repeat("00", 16), strings.Repeat("ab", 15) + "-1", strings.Repeat("ab", 15) + "g1",
	}
	outcomes := map[string]int{}
	try := func(s *redisstore.Store, change func(raw string) string) {
		c := claimOf(fmt.Sprint(len(outcomes), "-", outcomes["tried"]), "n1")
		outcomes["tried"]++
		name := nameOf(prefix, c.Key.ID)
		h := holdOf(acquire(t, knows, c, dedup.Granted))
		whole, err := rdb.Get(ctx, name).Result()
		require.NoError(t, err)
		raw := change(whole)
		require.NoError(t, rdb.Set(ctx, name, raw, time.Minute).Err())
		got := s.Settle(ctx, h, consumed)
		after, err := rdb.Get(ctx, name).Result()
		require.NoError(t, err)
		record, err := dedup.DecodeRecord(c.Key, []byte(raw))
		if f := strings.Split(raw, " "); err != nil || f[8] == strings.Repeat("00", 16) { // "not taken" is spelled with a dash
			outcomes["unreadable"]++
			require.ErrorIs(t, got, dedup.ErrUnreadable, "%q: decoder %v", raw, err)
			require.Equal(t, raw, after)
			return
		}
		changed, want := transition.Settle(&record, h, consumed, time.Now())
		require.Equal(t, want, got, "%q", raw)
		if !changed {
			outcomes["refused"]++
			require.Equal(t, raw, after)
			return
		}
		outcomes["settled"]++
		is, err := dedup.DecodeRecord(c.Key, []byte(after))
		require.NoError(t, err)
		if !redisstore.ComparesAndSets(s) { // else the record leaves it to its time to live
			require.WithinDuration(t, time.Now(), is.UpdatedAt, testLimit)
		}
		record.UpdatedAt, record.ExpiresAt = is.UpdatedAt, time.Time{}
		require.Equal(t, record, is, "%q", raw)
		require.InDelta(t, consumed.Retention, rdb.PTTL(ctx, name).Val(), float64(testLimit))
	}
	for _, s := range []*redisstore.Store{knows, stranger} {
		try(s, func(raw string) string { return raw })
		for field := range strings.Fields("1 a fence nonce 1 0 0 1 - lease 0 retention created 0 updated - 0") {
			for _, value := range odd {
				try(s, func(raw string) string {
					f := strings.Split(strings.TrimSuffix(raw, "\n"), " ")
					f[field] = value
					return strings.Join(f, " ") + "\n"
				})
			}
		}
		for _, end := range []string{"", "\n\n", " \n", "\nbody"} {
			try(s, func(raw string) string { return strings.TrimSuffix(raw, "\n") + end })
		}
	}
	for _, outcome := range []string{"unreadable", "refused", "settled"} {
		require.Positive(t, outcomes[outcome], outcome)
	}
}

// What the store knows of its claims is a hint: it must hold under every combination of settings within one call.
func TestSettlementsOfOneCallHaveTheirOwnSettings(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	ctx := testContext(t)
	var held []dedup.HeldSettlement
	var want []dedup.Record
	for i := range 40 {
		c := claimOf(fmt.Sprint("k", i), dedup.Nonce(fmt.Sprint("n", i)))
		c.Lease, c.Retention = time.Minute+time.Duration(i%2)*time.Second, time.Hour+time.Duration(i%3)*time.Second
		if i%5 > 0 {
			c.Fingerprint = dedup.Fingerprint{byte(i)}
		}
		st := dedup.Settlement{State: dedup.Consumed, Retention: time.Hour + time.Duration(i/20)*time.Hour}
		if i%4 == 0 {
			st.Result = bytes.Repeat([]byte{byte(i)}, i)
		}
		if i%7 == 6 {
			st.State, st.Cause = dedup.DeadOwed, dedup.Cause{Class: dedup.Permanent, Message: "no: \x00\n 1 2 3 %d"}
		}
		r := acquire(t, s, c, dedup.Granted)
		h := holdOf(r)
		if i == 13 {
			h.Nonce = "n 1 c - 5 "
		} else if i != 26 {
			_, err := transition.Settle(&r, h, st, r.ReadAt)
			require.NoError(t, err)
		}
		if i == 26 {
			require.NoError(t, rdb.Del(ctx, nameOf(prefix, c.Key.ID)).Err())
		}
		held, want = append(held, dedup.HeldSettlement{Hold: h, Settlement: st}), append(want, r)
	}
	for range 2 { // the second time all are repeated
		for i, err := range s.SettleMany(ctx, held) {
			if i == 13 || i == 26 {
				require.ErrorIs(t, err, dedup.ErrLeaseLost)
				continue
			}
			require.NoError(t, err)
			got, err := s.Get(ctx, held[i].Hold.Key)
			require.NoError(t, err)
			want[i].UpdatedAt, want[i].FailedAt = got.UpdatedAt, got.FailedAt
			want[i].ExpiresAt = want[i].ReadAt.Add(want[i].Retention)
			if i%4 != 0 || i == 0 || want[i].State != dedup.Consumed {
				want[i].Result = nil
			}
			same(t, want[i], got)
		}
	}
}

// One call with the same key twice: the second sees what the first has done.
func TestOneCallSettlesAKeyOnce(t *testing.T) {
	t.Parallel()
	s, _, _ := open(t)
	ctx := testContext(t)
	dead := dedup.Settlement{State: dedup.DeadSent, Retention: time.Hour}
	other := consumed
	other.Result = []byte("other")
	for name, twice := range map[string][]dedup.Settlement{
		"consumed, dead": {consumed, dead}, "dead, consumed": {dead, consumed}, "consumed, consumed": {consumed, other},
	} {
		h := holdOf(acquire(t, s, claimOf(name, dedup.Nonce(strings.ReplaceAll(name, " ", ""))), dedup.Granted))
		first := dedup.HeldSettlement{Hold: h, Settlement: twice[0]}
		errs := s.SettleMany(ctx, []dedup.HeldSettlement{first, {Hold: h, Settlement: twice[1]}})
		require.NoError(t, errs[0], name)
		require.Equal(t, twice[0].State != twice[1].State, errors.Is(errs[1], dedup.ErrLeaseLost), name)
		r, err := s.Get(ctx, h.Key)
		require.NoError(t, err)
		require.Equal(t, twice[0].State, r.State, name)
		require.Equal(t, string(twice[0].Result), string(r.Result), name)
	}
}

// A user without MGET, as older files of access rights have it, settles all the same.
func TestSettleWithoutTheRightToReadMany(t *testing.T) {
	t.Parallel()
	s := openURL(t, testserver.PrivateRedis(t).AddUser(t, "old", "secret", "~*", "&*", "+@all", "-mget"))
	var held []dedup.HeldSettlement
	for i := range 3 {
		r := acquire(t, s, claimOf(fmt.Sprint("k", i), dedup.Nonce(fmt.Sprint("n", i))), dedup.Granted)
		held = append(held, dedup.HeldSettlement{Hold: holdOf(r), Settlement: consumed})
	}
	require.Equal(t, make([]error, 3), s.SettleMany(testContext(t), held))
}

// Most settlements must go the short way: that is what makes them cheap. The server counts the commands.
func TestASettlementReadsAllRecordsAtOnce(t *testing.T) {
	t.Parallel()
	rdb := testserver.PrivateRedis(t).Client(t)
	s := redisstore.New(rdb, redisstore.Config{})
	first := holdOf(acquire(t, s, claimOf("first", "n"), dedup.Granted))
	require.NoError(t, s.Settle(testContext(t), first, consumed)) // beside it the store asks what the server can
	if redisstore.ComparesAndSets(s) {
		t.Skip("the server settles without a script")
	}
	const keys = 50
	claims, held := make([]dedup.Claim, keys), make([]dedup.HeldSettlement, keys)
	for i := range claims {
		claims[i] = claimOf(fmt.Sprint("k", i), dedup.Nonce(fmt.Sprint("n", i)))
	}
	acquired := commands(t, rdb, func(context.Context) {
		for i, a := range s.AcquireMany(testContext(t), claims) {
			require.NoError(t, a.Err)
			held[i] = dedup.HeldSettlement{Hold: holdOf(a.Record), Settlement: consumed}
		}
	})
	require.Equal(t, keys, acquired["set"])
	require.Zero(t, acquired["get"])
	settled := commands(t, rdb, func(context.Context) {
		require.Equal(t, make([]error, keys), s.SettleMany(testContext(t), held))
	})
	require.Equal(t, []int{1, keys, 0, 0}, []int{settled["mget"], settled["set"], settled["get"], settled["pttl"]})
	known := commands(t, rdb, func(context.Context) {
		for _, a := range s.AcquireMany(testContext(t), slices.Clone(claims)) {
			require.Equal(t, dedup.Duplicate, a.Verdict)
		}
	})
	require.Zero(t, known["get"], "the command that would write a new record answers with the one that is there")
}

// commands counts what a server executes meanwhile.
func commands(t *testing.T, rdb *redis.Client, f func(context.Context)) map[string]int {
	t.Helper()
	ctx := testContext(t)
	require.NoError(t, rdb.ConfigResetStat(ctx).Err())
	f(ctx)
	info, err := rdb.Info(ctx, "commandstats").Result()
	require.NoError(t, err)
	out := map[string]int{}
	for line := range strings.Lines(info) {
		var n int
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if _, err := fmt.Sscanf(rest, "%d,", &n); ok && err == nil {
			out[name] = n
		}
	}
	return out
}

// A step that another store has saved under the claim is remembered as long as the settled record.
func TestSettleKnowsOfStepsThatAnotherHasSaved(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	h := holdOf(acquire(t, s, claimOf("k", "n1"), dedup.Granted))
	another := redisstore.New(rdb, redisstore.Config{Prefix: prefix})
	require.NoError(t, another.SaveStep(testContext(t), h, dedup.SavedStep{Name: "one", Data: []byte("1")}))
	require.NoError(t, s.Settle(testContext(t), h, dedup.Settlement{State: dedup.Consumed, Retention: 9 * time.Hour}))
	left := rdb.PTTL(testContext(t), nameOf(prefix, "k")+":steps}").Val()
	require.Greater(t, left, 8*time.Hour)
}
