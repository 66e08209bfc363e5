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
	n := uint64(0)
	for _, subject := range []string{rs.RunSubject(stream, durable), rs.later(stream, durable) + ".*"} {
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
		if err != nil {
			return 0, fmt.Errorf("deadletter: stream %q: %w", rs.cfg.Stream, err)
		}
		for _, waiting := range info.State.Subjects {
			n += waiting
		}
	}
	return int(n), nil //nolint:gosec // a count of messages
}
