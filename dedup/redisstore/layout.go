package redisstore

import (
	"crypto/sha256"
	"math/bits"
	"strconv"
	"strings"
	"sync"
)

// Layout is how a store remembers consumed keys.
type Layout uint8

const (
	// Readable keeps a record for each key, and looks for nothing else.
	Readable Layout = iota
	// Moving keeps a record for each key, and also finds the consumed keys of workers with [Compact]. It is the step between
	// the two others, in both directions.
	Moving
	// Compact keeps a digest of each consumed key.
	Compact
)

const (
	minBuckets     = 64
	maxBuckets     = 1 << 24
	defaultBuckets = 4096
	slots          = 16384        // of a Cluster
	digestSize     = 16           // bytes
	bucketSuffix   = "}:consumed" // and the number of a bucket where a slot has several
	bucketNameRoom = 24
)

func buckets(n int, single bool) int {
	if n <= 0 && single {
		n = defaultBuckets
	}
	if !single {
		n = max(n, slots)
	}
	return 1 << bits.Len(uint(min(max(n, minBuckets), maxBuckets)-1))
}

// withBuckets makes the call one that finds the buckets of its keys, if the store has them.
func (s *Store) withBuckets(c call) call {
	if s.cfg.Layout == Readable {
		return c
	}
	args := make([]any, 0, len(c.args)+2*len(c.keys)+1)
	args = append(args, c.args...)
	for _, key := range c.keys {
		bucket, digest := s.bucketOf(key)
		args = append(args, bucket, digest)
	}
	return call{script: compactScripts[c.script], keys: c.keys, args: append(args, flag(s.cfg.Layout == Compact))}
}

// bucketOf returns the name of the bucket for a record's name, and the digest under which the key stands there: half of a
// SHA-256, so that nobody who chooses keys can make two of them one.
//
// A bucket lies in the slot of its records, for a script touches both. Its hash tag begins with the scope, as access rights
// demand, and goes on with a text that brings it to the slot.
func (s *Store) bucketOf(name string) (bucket string, digest []byte) {
	sum := sha256.Sum256([]byte(name))
	from := len(s.cfg.Prefix) + 1
	to := from + strings.IndexByte(name[from:], '|') + 1
	// A brace in the prefix begins the hash tag earlier. If it ends there too, all is in one slot, and any bucket will do.
	if open := strings.IndexByte(name, '{') + 1; strings.IndexByte(name[open:], '}')+open >= from {
		from = open
	}
	slot := int(crc16(0, name[from:len(name)-1])) & (min(s.cfg.Buckets, slots) - 1)
	b := make([]byte, 0, to+bucketNameRoom)
	b = append(append(append(b, name[:to]...), tagFor(name[from:to], slot)...), bucketSuffix...)
	if some := s.cfg.Buckets / slots; some > 1 {
		b = strconv.AppendInt(b, int64(int(sum[digestSize])<<8|int(sum[digestSize+1]))%int64(some), 36)
	}
	return string(append(b, '}')), sum[:digestSize:digestSize]
}

// tagSize is how many characters make up for every slot.
const tagSize = 4

// tags has a text for each checksum of 14 bits that such a text can have on its own.
var tags = sync.OnceValue(func() *[slots]string {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
	var out [slots]string
	var text [tagSize]byte
	for n, found := 0, 0; found < slots; n++ {
		rest := n
		for i := range text {
			text[i] = alphabet[rest%len(alphabet)]
			rest /= len(alphabet)
		}
		if at := crc16(0, string(text[:])) & (slots - 1); out[at] == "" {
			out[at] = string(text[:])
			found++
		}
	}
	return &out
})

// tagFor returns the text that, behind the scope, makes a hash tag of the slot. The checksum is linear: that of the whole is
// that of the scope followed by zeros, and that of the text, added without carry.
func tagFor(scope string, slot int) string {
	rest := crc16(crc16(0, scope), "\x00\x00\x00\x00"[:tagSize])
	return tags()[(slot^int(rest))&(slots-1)]
}

// crc16 is the checksum by which a Cluster spreads hash tags (CRC-16/XMODEM), going on from crc.
func crc16(crc uint16, s string) uint16 {
	for i := 0; i < len(s); i++ {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^s[i]]
	}
	return crc
}

var crcTable = func() (t [256]uint16) {
	const polynomial = 0x1021
	for i := range t {
		crc := uint16(i) << 8
		for range 8 {
			if carry := crc&0x8000 != 0; carry {
				crc = crc<<1 ^ polynomial
			} else {
				crc <<= 1
			}
		}
		t[i] = crc
	}
	return t
}()
