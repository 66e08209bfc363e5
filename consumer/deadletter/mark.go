package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/idemq/idemq/consumer"
)

// The headers of a mark, beside the letter's id: it does not count for an entry of another id, which a rebuilt stream may
// have under the sequence.
const (
	headerMarkKey    = consumer.LetterPrefix + "Mark-Key"
	headerMarkOrigin = consumer.LetterPrefix + "Mark-Origin"
	headerPending    = "Nats-Num-Pending" // of a server's answer: how many are still to come
)

func (q *Queue) markSubject(seq uint64) string {
	return q.cfg.MarkPrefix + "." + strconv.FormatUint(seq, 10)
}

// mark marks exactly this entry, in place of an earlier mark.
func (q *Queue) mark(ctx context.Context, e *Entry, m Mark) error {
	msg := nats.NewMsg(q.markSubject(e.Sequence))
	msg.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	msg.Header.Set(headerLetterID, e.ID)
	msg.Header.Set(headerMarkKey, m.Key)
	if m.Origin {
		msg.Header.Set(headerMarkOrigin, "true")
	}
	if _, err := q.confirm(ctx, msg); err != nil {
		return fmt.Errorf("deadletter: mark of sequence %d: %w", e.Sequence, err)
	}
	return nil
}

// errMarks says that an answer ended too early; a mark that was not seen would pass for one that is not there.
var errMarks = errors.New("the answer about marks was not complete")

// addMarks looks up the marks of the entries: with one request, or one by one where the server does not know that one.
func (q *Queue) addMarks(ctx context.Context, s jetstream.Stream, entries []*Entry) error {
	if len(entries) == 0 {
		return nil
	}
	bySubject, subjects := make(map[string]*Entry, len(entries)), make([]string, 0, len(entries))
	for _, e := range entries {
		subject := q.markSubject(e.Sequence)
		bySubject[subject], subjects = e, append(subjects, subject)
	}
	limited, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	messages, err := jetstreamext.GetLastMsgsFor(limited, q.js, q.cfg.Stream, subjects)
	if err != nil {
		return fmt.Errorf("marks: %w", err)
	}
	pending := ""
	for m, err := range messages {
		switch {
		case errors.Is(err, jetstreamext.ErrNoMessages):
			return nil
		case errors.Is(err, jetstreamext.ErrBatchUnsupported), errors.Is(err, nats.ErrNoResponders):
			return q.addMarksSingly(ctx, s, bySubject)
		case err != nil:
			return fmt.Errorf("marks: %w", err)
		}
		if e := bySubject[m.Subject]; e != nil {
			e.setMark(m)
		}
		pending = m.Header.Get(headerPending)
	}
	if pending != "0" {
		return errors.Join(errMarks, limited.Err())
	}
	return nil
}

func (q *Queue) addMarksSingly(ctx context.Context, s jetstream.Stream, bySubject map[string]*Entry) error {
	for subject, e := range bySubject {
		m, err := s.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("marks: %w", err)
		}
		e.setMark(m)
	}
	return nil
}

func (e *Entry) setMark(m *jetstream.RawStreamMsg) {
	if e.ID == "" || m.Header.Get(headerLetterID) != e.ID {
		return
	}
	e.Mark = &Mark{
		At: m.Time.UTC(), Key: strings.ToValidUTF8(m.Header.Get(headerMarkKey), "�"), Origin: m.Header.Get(headerMarkOrigin) != "",
	}
}
