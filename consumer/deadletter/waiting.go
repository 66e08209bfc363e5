package deadletter

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Waiting returns how many messages are on their way back to the consumer of a stream and durable: replays that it has
// not settled, and retries whose time has not come.
func (rs *ReplayStream) Waiting(ctx context.Context, stream, durable string) (int, error) {
	s, err := rs.js.Stream(ctx, rs.cfg.Stream)
	if err != nil {
		return 0, fmt.Errorf("deadletter: stream %q: %w", rs.cfg.Stream, err)
	}
	// A message that moves from one subject to the other between two questions must be seen on one of them. The question
	// about retries is asked twice, since both moves happen: a retry is put off, and its time comes.
	later, err := waitingOn(ctx, s, rs.later(stream, durable)+".*")
	if err != nil {
		return 0, err
	}
	run, err := waitingOn(ctx, s, rs.RunSubject(stream, durable))
	if err != nil {
		return 0, err
	}
	putOff, err := waitingOn(ctx, s, rs.later(stream, durable)+".*")
	if err != nil {
		return 0, err
	}
	return run + max(later, putOff), nil
}

func waitingOn(ctx context.Context, s jetstream.Stream, subject string) (int, error) {
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, fmt.Errorf("deadletter: stream %q: %w", s.CachedInfo().Config.Name, err)
	}
	n := uint64(0)
	for _, waiting := range info.State.Subjects {
		n += waiting
	}
	return int(n), nil //nolint:gosec // a count of messages
}
