package deadletter

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// Entry is a letter in its place in the stream. Copies of one letter share the ID and differ in the sequence.
type Entry struct {
	Sequence uint64    // in the dead-letter stream
	ID       string    // of the letter
	Stored   time.Time // when the stream stored it, by the server's clock
	// Letter is nil if the message cannot be read. A listing has read the headers alone: it has no body, no stack, and of
	// a letter whose headers lie in parts only what identifies it. See [Queue.Get].
	Letter *consumer.Letter
	// Mark is nil unless the entry was replayed. A replay whose mark was refused has none.
	Mark *Mark

	subject string
	parts   partsInfo
}

// Mark says that an entry was replayed.
type Mark struct {
	At     time.Time // when it was marked, by the server's clock
	Key    string    // the idempotency key of the replay
	Origin bool      // it was sent to its original subject
}

// When is the time of the last failure, or when the entry was stored if the letter does not tell.
func (e *Entry) When() time.Time {
	if e.Letter != nil && !e.Letter.LastFailure.IsZero() {
		return e.Letter.LastFailure
	}
	return e.Stored
}

// age is taken from whichever is earlier: the clock of whoever wrote the letter is not trusted.
func (e *Entry) age(now time.Time) time.Duration {
	if w := e.When(); w.Before(e.Stored) {
		return now.Sub(w)
	}
	return now.Sub(e.Stored)
}

// newEntry reads a message of the stream; the error wraps consumer.ErrNotLetter.
func newEntry(subject string, seq uint64, stored time.Time, header nats.Header, data []byte) (Entry, error) {
	e := Entry{Sequence: seq, ID: header.Get(nats.MsgIdHdr), Stored: stored.UTC(), subject: subject, parts: partsOf(header)}
	l, err := consumer.DecodeLetter(header, data)
	if err != nil {
		return e, err
	}
	if e.Letter = l; e.ID == "" {
		e.ID = l.ID()
	}
	return e, nil
}

// Filter selects entries. Its zero value selects all; what is set must all apply.
type Filter struct {
	Stream, Durable string // where the message came from
	Class           dedup.Class
	Key             string
	// Text is a part of the error, in the spelling that it has there.
	Text string
	// Since and Until bound [Entry.When]; Until itself is not selected.
	Since, Until time.Time
	Generation   int
	// IDs selects these letters, by their whole ids.
	IDs []string
}

// selects says whether the entry passes. What cannot be read passes: a filter that hides it would hide a loss.
func (f *Filter) selects(e *Entry) bool {
	l := e.Letter
	if l == nil {
		return true
	}
	if f.Stream != "" && f.Stream != l.Stream || f.Durable != "" && f.Durable != l.Durable ||
		f.Class != "" && f.Class != l.Class || f.Key != "" && f.Key != l.Key {
		return false
	}
	when := e.When()
	if !f.Since.IsZero() && when.Before(f.Since) || !f.Until.IsZero() && !when.Before(f.Until) {
		return false
	}
	return strings.Contains(l.Error, f.Text) && (f.Generation == 0 || f.Generation == l.Generation) &&
		(len(f.IDs) == 0 || slices.Contains(f.IDs, e.ID))
}

// unsorted is where a publisher of Watermill puts letters of every durable and class, behind the prefix: it is the default of
// wmidem's Config.DeadTopic.
var unsorted = [...]string{"watermill", "any", "any"}

// subjects are the narrowest ones that have all that the filter selects, and never the parts. None of them is in another.
func (f *Filter) subjects(prefix string) []string {
	names := [...]string{f.Stream, f.Durable, string(f.Class)}
	covered := true
	for i, name := range names {
		if name == "" {
			names[i] = "*"
			continue
		}
		names[i] = token(name)
		covered = covered && names[i] == unsorted[i]
	}
	subjects := []string{strings.Join(append([]string{prefix}, names[:]...), ".")}
	if !covered {
		subjects = append(subjects, strings.Join(append([]string{prefix}, unsorted[:]...), "."))
	}
	return subjects
}

const idDigestSize = 16

type idDigest [idDigestSize]byte

// idSet remembers ids in a few bytes each, since every entry of a listing leaves one.
type idSet map[idDigest]struct{}

// add says whether the id is new.
func (s idSet) add(id string) bool {
	sum := sha256.Sum256([]byte(id))
	k := idDigest(sum[:idDigestSize])
	_, seen := s[k]
	s[k] = struct{}{}
	return !seen
}
