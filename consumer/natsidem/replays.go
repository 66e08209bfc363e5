package natsidem

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// replayPoll is how often the worker asks for replays while there are none. A pull that waits for them would hold a slot
// that the durable could use.
const replayPoll = time.Second

const quietTries = 8 // several seconds

// ReplayConsumer creates, in the replay stream, the durable consumer of what comes back to a consumer of a stream:
// replayed dead letters, and retries that were put off. The stream is created, too, if it is missing. A [Worker] does
// this by itself and consumes it; beside [Wrap] consume it with the same handler. It may be called at every start. The
// error wraps [ErrConfig] or deadletter.ErrUnsafeStream, or is the server's.
func ReplayConsumer(
	ctx context.Context, js jetstream.JetStream, stream, durable string, d *dedup.Deduper, cfg Config,
) (jetstream.Consumer, error) {
	cfg, err := cfg.withDefaults(stream, durable)
	if err != nil {
		return nil, err
	}
	return ensureReplays(ctx, js, newReplayStream(js, cfg), stream, durable, d.Config().Lease, cfg.Workers)
}

func newReplayStream(js jetstream.JetStream, cfg Config) *deadletter.ReplayStream {
	return deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{Stream: cfg.ReplayStream, Prefix: cfg.ReplayPrefix})
}

func ensureReplays(
	ctx context.Context, js jetstream.JetStream, rs *deadletter.ReplayStream, stream, durable string, lease time.Duration, workers int,
) (jetstream.Consumer, error) {
	if err := rs.Ensure(ctx); err != nil {
		return nil, err
	}
	name, replays := replayConsumer(stream, durable), rs.Config().Stream
	want := jetstream.ConsumerConfig{
		Durable:       name,
		Description:   "Replays and delayed retries for " + durable + " of " + stream,
		FilterSubject: rs.RunSubject(stream, durable),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       fitAckWait(lease),
		MaxDeliver:    -1,
		MaxAckPending: workers + retryBacklog,
	}
	c, err := js.Consumer(ctx, replays, name)
	if err == nil {
		// It is ours, but another worker may have made it with a shorter lease.
		if have := c.CachedInfo().Config; have.AckWait >= want.AckWait && have.MaxAckPending >= workers {
			return c, nil
		}
	}
	if err == nil || errors.Is(err, jetstream.ErrConsumerNotFound) {
		c, err = js.CreateOrUpdateConsumer(ctx, replays, want)
	}
	if err != nil {
		return nil, fmt.Errorf("natsidem: consumer %s of the replay stream %s: %w", name, replays, err)
	}
	return c, nil
}

// maxReplayName keeps the consumer's name below what a server takes for a file name.
const maxReplayName = 100

// replayConsumer names the consumer of the replay stream. The digest keeps apart what "_" would run together.
func replayConsumer(stream, durable string) string {
	sum := sha256.Sum256([]byte(stream + "/" + durable)) // neither can hold a slash
	name := stream + "_" + durable
	return name[:min(len(name), maxReplayName)] + "_" + hex.EncodeToString(sum[:4])
}

// replays is the second source of a worker: what comes back through the replay stream.
type replays struct {
	s      *source
	puller *puller
}

// run pulls until ctx ends, into the flow of the durable's source.
func (r *replays) run(ctx context.Context) {
	w, flow := r.s.w, r.s.flow
	// What concerns both sources is logged by the durable's.
	out := outage{log: w.log.With("source", "replays"), nc: w.js.Conn(), quiet: quietTries}
	for {
		n := r.seats(ctx)
		if n == 0 {
			return
		}
		got, err := r.puller.pull(ctx, n, 0)
		flow.GiveBack(n - got)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if again := w.ensureReplays(ctx); again != nil { // somebody may have deleted the consumer
				err = errors.Join(err, again)
			}
			if out.wait(ctx, err) != nil {
				return
			}
		case got < n:
			out.over()
			if within(ctx.Done(), replayPoll) {
				return
			}
		}
	}
}

// seats waits until a worker is free and the store can be asked. It returns 0 if ctx ends.
func (r *replays) seats(ctx context.Context) int {
	if r.s.w.pipeline.Admit(ctx) != nil {
		return 0
	}
	seats := r.s.flow.Ask(r.s.w.cfg.Workers, false)
	select {
	case <-ctx.Done():
		r.s.flow.GiveBack(seats.Take())
		return 0
	case <-seats.Granted():
		return seats.Take()
	}
}

func (w *Worker) ensureReplays(ctx context.Context) error {
	_, err := ensureReplays(ctx, w.js, w.replays, w.stream, w.durable, w.d.Config().Lease, w.cfg.Workers)
	return err
}

// original makes of a delivery of the replay stream one of the original message. What is not a replay for this scope
// becomes a dead letter of class malformed. Other deliveries stay as they are.
func (w *Worker) original(d *delivery) {
	m := d.message
	if w.replays == nil || m.Stream != w.cfg.ReplayStream {
		return
	}
	if m.HeaderErr != nil {
		m.Durable = w.durable
		return
	}
	l, err := deadletter.DecodeReplay(m.Header, m.Data)
	if err == nil && (l.Stream != w.stream || l.Durable != w.durable) {
		err = fmt.Errorf("it belongs to the consumer %q of stream %q", l.Durable, l.Stream)
	}
	if err == nil && l.Scope != w.cfg.Scope {
		err = fmt.Errorf("it was to come back to the scope %q, but the scope of this worker is %q: under another scope it could run twice",
			l.Scope, w.cfg.Scope)
	}
	if err != nil {
		m.HeaderErr, m.Durable = fmt.Errorf("natsidem: message %d of the replay stream: %w", m.Sequence, err), w.durable
		return
	}
	d.message = &consumer.Message{
		Subject: l.Subject, Stream: l.Stream, Durable: w.durable, Sequence: l.Sequence, Time: l.Time,
		Deliveries: m.Deliveries, Header: l.Header, Data: l.Data, ReplaySequence: m.Sequence, History: l.History,
	}
}

// schedulable is a delivery of a server that can put messages off.
type schedulable struct {
	*delivery

	replays *deadletter.ReplayStream
}

// Schedule implements consumer.Scheduler.
func (d schedulable) Schedule(ctx context.Context, l *consumer.Letter, delay time.Duration) error {
	if err := d.connected(); err != nil {
		return err
	}
	id := strconv.FormatUint(l.Sequence, 10)
	if n := d.message.ReplaySequence; n != 0 { // the original may have a schedule of its own
		id = "r" + strconv.FormatUint(n, 10)
	}
	return d.replays.Schedule(ctx, l, l.Key, id, time.Now().Add(delay))
}
