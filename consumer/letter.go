package consumer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Letter is a message that cannot succeed, with what a person needs in order to decide about it: why it failed, where it
// came from, and the message itself, unchanged. All texts in it come from outside and are untrusted.
type Letter struct {
	Class dedup.Class
	Error string // of the last try; a sink keeps at least [MaxLetterError] bytes of it if there is room
	Stack string // of a panic, cut likewise to [MaxLetterStack] bytes

	Attempts                  int
	Generation                int // how many times the key has died, this one included
	FirstFailure, LastFailure time.Time

	// Scope and Key name the record. Key is raw: empty for a missing key, and anything at all for a malformed one.
	Scope, Key string
	Fence      dedup.Fence // of the dead claim; 0 if there is no record

	Fingerprint dedup.Fingerprint // of the claim; zero if none was taken

	// History has the earlier deaths of the message, oldest first, at most [MaxLetterHistory]; see [Letter.Deaths].
	History []Death

	// Where the message came from.
	Subject, Stream, Durable string
	Sequence                 uint64
	Time                     time.Time // when the stream stored the message

	Header    map[string][]string
	RawHeader []byte // the bytes of the headers, if those could not be read
	Data      []byte
	// Size is the length of the original payload in bytes. It is for readers who have the headers alone: encoding takes
	// the length of Data in its place.
	Size int
}

// LetterSink takes dead letters. It may be called from several goroutines, and again for a letter that it has already.
type LetterSink interface {
	// Publish returns nil only when the letter is durably stored, since the message is terminated after that. It must
	// not change or keep l. The same ID means the same letter: a sink that has it already returns nil.
	Publish(ctx context.Context, l *Letter) error
}

// letterIDBytes is how much of the digest an ID keeps: 160 bits.
const letterIDBytes = 20

// ID identifies the letter: the same for every publication of one death, another one for the next death of the same key.
// It is derived from scope, key and fence of the dead claim. A letter without a record of its own (missing_key,
// malformed, conflict, or fence 0) takes scope, stream, sequence and class instead, and the message itself where the
// transport has no sequences. It has 40 hexadecimal digits, so that it is safe in a header, a subject and a file name.
func (l *Letter) ID() string {
	d := letterDigest{}
	switch {
	case l.hasRecord():
		d.add("record", l.Scope, l.Key)
		d.number(uint64(l.Fence))
	case l.Stream != "" && l.Sequence != 0:
		d.add("message", l.Scope, l.Stream, string(l.Class))
		d.number(l.Sequence)
	default:
		d.add("content", l.Scope, l.Stream, string(l.Class), l.Subject, l.Key, string(l.RawHeader), string(l.Data))
		for _, name := range slices.Sorted(maps.Keys(l.Header)) {
			d.add(name)
			d.number(uint64(len(l.Header[name])))
			d.add(l.Header[name]...)
		}
	}
	sum := sha256.Sum256(d.b)
	return hex.EncodeToString(sum[:letterIDBytes])
}

func (l *Letter) hasRecord() bool { return l.Class.HasRecord() && l.Fence != 0 }

// letterDigest writes each part behind its length, so that no two lists of parts look alike.
type letterDigest struct{ b []byte }

func (d *letterDigest) add(parts ...string) {
	for _, p := range parts {
		d.number(uint64(len(p)))
		d.b = append(d.b, p...)
	}
}

func (d *letterDigest) number(n uint64) { d.b = binary.BigEndian.AppendUint64(d.b, n) }
