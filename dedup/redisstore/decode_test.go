package redisstore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
)

// The scripts and dedup.DecodeRecord take the same bytes for a record: what one changes the other can read.
func TestScriptsAndDecoderReadTheSameBytes(t *testing.T) {
	t.Parallel()
	s, rdb, prefix := open(t)
	ctx := testContext(t)
	k := claimOf("k", "n1").Key
	number := rapid.SampledFrom([]string{
		"0", "1", "7", "2147483647", "2147483648", "1790000000000000", "9007199254740991", "9007199254740993", "07", "-1", "+1", "1e3", "0x1", "", "x", "-", "1.0",
	})
	text := rapid.SampledFrom([]string{
		"-", "n", "--", "permanent", strings.Repeat("n", 64), strings.Repeat("n", 65), "é", "a\tb", "\x7f", "\x00", "", strings.Repeat("ab", 16), strings.Repeat("aB", 16), strings.Repeat("ab", 15) + "g0", strings.Repeat("00", 16),
	})
	rapid.Check(t, func(t *rapid.T) {
		f := strings.Split("1 f 5 n1 1 0 0 1 - 0 9 1000 5 0 5 - 0", " ")
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			switch i := rapid.IntRange(0, len(f)-1).Draw(t, "field"); i {
			case 1:
				f[i] = rapid.SampledFrom([]string{"-", "a", "f", "c", "o", "d", "x", "aa", "A", ""}).Draw(t, "state")
			case 3, 8, 15:
				f[i] = text.Draw(t, "text")
			default:
				f[i] = number.Draw(t, "number")
			}
		}
		raw := strings.Join(f, rapid.SampledFrom([]string{" ", " ", " ", " ", " ", " ", "  ", "\n"}).Draw(t, "separator")) +
			rapid.SampledFrom([]string{"\n", "\n", "\n", "", " \n", "\r\n"}).Draw(t, "end") + rapid.StringN(0, 12, 12).Draw(t, "body")
		_, want := dedup.DecodeRecord(k, []byte(raw))
		if f[8] == strings.Repeat("0", 32) {
			want = dedup.ErrUnreadable // "not taken" is spelled with a dash
		}
		if strings.Contains(f[11], "9007199254740991") {
			want = dedup.ErrUnreadable // longer than a Go duration: the decoder may wrap it round
		}
		require.NoError(t, rdb.Set(ctx, nameOf(prefix, "k"), raw, time.Minute).Err())
		_, got := s.Reopen(ctx, dedup.ReopenRequest{Key: k, Fence: 3, Generation: 1, Retention: time.Minute})
		require.Equal(t, errors.Is(want, dedup.ErrUnreadable), errors.Is(got, dedup.ErrUnreadable), "%q: decoder %v, script %v", raw, want, got)
	})
}
