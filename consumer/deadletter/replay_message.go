package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/publisher"
)

// The errors of [ReplayStream.Publish] and [ReplayStream.Schedule].
var (
	// ErrTooLarge says that a message with its diagnostics is larger than the server takes. Nothing was changed.
	ErrTooLarge = errors.New("deadletter: the message is larger than the server takes; raise its max_payload for the replay")
	// ErrNoSchedules says that the stream cannot keep a message until its time.
	ErrNoSchedules = errors.New("deadletter: the replay stream has no schedules; they need nats-server 2.12 and Ensure")
)

// Publish sends a letter's message to its own consumer once more, under an idempotency key, with its death added to
// the history. It returns when the stream has confirmed it; duplicate says that the stream has had msgID within its
// duplicate window, so the message is there already. On an error it may or may not be there; publish it again.
func (rs *ReplayStream) Publish(ctx context.Context, l *consumer.Letter, key, msgID string) (duplicate bool, err error) {
	m, err := rs.replay(l, key, msgID)
	if err != nil {
		return false, err
	}
	return rs.send(ctx, m)
}

// Schedule keeps a letter's message, which did not die, until a time, and then delivers it to its own consumer under an
// idempotency key, with its history as it is. The time is rounded up to whole seconds; one that is past is now. It returns
// when the stream has confirmed it. The same id (see [ReplayStream.LaterSubject]) again takes the place of what waits
// under it.
func (rs *ReplayStream) Schedule(ctx context.Context, l *consumer.Letter, key, id string, at time.Time) error {
	if !rs.SchedulesAllowed() {
		return ErrNoSchedules
	}
	if whole := at.Truncate(time.Second); whole.Before(at) {
		at = whole.Add(time.Second)
	}
	run, later := rs.RunSubject(l.Stream, l.Durable), rs.LaterSubject(l.Stream, l.Durable, id)
	m, err := rs.message(l, l.History, key, nats.Header{
		jetstream.ScheduleHeader:       {"@at " + at.UTC().Format(time.RFC3339)},
		jetstream.ScheduleTargetHeader: {run},
		jetstream.SchedulerHeader:      {later}, // the server writes it when the time has come: there must be room
	})
	if err != nil {
		return err
	}
	m.Header.Del(jetstream.SchedulerHeader)
	m.Subject = later
	_, err = rs.send(ctx, m)
	return err
}

// replay returns the message of a replay.
func (rs *ReplayStream) replay(l *consumer.Letter, key, msgID string) (*nats.Msg, error) {
	m, err := rs.message(l, l.Deaths(), key, nats.Header{nats.MsgIdHdr: {msgID}})
	if err != nil {
		return nil, err
	}
	m.Subject = rs.RunSubject(l.Stream, l.Durable)
	return m, nil
}

// message returns a message in the form that [DecodeReplay] reads. If it is too large the texts of the errors go.
func (rs *ReplayStream) message(l *consumer.Letter, history []consumer.Death, key string, more nats.Header) (*nats.Msg, error) {
	out := *l
	out.Stack, out.History = "", history
	if out.Header = maps.Clone(l.Header); out.Header == nil {
		out.Header = map[string][]string{}
	}
	if err := publisher.SetKey(out.Header, key); err != nil {
		return nil, fmt.Errorf("deadletter: the key of the replay: %w", err)
	}
	limit := int(rs.js.Conn().MaxPayload())
	if limit <= 0 {
		return nil, fmt.Errorf("deadletter: the server has not said yet how much it takes: %w", nats.ErrDisconnected)
	}
	for _, trim := range []func(){
		func() {},
		func() {
			out.History = withoutErrors(history)
			out.Error = strings.ToValidUTF8(out.Error[:min(len(out.Error), shortError)], "")
		},
	} {
		trim()
		h := nats.Header(out.EncodeHeader())
		maps.Copy(h, more)
		if fits(h, len(out.Data), limit) {
			return &nats.Msg{Header: h, Data: out.Data}, nil
		}
	}
	return nil, fmt.Errorf("%w: %d bytes beside its headers, %d are allowed for both, and %d for the headers", ErrTooLarge, len(out.Data), limit, maxHeader)
}

// send publishes a message into the stream.
func (rs *ReplayStream) send(ctx context.Context, m *nats.Msg) (duplicate bool, err error) {
	ack, err := confirm(ctx, rs.js, m, rs.cfg.Timeout)
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return false, fmt.Errorf("deadletter: replay stream %q is missing, see Ensure: %w", rs.cfg.Stream, err)
	case err != nil:
		return false, fmt.Errorf("deadletter: replay stream %q did not take the message: %w", rs.cfg.Stream, err)
	case ack.Stream != rs.cfg.Stream:
		return false, fmt.Errorf("%w (it is %q, not the replay stream %q)", errNotOurs, ack.Stream, rs.cfg.Stream)
	}
	return ack.Duplicate, nil
}

// DecodeReplay reads a message of the replay stream: the letter whose message is to be handled, with its original headers,
// subject, stream, sequence and time, and its earlier deaths in History. The idempotency key is in the header, as in
// any message; Letter.Key has the one that it had when it died. The error wraps consumer.ErrNotLetter. Any input is safe.
func DecodeReplay(header map[string][]string, data []byte) (*consumer.Letter, error) {
	l, err := consumer.DecodeLetter(header, data)
	if err != nil {
		return nil, err
	}
	if _, err := publisher.KeyFromHeader(l.Header); err != nil {
		return nil, fmt.Errorf("%w: a replay: %w", consumer.ErrNotLetter, err)
	}
	l.Size = len(data)
	return l, nil
}
