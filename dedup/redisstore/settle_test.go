package redisstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// settle.lua does most settlements without taking the record apart. It must do so only where that comes to the same: bytes
// that are no record stay what they are, and the others become what the rules say. Every field takes every odd value.
func TestTheShortWayOfSettleFollowsTheRules(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	ctx := testContext(t)
	k := claimOf("k", "n1").Key
	const at = "1790000000000000"
	odd := []string{
		"0", "1", "7", "07", "00", "42", "999", "1000", "2147483648", "86400000", "9999999999999", at, "8999999999999999", "9007199254740993", "-1", "1e3", "", "x",
		"-", "--", "n1", "permanent", strings.Repeat("ab", 16), strings.Repeat("aB", 16), strings.Repeat("00", 16), strings.Repeat("ab", 15) + "-1", strings.Repeat("ab", 15) + "g1",
	}
	plain := strings.Split("1 a 5 n1 1 0 0 1 - "+at+" 0 1000 "+at+" 0 "+at+" - 0", " ")
	settled, refused := 0, 0
	try := func(raw string) {
		require.NoError(t, rdb.Set(ctx, nameOf(prefix, "k"), raw, time.Minute).Err())
		h := dedup.Hold{Key: k, Fence: 5, Nonce: "n1"}
		got := s.Settle(ctx, h, consumed)
		after, err := rdb.Get(ctx, nameOf(prefix, "k")).Result()
		require.NoError(t, err)
		record, err := dedup.DecodeRecord(k, []byte(raw))
		if err != nil || strings.HasPrefix(raw, "1 a 5 n1 1 0 0 1 "+strings.Repeat("00", 16)+" ") { // "not taken" is spelled with a dash
			refused++
			require.ErrorIs(t, got, dedup.ErrUnreadable, "%q: decoder %v", raw, err)
			require.Equal(t, raw, after)
			return
		}
		settled++
		require.NoError(t, got, "%q", raw)
		is, err := dedup.DecodeRecord(k, []byte(after))
		require.NoError(t, err)
		_, err = transition.Settle(&record, h, consumed, is.UpdatedAt)
		require.NoError(t, err)
		record.ExpiresAt = time.Time{}
		require.Equal(t, record, is, "%q", raw)
	}
	for field := 4; field < len(plain); field++ {
		for _, value := range odd {
			f := append([]string{}, plain...)
			f[field] = value
			try(strings.Join(f, " ") + "\n")
		}
	}
	for _, end := range []string{"\n", "", "\n\n", " \n", "\nbody"} {
		try(strings.Join(plain, " ") + end)
	}
	require.Positive(t, settled)
	require.Positive(t, refused)
}
