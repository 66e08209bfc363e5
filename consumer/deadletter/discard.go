package deadletter

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrChanged says that under the sequence there is another letter than the entry's: the stream was made anew.
var ErrChanged = errors.New("deadletter: another message has this sequence now; list again")

// Discard removes an entry for good: first the entry, then its parts, then its mark. It is repeatable, with an entry of a
// listing also when it stopped half way; what has gone already is no error. An Entry with a Sequence alone will do, also
// for what is no letter. Copies of the letter stay, each with its own parts, and are listed in its place.
func (q *Queue) Discard(ctx context.Context, e Entry) error {
	s, err := q.open(ctx)
	if err != nil {
		return err
	}
	wrap := func(err error) error {
		if err != nil {
			err = fmt.Errorf("deadletter: discarding sequence %d: %w", e.Sequence, err)
		}
		return err
	}
	m, err := s.GetMsg(ctx, e.Sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return wrap(err)
	case e.ID != "" && !sameID(m, e.ID):
		return wrap(ErrChanged)
	default:
		e.ID, e.subject, e.parts = m.Header.Get(nats.MsgIdHdr), m.Subject, partsOf(m.Header)
	}
	// Also if a replica does not have it, which may only be behind.
	if err := remove(ctx, s, e.Sequence); err != nil {
		return wrap(err)
	}
	if e.parts.digest != "" {
		if err := q.discardParts(ctx, s, &e); err != nil {
			return wrap(err)
		}
	}
	return wrap(s.Purge(ctx, jetstream.WithPurgeSubject(q.markSubject(e.Sequence))))
}

// remove deletes a message. The server refuses for several reasons and tells them by text alone; that the message has
// gone is the one that is none.
func remove(ctx context.Context, s jetstream.Stream, seq uint64) error {
	err := s.DeleteMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gerr := s.GetMsg(ctx, seq); errors.Is(gerr, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	return err
}

// sameID says whether a message is the entry's, which takes the id from the letter if the message has none.
func sameID(m *jetstream.RawStreamMsg, id string) bool {
	e, _ := newEntry(m.Subject, m.Sequence, m.Time, m.Header, m.Data)
	return e.ID == id
}

// discardParts removes the parts of an entry that no copy needs.
func (q *Queue) discardParts(ctx context.Context, s jetstream.Stream, e *Entry) error {
	type span struct{ first, letter uint64 }
	var copies []span
	letters := walk{stream: s, subject: e.subject, from: e.parts.first, to: s.CachedInfo().State.LastSeq}
	letters.take = func(batch []message) (bool, error) {
		for _, m := range batch {
			if p := partsOf(m.Headers()); p.digest == e.parts.digest && m.Headers().Get(nats.MsgIdHdr) == e.ID && m.Sequence.Stream != e.Sequence {
				copies = append(copies, span{p.first, m.Sequence.Stream})
			}
		}
		return true, nil
	}
	if err := letters.run(ctx); err != nil {
		return err
	}
	parts := walk{stream: s, subject: e.subject + partSuffix, from: e.parts.first, to: e.Sequence}
	parts.take = func(batch []message) (bool, error) {
		for _, m := range batch {
			mine := m.Headers().Get(headerLetterID) == e.ID && m.Headers().Get(headerPartsDigest) == e.parts.digest
			for _, c := range copies {
				mine = mine && (m.Sequence.Stream < c.first || m.Sequence.Stream > c.letter)
			}
			if !mine {
				continue
			}
			if err := remove(ctx, s, m.Sequence.Stream); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return parts.run(ctx)
}
