package deadletter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
)

// The errors of [Queue.Get] and [Queue.Read].
var (
	// ErrNotFound says that no message has that sequence.
	ErrNotFound = errors.New("deadletter: no such letter")
	// ErrIncomplete says that parts of a letter are missing or damaged.
	ErrIncomplete = errors.New("deadletter: the parts of the letter are not complete")
)

// Get returns the entry with a sequence of the stream: the whole letter, put together from its parts if it has some, and
// its mark. A part or a mark is not a letter: consumer.ErrNotLetter, as is what is damaged. Nothing is changed. A reader
// soon after the publication may meet a replica that does not have the message yet: [ErrNotFound].
func (q *Queue) Get(ctx context.Context, seq uint64) (Entry, error) {
	s, err := q.open(ctx)
	if err != nil {
		return Entry{}, err
	}
	e, err := q.load(ctx, s, seq)
	if err != nil {
		return Entry{}, err
	}
	if err := q.addMarks(ctx, s, []*Entry{&e}); err != nil {
		return Entry{}, fmt.Errorf("deadletter: sequence %d: %w", seq, err)
	}
	return e, nil
}

// Read returns the letter of [Queue.Get].
func (q *Queue) Read(ctx context.Context, seq uint64) (*consumer.Letter, error) {
	s, err := q.open(ctx)
	if err != nil {
		return nil, err
	}
	e, err := q.load(ctx, s, seq)
	return e.Letter, err
}

// load returns an entry without its mark.
func (q *Queue) load(ctx context.Context, s jetstream.Stream, seq uint64) (Entry, error) {
	m, err := s.GetMsg(ctx, seq)
	if seq == 0 || errors.Is(err, jetstream.ErrMsgNotFound) { // the server has an error of its own for sequence 0
		return Entry{}, fmt.Errorf("%w: sequence %d of stream %q", ErrNotFound, seq, q.cfg.Stream)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("deadletter: sequence %d: %w", seq, err)
	}
	header, data := m.Header, m.Data
	if m.Header.Get(headerParts) != "" {
		if header, data, err = join(ctx, s, m); err != nil {
			return Entry{}, fmt.Errorf("deadletter: sequence %d: %w", seq, err)
		}
	}
	e, err := newEntry(m.Subject, m.Sequence, m.Time, m.Header, data)
	if err != nil {
		return Entry{}, fmt.Errorf("deadletter: sequence %d: %w", seq, err)
	}
	if e.Letter, err = consumer.DecodeLetter(header, data); err != nil {
		return Entry{}, fmt.Errorf("deadletter: sequence %d: %w", seq, err)
	}
	return e, nil
}

// join returns headers and body of a letter in parts.
func join(ctx context.Context, s jetstream.Stream, m *jetstream.RawStreamMsg) (nats.Header, []byte, error) {
	total, err := strconv.Atoi(m.Header.Get(headerParts))
	if err != nil || total < 1 {
		return nil, nil, fmt.Errorf("%w: header %s is not a number", consumer.ErrNotLetter, headerParts)
	}
	first, _ := strconv.ParseUint(m.Header.Get(headerPartsFirst), 10, 64)
	content, err := collect(ctx, s, m, total, max(1, first))
	if errors.Is(err, ErrIncomplete) && first > 1 {
		// The stream was rebuilt: its sequences are others.
		content, err = collect(ctx, s, m, total, 1)
	}
	if err != nil {
		return nil, nil, err
	}
	inParts := m.Header.Get(headerInParts)
	if inParts == "" {
		return m.Header, content, nil
	}
	n, err := strconv.Atoi(inParts)
	if err != nil || n < 0 || n > len(content) {
		return nil, nil, fmt.Errorf("%w: header %s is not a number in range", consumer.ErrNotLetter, headerInParts)
	}
	var header nats.Header
	if err := json.Unmarshal(content[:n], &header); err != nil {
		return nil, nil, fmt.Errorf("%w: the headers in its parts: %w", consumer.ErrNotLetter, err)
	}
	return header, content[n:], nil
}

// collect finds the parts between from and the letter, by letter id and digest.
func collect(ctx context.Context, s jetstream.Stream, m *jetstream.RawStreamMsg, total int, from uint64) ([]byte, error) {
	id, digest := m.Header.Get(nats.MsgIdHdr), m.Header.Get(headerPartsDigest)
	found := map[int][]byte{}
	for len(found) < total && from < m.Sequence {
		part, err := s.GetMsg(ctx, from, jetstream.WithGetMsgSubject(m.Subject+partSuffix))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		from = part.Sequence + 1
		var n, of int
		if _, err := fmt.Sscanf(part.Header.Get(headerPart), "%d/%d", &n, &of); err != nil || n < 1 || of != total || n > of {
			continue
		}
		if part.Header.Get(headerLetterID) == id && part.Header.Get(headerPartsDigest) == digest {
			found[n] = part.Data
		}
	}
	if len(found) < total {
		return nil, fmt.Errorf("%w: %d of %d found", ErrIncomplete, len(found), total)
	}
	parts := make([][]byte, total)
	for n, data := range found {
		parts[n-1] = data
	}
	content := slices.Clip(bytes.Join(parts, nil))
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != digest {
		return nil, fmt.Errorf("%w: their digest is another", ErrIncomplete)
	}
	return content, nil
}
