package dedup_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
)

// Stores in use hold fingerprints: another way to take them would make conflicts of all duplicates.
func TestFingerprintsStayTheSame(t *testing.T) {
	t.Parallel()
	require.Equal(t, "601d5476e2ccfe2c87a2bba7a3226597", dedup.FingerprintOf([]byte("ab"), []byte("c")).String())
}

// The short way and the long one give the same: a digest over each part behind its length.
func TestFingerprintsOfEverySize(t *testing.T) {
	t.Parallel()
	for size := range 2000 {
		parts := [][]byte{[]byte("POST"), bytes.Repeat([]byte{byte(size)}, size), nil}
		h := sha256.New()
		for _, p := range parts {
			require.NoError(t, binary.Write(h, binary.BigEndian, uint64(len(p))))
			h.Write(p)
		}
		want := dedup.Fingerprint(h.Sum(nil)[:dedup.FingerprintSize])
		require.Equal(t, want, dedup.FingerprintOf(parts...), size)
	}
}

func TestFingerprintsTellPartsApart(t *testing.T) {
	t.Parallel()
	seen := map[dedup.Fingerprint]int{}
	for i, parts := range [][]string{
		nil, {""}, {"", ""}, {"abc"}, {"ab", "c"}, {"a", "bc"}, {"a", "b", "c"}, {"", "abc"}, {"abc", ""}, {"abd"}, {"\x00"}, {"\x00\x00"},
		{"a\x00\x00\x00\x00\x00\x00\x00\x01b"}, {"a", "b"},
	} {
		var b [][]byte
		for _, p := range parts {
			b = append(b, []byte(p))
		}
		f := dedup.FingerprintOf(b...)
		require.False(t, f.IsZero(), "%q", parts)
		require.Equal(t, f, dedup.FingerprintOf(b...))
		other, twice := seen[f]
		require.False(t, twice, "parts %d and %d", other, i)
		seen[f] = i
	}
}

func TestWhichFingerprintsMatch(t *testing.T) {
	t.Parallel()
	a, b, none := dedup.Fingerprint{1}, dedup.Fingerprint{15: 1}, dedup.Fingerprint{}
	for _, f := range []dedup.Fingerprint{a, b, none} {
		require.True(t, f.Matches(f))
		require.True(t, f.Matches(none) && none.Matches(f), "what was not taken matches everything")
	}
	require.False(t, a.Matches(b) || b.Matches(a))
}

func TestFingerprintsAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := dedup.Fingerprint(rapid.SliceOfN(rapid.Byte(), dedup.FingerprintSize, dedup.FingerprintSize).Draw(t, "print"))
		got, err := dedup.ParseFingerprint(f.String())
		require.NoError(t, err)
		require.Equal(t, f, got)
	})
	require.Empty(t, dedup.Fingerprint{}.String())
	for _, s := range []string{"-", "00", strings.Repeat("g", 32), strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("ä", 16)} {
		f, err := dedup.ParseFingerprint(s)
		require.Error(t, err, s)
		require.True(t, f.IsZero(), s)
	}
}
