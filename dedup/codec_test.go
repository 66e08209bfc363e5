package dedup_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
)

const goldenRecord = "1 f 1767323045000000 n-1 3 1 2 4 0102030405060708090a0b0c0d0e0f10 0 1767323105000001 86400000 " +
	"1767323045000000 1767323046000000 1767323047000000 permanent 11\nno \"x\"\n\x00\xff\r\t1 f 2 -"

func golden() dedup.Record {
	return dedup.Record{
		Key: key, State: dedup.Failed, Fence: 1767323045000000, Nonce: "n-1", Attempt: 3, Abandoned: 1, Interrupted: 2, Generation: 4,
		Fingerprint: dedup.Fingerprint{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
		NotBefore:   time.UnixMicro(1767323105000001).UTC(), Retention: 24 * time.Hour,
		CreatedAt: time.UnixMicro(1767323045000000).UTC(), FailedAt: time.UnixMicro(1767323046000000).UTC(),
		UpdatedAt: time.UnixMicro(1767323047000000).UTC(),
		Cause:     dedup.Cause{Class: dedup.Permanent, Message: "no \"x\"\n\x00\xff\r\t"}, Result: []byte("1 f 2 -"),
	}
}

// Stores in use hold these bytes: a change here needs a new version.
func TestTheStoredFormStaysTheSame(t *testing.T) {
	t.Parallel()
	r := golden()
	require.Equal(t, goldenRecord, string(dedup.EncodeRecord(&r)))
	got, err := dedup.DecodeRecord(key, []byte(goldenRecord))
	require.NoError(t, err)
	require.Equal(t, r, got)
}

func anyTime() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		n := rapid.Int64Range(0, 1<<53).Draw(t, "micros")
		if n == 0 {
			return time.Time{}
		}
		return time.UnixMicro(n).UTC()
	})
}

func anyRecord() *rapid.Generator[dedup.Record] {
	return rapid.Custom(func(t *rapid.T) dedup.Record {
		count := rapid.IntRange(0, 1<<31-1)
		r := dedup.Record{
			Key: key, State: dedup.State(rapid.IntRange(1, 5).Draw(t, "state")),
			Fence:   dedup.Fence(rapid.Uint64Range(0, 1<<53).Draw(t, "fence")),
			Nonce:   dedup.Nonce(rapid.StringMatching(`|[!-,.-~]|[!-~]{2,64}`).Draw(t, "nonce")),
			Attempt: count.Draw(t, "attempt"), Abandoned: count.Draw(t, "abandoned"),
			Interrupted: count.Draw(t, "interrupted"), Generation: count.Draw(t, "generation"),
			LeaseUntil: anyTime().Draw(t, "lease"), NotBefore: anyTime().Draw(t, "notBefore"),
			Retention: time.Duration(rapid.Int64Range(0, 1<<43).Draw(t, "retention")) * time.Millisecond,
			CreatedAt: anyTime().Draw(t, "created"), FailedAt: anyTime().Draw(t, "failed"), UpdatedAt: anyTime().Draw(t, "updated"),
			Cause: dedup.Cause{
				Class:   rapid.SampledFrom([]dedup.Class{"", dedup.Permanent, dedup.Exhausted, dedup.Abandoned}).Draw(t, "class"),
				Message: string(rapid.SliceOfN(rapid.Byte(), 0, dedup.MaxCauseLength).Draw(t, "message")),
			},
		}
		copy(r.Fingerprint[:], rapid.SliceOfN(rapid.Byte(), 0, dedup.FingerprintSize).Draw(t, "print"))
		if b := rapid.SliceOf(rapid.Byte()).Draw(t, "result"); len(b) > 0 {
			r.Result = b
		}
		return r
	})
}

func TestEveryRecordIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord().Draw(t, "record")
		b := dedup.EncodeRecord(&r)
		got, err := dedup.DecodeRecord(r.Key, b)
		require.NoError(t, err, "%q", b)
		require.Equal(t, r, got)
		for i := range b {
			b[i] = 0xff
		}
		require.Equal(t, r, got, "the record shares memory with the bytes it was read from")
	})
}

func TestACutRecordIsUnreadable(t *testing.T) {
	t.Parallel()
	r := golden()
	r.Result = nil
	b := dedup.EncodeRecord(&r)
	for n := range b {
		_, err := dedup.DecodeRecord(key, b[:n])
		require.ErrorIs(t, err, dedup.ErrUnreadable, "%q", b[:n])
	}
}

func TestWhatIsNotARecordIsUnreadable(t *testing.T) {
	t.Parallel()
	replace := func(field int, with string) string {
		f := strings.Split(strings.TrimSuffix(strings.SplitAfter(goldenRecord, "\n")[0], "\n"), " ")
		f[field] = with
		return strings.Join(f, " ") + "\n" + strings.Repeat("x", 20)
	}
	bad := map[string]string{
		"empty": "", "newline": "\n", "garbage": "garbage", "garbage line": "garbage\n", "json": `{"v":1}`, "version alone": "1", "version and newline": "1\n",
		"no version": replace(0, ""), "version 0": replace(0, "0"), "negative version": replace(0, "-1"), "padded version": replace(0, "01"),
		"signed version": replace(0, "+1"), "two spaces": strings.Replace(goldenRecord, " ", "  ", 1), "endless line": strings.Repeat("1 ", 1<<16),
		"carriage return": strings.Replace(goldenRecord, "\n", "\r\n", 1), "too many fields": strings.Replace(goldenRecord, "\n", " 0\n", 1),
	}
	for _, s := range []string{"", "-", "x", "F", "ff", "0"} {
		bad["state "+s] = replace(1, s)
	}
	for _, field := range []int{2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 16} {
		for _, s := range []string{"", "-", "-1", "+1", "01", "1.0", "1e3", "0x1", " 1", "9007199254740993", "99999999999999999999", "nan"} {
			bad[fmt.Sprintf("field %d: %s", field, s)] = replace(field, s)
		}
	}
	for _, field := range []int{4, 5, 6, 7, 16} {
		bad[fmt.Sprintf("field %d: too many", field)] = replace(field, "2147483648")
	}
	for _, field := range []int{3, 15} {
		for _, s := range []string{"", "a\x00", "a\tb", "ü", "\x7f", strings.Repeat("n", 65)} {
			bad[fmt.Sprintf("field %d: %q", field, s)] = replace(field, s)
		}
	}
	for _, s := range []string{"", "00", strings.Repeat("g", 32), strings.Repeat("0", 33), strings.Repeat("A", 32), strings.Repeat("0", 32)} {
		bad["fingerprint "+s] = replace(8, s)
	}
	for _, s := range []string{"9223372036855", "18446744073710", "9007199254740992"} { // as nanoseconds they overflow, once or several times
		bad["retention "+s] = replace(11, s)
	}
	bad["message longer than what is there"] = replace(16, "21")
	for name, b := range bad {
		_, err := dedup.DecodeRecord(key, []byte(b))
		require.ErrorIs(t, err, dedup.ErrUnreadable, name)
		assert.ErrorContains(t, err, key.ID, "the error names the key")
	}
	_, err := dedup.DecodeRecord(key, []byte(replace(16, "20")))
	require.NoError(t, err, "the replacement itself is sound")
}

func TestALaterVersionIsNamed(t *testing.T) {
	t.Parallel()
	for _, b := range []string{"2 ", "2 whatever", "17 a b c\n", "2 " + strings.Repeat("x", 4096)} {
		_, err := dedup.DecodeRecord(key, []byte(b))
		require.ErrorIs(t, err, dedup.ErrUnreadable)
		require.ErrorContains(t, err, "version")
	}
}

// What is read is written back as the same bytes, so that no two spellings of one record exist (I12).
func FuzzDecodeRecord(f *testing.F) {
	r := golden()
	f.Add(dedup.EncodeRecord(&r))
	f.Add(dedup.EncodeRecord(&dedup.Record{State: dedup.Acquired, Fence: 1, Nonce: "n", Attempt: 1, Generation: 1}))
	f.Add(dedup.EncodeRecord(&dedup.Record{State: dedup.Consumed, Fence: 1 << 53, Nonce: "-n", Result: bytes.Repeat([]byte{0, '\n', ' '}, 9)}))
	for _, s := range []string{
		"", "\n", "1", "1 \n", "2 a 1 n", "garbage", strings.Repeat("1 ", 300), goldenRecord[:40], strings.Replace(goldenRecord, " 11\n", " 2147483647\n", 1),
		"1 d 0 - 0 0 0 0 - 0 0 0 0 0 0 - 0\n", "1 o 0 - 0 0 0 0 00000000000000000000000000000000 0 0 0 0 0 0 - 0\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := dedup.DecodeRecord(key, b)
		if err != nil {
			require.ErrorIs(t, err, dedup.ErrUnreadable)
			require.Equal(t, dedup.Record{}, r)
			return
		}
		require.Equal(t, key, r.Key)
		require.NotEqual(t, dedup.Absent, r.State)
		require.GreaterOrEqual(t, r.Retention, time.Duration(0))
		require.Equal(t, string(b), string(dedup.EncodeRecord(&r)))
	})
}
