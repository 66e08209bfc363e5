package kvstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
)

// now is what the server says of itself.
type now struct {
	time       time.Time
	replicated bool
}

// load reads the entry and the server's time. Both requests are under way at once: a time from before the read is right
// too, since it only makes leases, delays and memories seem to run a little longer.
func (s *Store) load(ctx context.Context, op string, k dedup.Key) (entry, now, error) {
	if err := s.reachable(ctx, op, k); err != nil {
		return entry{}, now{}, err
	}
	type answer struct {
		now now
		err error
	}
	asked := make(chan answer, 1)
	go func() {
		n, err := s.now(ctx)
		asked <- answer{n, err}
	}()
	e, err := s.read(ctx, k)
	a := <-asked
	if err = errors.Join(err, a.err); err != nil {
		return entry{}, now{}, readError(op, k, err)
	}
	return e, a.now, nil
}

// now asks the stream's leader for its time. The machine's own clock is no substitute: the two may be minutes apart.
func (s *Store) now(ctx context.Context) (now, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return now{}, err
	}
	if info.TimeStamp.IsZero() {
		return now{}, fmt.Errorf("kvstore: the server does not tell its time; use %s", neededServer)
	}
	return now{
		time:       info.TimeStamp.UTC().Truncate(time.Microsecond), // as exact as records are
		replicated: info.Config.Replicas > 1,
	}, nil
}

// storedMessage is the answer to a request for a message; the client library would ask any replica.
type storedMessage struct {
	Error   *jetstream.APIError `json:"error"`
	Message *struct {
		Sequence uint64    `json:"seq"`
		Time     time.Time `json:"time"`
		Header   []byte    `json:"hdrs"`
		Data     []byte    `json:"data"`
	} `json:"message"`
}

// read gets the entry from the stream's leader.
func (s *Store) read(ctx context.Context, k dedup.Key) (entry, error) {
	req, err := json.Marshal(map[string]string{"last_by_subj": s.storedSubject(k)})
	if err != nil {
		return entry{}, err
	}
	msg, err := s.js.Conn().RequestWithContext(ctx, s.apiPrefix+"STREAM.MSG.GET."+s.streamName, req)
	if err != nil {
		return entry{}, err
	}
	var resp storedMessage
	if err := json.Unmarshal(msg.Data, &resp); err != nil {
		return entry{}, fmt.Errorf("kvstore: the server's answer is not JSON: %w", err)
	}
	switch {
	case resp.Error != nil && resp.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return entry{key: k}, nil
	case resp.Error != nil:
		return entry{}, resp.Error
	case resp.Message == nil:
		return entry{}, jetstream.ErrInvalidJetStreamResponse
	}
	m := resp.Message
	var h nats.Header
	if len(m.Header) > 0 {
		if h, err = nats.DecodeHeadersMsg(m.Header); err != nil {
			h = nil // the data decides whether this is a record
		}
	}
	return newEntry(k, m.Sequence, m.Time, h, m.Data), nil
}

// write puts a record in the place of revision and returns what a read would now give. The error is errConflict if
// something else is there.
func (s *Store) write(ctx context.Context, op string, k dedup.Key, revision uint64, r *dedup.Record, steps []byte, at time.Time) (dedup.Record, error) {
	data := dedup.EncodeRecord(r)
	stored, err := dedup.DecodeRecord(k, data)
	if err != nil {
		return dedup.Record{}, &dedup.StoreError{Op: op, Key: k, Err: fmt.Errorf("kvstore: this change cannot be stored, check the nonce and the class: %w", err)}
	}
	m := nats.NewMsg(s.subject(k))
	m.Data = data
	if len(steps) > 0 {
		m.Data = append(data, steps...)
		m.Header.Set(stepsHeader, strconv.Itoa(len(steps)))
	}
	var opts []jetstream.PublishOpt
	if !r.ExpiresAt.IsZero() {
		m.Header.Set(expiresHeader, strconv.FormatInt(r.ExpiresAt.UnixMicro(), 10))
		opts = append(opts, jetstream.WithMsgTTL(ttl(r.ExpiresAt, at)))
	}
	written, err := s.publish(ctx, op, k, m, revision, opts...)
	if err != nil {
		return dedup.Record{}, err
	}
	finish(&stored, written, r.ExpiresAt.Truncate(time.Microsecond), at)
	return stored, nil
}

// writeMarker puts "nothing" in the place of revision.
func (s *Store) writeMarker(ctx context.Context, op string, k dedup.Key, revision uint64) error {
	m := nats.NewMsg(s.subject(k))
	m.Header.Set(operationHeader, purgeOperation)
	_, err := s.publish(ctx, op, k, m, revision, jetstream.WithMsgTTL(markerTTL))
	return err
}

// publish is the compare-and-set that every change is.
func (s *Store) publish(ctx context.Context, op string, k dedup.Key, m *nats.Msg, revision uint64, opts ...jetstream.PublishOpt) (uint64, error) {
	if err := s.reachable(ctx, op, k); err != nil {
		return 0, err
	}
	opts = append(opts, jetstream.WithExpectLastSequencePerSubject(revision))
	ack, err := s.js.PublishMsg(ctx, m, opts...)
	if err != nil {
		return 0, writeError(op, k, err, len(m.Data))
	}
	return ack.Sequence, nil
}

// reachable fails at once while there is no connection: the client library would keep the request and send it when there
// is one again, long after the caller has given up.
func (s *Store) reachable(ctx context.Context, op string, k dedup.Key) error {
	if err := ctx.Err(); err != nil {
		return readError(op, k, err)
	}
	if nc := s.js.Conn(); !nc.IsConnected() {
		return &dedup.StoreError{Op: op, Key: k, Err: fmt.Errorf("kvstore: not connected to NATS (%v): %w", nc.Status(), nats.ErrDisconnected)}
	}
	return nil
}
