package dedup

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// FingerprintSize is the size of a [Fingerprint] in bytes.
const FingerprintSize = 16

// Fingerprint tells one payload from another under the same key: the first 128 bits of a SHA-256. Its zero value means
// "not taken" and matches everything.
type Fingerprint [FingerprintSize]byte

// FingerprintOf returns the fingerprint of the parts. Each part is hashed with its length in front, so that ("ab", "c")
// and ("a", "bc") differ. It is safe for concurrent use.
func FingerprintOf(parts ...[]byte) Fingerprint {
	size := 0
	for _, p := range parts {
		size += partPrefix + len(p)
	}
	if size > maxSmall {
		return largeFingerprint(parts)
	}
	var small [maxSmall]byte // in one piece it needs no memory
	b := small[:0]
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(p))), p...)
	}
	sum := sha256.Sum256(b)
	return Fingerprint(sum[:FingerprintSize])
}

const (
	partPrefix = 8   // bytes in front of each part
	maxSmall   = 768 // bytes; most requests and messages
)

func largeFingerprint(parts [][]byte) Fingerprint {
	h := sha256.New()
	var n [partPrefix]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	var sum [sha256.Size]byte
	return Fingerprint(h.Sum(sum[:0])[:FingerprintSize])
}

// IsZero says whether no fingerprint was taken.
func (f Fingerprint) IsZero() bool { return f == Fingerprint{} }

// Matches says whether two fingerprints can belong to the same payload: they are equal, or one was not taken.
func (f Fingerprint) Matches(other Fingerprint) bool {
	return f == other || f.IsZero() || other.IsZero()
}

// String returns the fingerprint as 32 hexadecimal digits, or "" if it was not taken.
func (f Fingerprint) String() string {
	if f.IsZero() {
		return ""
	}
	return hex.EncodeToString(f[:])
}

// ParseFingerprint reads what [Fingerprint.String] writes.
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	if s == "" {
		return f, nil
	}
	if len(s) != hex.EncodedLen(FingerprintSize) {
		return f, fmt.Errorf("dedup: a fingerprint has %d hexadecimal digits, not %d", hex.EncodedLen(FingerprintSize), len(s))
	}
	if _, err := hex.Decode(f[:], []byte(s)); err != nil {
		return Fingerprint{}, fmt.Errorf("dedup: malformed fingerprint: %w", err)
	}
	return f, nil
}
