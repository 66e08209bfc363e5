package deadletter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The defaults of [ReplayStreamConfig].
const (
	DefaultReplayStream = "IDEMQ_REPLAY"
	DefaultReplayPrefix = "idemq.replay"
)

// ErrUnsafeReplayStream says that the stream exists with settings that can lose replays or refuse them.
var ErrUnsafeReplayStream = errors.New("deadletter: the stream is not fit for replays")

// ReplayStreamConfig has the settings of a [ReplayStream]. Its zero value is safe.
type ReplayStreamConfig struct {
	// Stream is the name of the stream. Defaults to IDEMQ_REPLAY.
	Stream string
	// Prefix begins the subjects. Defaults to "idemq.replay".
	Prefix string
	// Replicas is how many servers keep the stream that Ensure makes. Defaults to 1; take 3 where messages matter.
	Replicas int
	// Timeout bounds each wait for a confirmation. Defaults to 5 s.
	Timeout time.Duration
}

// ReplayStream is a work queue that brings replays, and retries that are due later, to the one consumer whose they are.
// It is safe for concurrent use and has no goroutines.
type ReplayStream struct {
	js        jetstream.JetStream
	cfg       ReplayStreamConfig
	schedules atomic.Bool
}

// NewReplayStream returns a replay stream over js. It does not talk to the server; see [ReplayStream.Ensure].
func NewReplayStream(js jetstream.JetStream, cfg ReplayStreamConfig) *ReplayStream {
	if cfg.Stream == "" {
		cfg.Stream = DefaultReplayStream
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultReplayPrefix
	}
	if cfg.Replicas <= 0 {
		cfg.Replicas = defaultReplicas
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	return &ReplayStream{js: js, cfg: cfg}
}

// Config returns the settings with the defaults filled in.
func (rs *ReplayStream) Config() ReplayStreamConfig { return rs.cfg }

// RunSubject is where the consumer of a stream and durable takes its replays from. Names that are cut or changed to make a
// subject of them may share one: the consumer compares the letter's Stream and Durable.
func (rs *ReplayStream) RunSubject(stream, durable string) string {
	return strings.Join([]string{rs.cfg.Prefix, "run", token(stream), token(durable)}, ".")
}

// LaterSubject is where a message waits for its time; id tells it from every other that waits for this consumer, since of two
// on one subject only the second is delivered. It must name scope, stream and sequence, or a letter.
func (rs *ReplayStream) LaterSubject(stream, durable, id string) string {
	name := token(id)
	if name != id {
		sum := sha256.Sum256([]byte(id))
		name = hex.EncodeToString(sum[:])
	}
	return rs.later(stream, durable) + "." + name
}

// later begins the subjects of what waits for a consumer.
func (rs *ReplayStream) later(stream, durable string) string {
	return strings.Join([]string{rs.cfg.Prefix, "later", token(stream), token(durable)}, ".")
}

// SchedulesAllowed says whether [ReplayStream.Schedule] can be used, as [ReplayStream.Ensure] has found: the server is 2.12
// or later and the stream allows it. It is false before Ensure.
func (rs *ReplayStream) SchedulesAllowed() bool { return rs.schedules.Load() }

// Ensure makes the stream if it is missing, with schedules where the server knows them. One that exists is checked and never
// changed: the error wraps [ErrUnsafeReplayStream] and names every setting that is wrong. A stream that does not allow
// schedules is fit. It may be called by many workers at once.
func (rs *ReplayStream) Ensure(ctx context.Context) error {
	s, err := rs.js.Stream(ctx, rs.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = rs.js.CreateStream(ctx, rs.settings())
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody was faster
			s, err = rs.js.Stream(ctx, rs.cfg.Stream)
		}
	}
	if err != nil {
		return fmt.Errorf("deadletter: stream %q: %w", rs.cfg.Stream, err)
	}
	c := s.CachedInfo().Config
	if wrong := rs.unsafe(c); len(wrong) > 0 {
		return fmt.Errorf("%w: %q %s; change it, or name another in ReplayStreamConfig.Stream", ErrUnsafeReplayStream, rs.cfg.Stream,
			strings.Join(wrong, ", "))
	}
	rs.schedules.Store(c.AllowMsgSchedules)
	return nil
}

// settings ask for schedules; a server that does not know them leaves them out. Schedules and discard new exclude each
// other, but a work queue without limits discards nothing.
func (rs *ReplayStream) settings() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              rs.cfg.Stream,
		Description:       "Replays of idemq, and retries that are due later",
		Subjects:          rs.subjects(),
		Retention:         jetstream.WorkQueuePolicy,
		Discard:           jetstream.DiscardOld,
		Storage:           jetstream.FileStorage,
		Replicas:          rs.cfg.Replicas,
		AllowRollup:       true,
		AllowDirect:       true,
		AllowMsgSchedules: true,
	}
}

func (rs *ReplayStream) subjects() []string {
	return []string{rs.cfg.Prefix + ".run.>", rs.cfg.Prefix + ".later.>"}
}

// unsafe lists what is wrong with a stream's settings.
func (rs *ReplayStream) unsafe(c jetstream.StreamConfig) []string {
	var wrong []string
	check := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	all := slices.Contains(c.Subjects, rs.cfg.Prefix+".>")
	for _, subject := range rs.subjects() {
		check(!all && !slices.Contains(c.Subjects, subject), "does not have the subject %s", subject)
	}
	check(c.Retention != jetstream.WorkQueuePolicy, "has the retention %s (work queue is needed)", c.Retention)
	for limit, set := range map[string]bool{"MaxMsgs": c.MaxMsgs > 0, "MaxBytes": c.MaxBytes > 0} {
		check(c.Discard != jetstream.DiscardNew && set, "drops old messages at %s (no limit, or discard new, is needed)", limit)
	}
	check(c.MaxAge > 0, "forgets messages after MaxAge %s (0 is needed)", c.MaxAge)
	check(c.MaxMsgsPerSubject > 0, "keeps MaxMsgsPerSubject %d (no limit is needed)", c.MaxMsgsPerSubject)
	check(c.MaxMsgSize > 0, "refuses messages above MaxMsgSize %d (no limit is needed)", c.MaxMsgSize)
	check(c.Storage != jetstream.FileStorage, "is in memory (file storage is needed)")
	check(c.PersistMode != jetstream.DefaultPersistMode, "confirms before it has written (the default persist mode is needed)")
	check(c.NoAck, "confirms nothing (NoAck)")
	check(c.Sealed, "is sealed")
	check(c.SubjectTransform != nil, "changes subjects (SubjectTransform)")
	check(c.Mirror != nil, "is a mirror")
	slices.Sort(wrong)
	return wrong
}
