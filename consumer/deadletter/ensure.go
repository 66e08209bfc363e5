package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrUnsafeStream says that the stream exists with settings that can lose letters, or refuse them or their marks.
var ErrUnsafeStream = errors.New("deadletter: the stream is not fit for dead letters")

// Ensure makes the stream if it is missing. One that exists is checked and never changed: the error wraps
// [ErrUnsafeStream] and names every setting that is wrong. Limits on messages and bytes are allowed, since with discard
// new they refuse letters and do not lose them. It may be called by many workers at once.
func (q *Queue) Ensure(ctx context.Context) error {
	s, err := q.js.Stream(ctx, q.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = q.js.CreateStream(ctx, jetstream.StreamConfig{
			Name:        q.cfg.Stream,
			Description: "Dead letters of idemq and their marks",
			Subjects:    q.subjects(),
			Retention:   jetstream.LimitsPolicy,
			Discard:     jetstream.DiscardNew,
			Storage:     jetstream.FileStorage,
			Replicas:    q.cfg.Replicas,
			AllowRollup: true,
			AllowDirect: true,
		})
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody was faster
			s, err = q.js.Stream(ctx, q.cfg.Stream)
		}
	}
	if err != nil {
		return fmt.Errorf("deadletter: stream %q: %w", q.cfg.Stream, err)
	}
	if wrong := q.unsafe(s.CachedInfo().Config); len(wrong) > 0 {
		return fmt.Errorf("%w: %q %s; change it, or name another in Config.Stream", ErrUnsafeStream, q.cfg.Stream, strings.Join(wrong, ", "))
	}
	return nil
}

func (q *Queue) subjects() []string { return []string{q.cfg.Prefix + ".>", q.cfg.MarkPrefix + ".>"} }

// unsafe lists what is wrong with a stream's settings.
func (q *Queue) unsafe(c jetstream.StreamConfig) []string {
	var wrong []string
	check := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	for _, subject := range q.subjects() {
		check(!slices.Contains(c.Subjects, subject), "does not have the subject %s", subject)
	}
	check(c.Retention != jetstream.LimitsPolicy, "has the retention %s (limits is needed)", c.Retention)
	check(c.Discard != jetstream.DiscardNew, "discards old letters (discard new is needed)")
	check(c.MaxAge > 0, "forgets letters after MaxAge %s (0 is needed)", c.MaxAge)
	check(c.MaxMsgsPerSubject > 0, "keeps MaxMsgsPerSubject %d (no limit is needed)", c.MaxMsgsPerSubject)
	check(c.MaxMsgSize > 0, "refuses letters above MaxMsgSize %d (no limit is needed)", c.MaxMsgSize)
	check(c.Storage != jetstream.FileStorage, "is in memory (file storage is needed)")
	check(c.PersistMode != jetstream.DefaultPersistMode, "confirms before it has written (the default persist mode is needed)")
	check(c.NoAck, "confirms nothing (NoAck)")
	check(c.Sealed, "is sealed")
	check(!c.AllowRollup, "does not allow rollups, which marks need (AllowRollup)")
	check(c.SubjectTransform != nil, "changes subjects (SubjectTransform)")
	check(c.Mirror != nil, "is a mirror")
	return wrong
}
