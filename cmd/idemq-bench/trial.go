package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
)

// sentHeader has the time at which a message was published, in ns, where latency is measured.
const sentHeader = "Bench-Sent"

// trial is one mode taking messages from one stream. Its methods are safe for concurrent use.
type trial struct {
	name        string // new for each trial: the durable consumer, the scope, and the prefix of all keys
	run         string // names what all trials of a run share
	workers     int
	confirm     bool
	handlerTime time.Duration
	url         string
	nc          *nats.Conn
	js          jetstream.JetStream
	rdb         *redis.Client
	stream      string // and its subject
	total       int64  // messages
	distinct    int64  // keys

	begun, last    atomic.Int64 // ns
	handled, done  atomic.Int64 // handlers that ran; messages that need nothing more
	asked, hits    atomic.Int64 // duplicates; those known without asking the store
	latencies      []int64      // ns
	latencyEntries atomic.Int64
	finished       chan struct{} // closed when all are done
}

// handle is the handler of every mode.
func (t *trial) handle(ctx context.Context) error {
	if t.handled.Add(1) == 1 {
		t.begun.Store(time.Now().UnixNano())
	}
	if t.handlerTime == 0 {
		return nil
	}
	timer := time.NewTimer(t.handlerTime)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish says that nothing is left to do for a message, which was published at that time if its header says so.
func (t *trial) finish(sent string) {
	if sent != "" && t.latencies != nil {
		if at, err := strconv.ParseInt(sent, 10, 64); err == nil {
			if i := t.latencyEntries.Add(1) - 1; i < int64(len(t.latencies)) {
				t.latencies[i] = time.Now().UnixNano() - at
			}
		}
	}
	if t.done.Add(1) == t.total {
		t.last.Store(time.Now().UnixNano())
		close(t.finished)
	}
}

func first(header map[string][]string, name string) string {
	if v := header[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// prefix is what the names of all keys in Redis begin with.
func (t *trial) prefix() string { return keyPrefix(t.run) + t.name + ":" }

func keyPrefix(run string) string { return run + ":" }

const (
	ackWait   = 10 * time.Minute // nothing is to be delivered again because the machine is busy
	minWindow = 4096             // unacknowledged messages that the server allows
)

// createConsumer makes the durable that modes pull from.
func (t *trial) createConsumer(ctx context.Context) (jetstream.Consumer, error) {
	c, err := t.js.CreateConsumer(ctx, t.stream, jetstream.ConsumerConfig{
		Durable: t.name, FilterSubject: t.stream, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: t.window(),
	})
	if err != nil {
		return nil, fmt.Errorf("create a consumer: %w", err)
	}
	return c, nil
}

func (t *trial) window() int { return max(minWindow, 4*t.workers) }

// ack acknowledges as the settings say.
func (t *trial) ack(ctx context.Context, m jetstream.Msg) error {
	if t.confirm {
		return m.DoubleAck(ctx)
	}
	return m.Ack()
}

// stallLimit is how long nothing may come through, beside what the handlers take.
const stallLimit = time.Minute

var errStalled = errors.New("nothing came through")

// watch ends the trial's context if it stalls. The caller calls stop.
func (t *trial) watch(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		seen, since := int64(-1), time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				if n := t.done.Load() + t.handled.Load(); n != seen {
					seen, since = n, now
				} else if limit := stallLimit + 2*t.handlerTime; now.Sub(since) > limit {
					cancel(fmt.Errorf("%w for %v: %d of %d messages are done", errStalled, limit, t.done.Load(), t.total))
				}
			}
		}
	}()
	return ctx, func() { cancel(nil); <-ended }
}

// checkHandlers makes sure that the mode did what it is measured for.
func (t *trial) checkHandlers(m mode) error {
	if got := t.handled.Load(); m.group == groupNone && got != t.total {
		return fmt.Errorf("%d handlers ran for %d messages", got, t.total)
	} else if m.group != groupNone && got != t.distinct {
		return fmt.Errorf("%d handlers ran for %d keys", got, t.distinct)
	}
	return nil
}
