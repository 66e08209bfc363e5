package natsidem_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher"
)

// night is a bench whose dead letters are real and can be replayed.
type night struct {
	*bench

	mem    *memstore.Store
	queue  *deadletter.Queue
	replay *deadletter.ReplayStream
}

func newNight(t *testing.T, change ...func(*bench)) *night {
	t.Helper()
	b := newBench(t, change...)
	n := &night{
		bench: b, mem: memstore.New(memstore.Config{}), queue: deadletter.New(b.js, deadletter.Config{}),
		replay: deadletter.NewReplayStream(b.js, deadletter.ReplayStreamConfig{}),
	}
	n.cfg.Letters = nil
	require.NoError(t, n.queue.Ensure(t.Context()))
	require.NoError(t, n.replay.Ensure(t.Context()))
	return n
}

// work starts a worker on a durable of ORDERS, made if need be.
func (n *night) work(durable string, h consumer.HandlerFunc, change ...func(*natsidem.Config)) *natsidem.Worker {
	n.t.Helper()
	d, err := dedup.New(n.mem, n.dcfg)
	require.NoError(n.t, err)
	cfg := n.cfg
	for _, f := range change {
		f(&cfg)
	}
	_, err = natsidem.EnsureConsumer(n.t.Context(), n.js, "ORDERS", nil, durable, d, cfg)
	require.NoError(n.t, err)
	w, err := natsidem.New(n.js, "ORDERS", durable, d, h, cfg)
	require.NoError(n.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	n.t.Cleanup(func() { cancel(); assert.NoError(n.t, <-done) })
	n.w = w
	return w
}

func (n *night) entries() []deadletter.Entry {
	n.t.Helper()
	var all []deadletter.Entry
	for e, err := range n.queue.List(n.t.Context(), deadletter.Filter{}) {
		require.NoError(n.t, err)
		all = append(all, e)
	}
	return all
}

func (n *night) letter(number int) deadletter.Entry {
	n.t.Helper()
	n.eventually(func() bool { return len(n.entries()) >= number }, "no dead letter")
	return n.entries()[number-1]
}

func (n *night) replayed(e deadletter.Entry, o deadletter.ReplayOptions) deadletter.Replayed {
	n.t.Helper()
	out, err := deadletter.NewReplayer(n.queue, n.replay, n.mem, deadletter.ReplayConfig{}).Replay(n.t.Context(), e, o)
	require.NoError(n.t, err)
	return out
}

func TestAReplayRunsOnceAsTheOriginalMessage(t *testing.T) {
	t.Parallel()
	n := newNight(t)
	var mended atomic.Bool
	seen := make(chan consumer.Message, 8)
	n.publishHeader(nats.Header{publisher.KeyHeader: {"k1"}, "Trace": {"abc"}, nats.MsgIdHdr: {"m1"}}, "body")
	n.work("billing", func(_ context.Context, m *consumer.Message) error {
		if !mended.Load() {
			return consumer.Permanent(errHandler)
		}
		seen <- *m
		return nil
	})
	e := n.letter(1)
	mended.Store(true)
	assert.Equal(t, deadletter.Published, n.replayed(e, deadletter.ReplayOptions{}).Outcome, "inside the publish window, too")
	m := <-seen
	assert.Equal(t, "orders.created", m.Subject)
	assert.Equal(t, "ORDERS", m.Stream)
	assert.EqualValues(t, 1, m.Sequence)
	assert.Equal(t, "k1", m.Key)
	assert.Equal(t, "body", string(m.Data))
	assert.Equal(t, 1, m.Attempt, "a replay begins anew")
	assert.Equal(t, []string{"abc"}, m.Header["Trace"])
	require.Len(t, m.History, 1)
	assert.Equal(t, dedup.Permanent, m.History[0].Class)
	n.stats(func(s consumer.Stats) bool { return s.Executed == 1 })

	e, err := n.queue.Get(t.Context(), e.Sequence)
	require.NoError(t, err)
	require.NotNil(t, e.Mark)
	assert.Equal(t, deadletter.Resolved, n.replayed(e, deadletter.ReplayOptions{Again: true}).Outcome, "insisting does not run it twice")
	assert.Empty(t, seen)
}

func TestAFailedReplayIsALaterDeathWithItsHistory(t *testing.T) {
	t.Parallel()
	n := newNight(t)
	n.publish("k1", "body")
	n.work("billing", func(context.Context, *consumer.Message) error { return consumer.Permanent(errHandler) })
	first := n.letter(1)
	assert.Equal(t, deadletter.Published, n.replayed(first, deadletter.ReplayOptions{}).Outcome)
	second := n.letter(2)
	assert.Equal(t, 2, second.Letter.Generation)
	assert.Greater(t, second.Letter.Fence, first.Letter.Fence)
	require.Len(t, second.Letter.History, 1)
	assert.Equal(t, first.ID, second.Letter.History[0].ID)
	assert.EqualValues(t, 1, second.Letter.Sequence, "of the original message")
	assert.Equal(t, deadletter.Resolved, n.replayed(first, deadletter.ReplayOptions{Again: true}).Outcome, "the later letter counts")
	assert.Equal(t, deadletter.Published, n.replayed(second, deadletter.ReplayOptions{}).Outcome)
	assert.Len(t, n.letter(3).Letter.History, 2)
}

func TestAReplayReachesOneDurableAlone(t *testing.T) {
	t.Parallel()
	n := newNight(t)
	var mended atomic.Bool
	var billed, mailed atomic.Int64
	n.publish("k1", "body")
	n.work("mails", func(context.Context, *consumer.Message) error { mailed.Add(1); return nil })
	n.work("billing", func(context.Context, *consumer.Message) error {
		if !mended.Load() {
			return consumer.Permanent(errHandler)
		}
		billed.Add(1)
		return nil
	})
	e := n.letter(1)
	n.eventually(func() bool { return mailed.Load() == 1 }, "the other durable has run its own")
	mended.Store(true)
	n.replayed(e, deadletter.ReplayOptions{})
	n.eventually(func() bool { return billed.Load() == 1 }, "the replay did not run")
	n.settledReplays()
	assert.EqualValues(t, 1, mailed.Load())
	assert.EqualValues(t, 1, billed.Load())
}

// settledReplays waits until the replay stream is empty.
func (n *night) settledReplays() {
	n.t.Helper()
	n.eventually(func() bool {
		s, err := n.js.Stream(n.t.Context(), deadletter.DefaultReplayStream)
		require.NoError(n.t, err)
		return s.CachedInfo().State.Msgs == 0
	}, "the replay stream still has something")
}

func TestAMessageWithoutKeyIsReplayedUnderANewOne(t *testing.T) {
	t.Parallel()
	n := newNight(t)
	var ran atomic.Int64
	n.publishHeader(nil, "body")
	n.work("billing", func(_ context.Context, m *consumer.Message) error {
		ran.Add(1)
		return consumer.Permanent(errHandler)
	})
	e := n.letter(1)
	assert.Equal(t, dedup.MissingKey, e.Letter.Class)
	out := n.replayed(e, deadletter.ReplayOptions{NewKey: true})
	second := n.letter(2)
	assert.Equal(t, out.Key, second.Letter.Key)
	assert.Equal(t, 2, second.Letter.Generation, "its first death had no record")
	assert.EqualValues(t, 1, ran.Load())
}

func TestWhatIsNoReplayForThisScopeBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	n := newNight(t)
	var ran atomic.Int64
	n.work("billing", func(context.Context, *consumer.Message) error { ran.Add(1); return nil })
	subject := n.replay.RunSubject("ORDERS", "billing")
	_, err := n.js.Publish(t.Context(), subject, []byte("\x1b[2J"))
	require.NoError(t, err)
	l := &consumer.Letter{Class: dedup.Permanent, Scope: "OTHER/scope", Key: "k", Stream: "ORDERS", Durable: "billing", Sequence: 1}
	_, err = n.replay.Publish(t.Context(), l, "k", "id")
	require.NoError(t, err)
	n.settledReplays()
	require.Len(t, n.entries(), 2)
	reasons := ""
	for _, e := range n.entries() {
		assert.Equal(t, dedup.Malformed, e.Letter.Class)
		assert.Equal(t, "billing", e.Letter.Durable)
		reasons += e.Letter.Error
	}
	assert.Contains(t, reasons, "OTHER/scope")
	assert.Contains(t, reasons, "not a readable dead letter")
	assert.Zero(t, ran.Load())
}

func TestALongDelayHoldsNoSlot(t *testing.T) {
	t.Parallel()
	const delay = 1500 * time.Millisecond
	n := newNight(t, func(b *bench) { b.cfg.ScheduleAfter = time.Second })
	var mu sync.Mutex
	var runs []consumer.Message
	var times []time.Time
	n.publishHeader(nats.Header{publisher.KeyHeader: {"k1"}, "Trace": {"abc"}}, "body")
	n.work("billing", func(_ context.Context, m *consumer.Message) error {
		mu.Lock()
		defer mu.Unlock()
		runs, times = append(runs, *m), append(times, time.Now())
		if len(runs) < 3 {
			return consumer.RetryAfter(delay, errHandler)
		}
		return nil
	})
	n.stats(func(s consumer.Stats) bool { return s.Scheduled == 1 })
	n.settled() // although the retry is still to come
	n.stats(func(s consumer.Stats) bool { return s.Executed == 1 && s.Scheduled == 2 })
	n.settledReplays()
	require.Len(t, runs, 3)
	for i, m := range runs {
		assert.Equal(t, i+1, m.Attempt)
		assert.Equal(t, "orders.created", m.Subject)
		assert.EqualValues(t, 1, m.Sequence)
		assert.Equal(t, []string{"abc"}, m.Header["Trace"])
		assert.Empty(t, m.History, "it has not died")
	}
	assert.GreaterOrEqual(t, times[2].Sub(times[0]), 2*delay, "rounded up, never down")
}

func TestIdleExitWaitsForWhatIsPutOff(t *testing.T) {
	t.Parallel()
	n := newNight(t, func(b *bench) {
		b.cfg.ScheduleAfter, b.cfg.IdleExit = time.Second, time.Millisecond
	})
	d, err := dedup.New(n.mem, n.dcfg)
	require.NoError(t, err)
	n.publish("k1", "body")
	runs := 0
	w, err := natsidem.New(n.js, "ORDERS", "billing", d, consumer.HandlerFunc(func(context.Context, *consumer.Message) error {
		if runs++; runs == 1 {
			return consumer.RetryAfter(time.Second, errHandler)
		}
		return nil
	}), n.cfg)
	require.NoError(t, err)
	require.NoError(t, w.Run(t.Context()))
	assert.Equal(t, 2, runs)
	assert.EqualValues(t, 1, w.Stats().Executed)
}

func TestADeletedReplayConsumerIsMadeAgain(t *testing.T) {
	t.Parallel()
	n := newNight(t)
	var mended atomic.Bool
	n.publish("k1", "body")
	n.work("billing", func(context.Context, *consumer.Message) error {
		if !mended.Load() {
			return consumer.Permanent(errHandler)
		}
		return nil
	})
	e := n.letter(1)
	mended.Store(true)
	s, err := n.js.Stream(t.Context(), deadletter.DefaultReplayStream)
	require.NoError(t, err)
	for name := range s.ConsumerNames(t.Context()).Name() {
		require.NoError(t, s.DeleteConsumer(t.Context(), name))
	}
	n.replayed(e, deadletter.ReplayOptions{})
	n.stats(func(s consumer.Stats) bool { return s.Executed == 1 })
}

func TestWithoutReplaysTheBrokerHoldsLongDelays(t *testing.T) {
	t.Parallel()
	n := newNight(t, func(b *bench) { b.cfg.ScheduleAfter, b.cfg.NoReplays = time.Millisecond, true })
	n.publish("k1", "body")
	n.work("billing", func(context.Context, *consumer.Message) error { return consumer.RetryAfter(time.Hour, errHandler) })
	n.stats(func(s consumer.Stats) bool { return s.Retried == 1 })
	assert.Equal(t, 1, n.info().NumAckPending)
	assert.Zero(t, n.w.Stats().Scheduled)
}

func TestWrapTakesReplays(t *testing.T) {
	t.Parallel()
	n := newNight(t)
	d, err := dedup.New(n.mem, n.dcfg)
	require.NoError(t, err)
	n.cfg.Logger = slog.New(slog.DiscardHandler)
	var mended atomic.Bool
	seen := make(chan string, 1)
	handler, err := natsidem.Wrap(t.Context(), n.js, "ORDERS", "billing", d, func(m jetstream.Msg) {
		if !mended.Load() {
			_ = m.TermWithReason("out")
			return
		}
		seen <- m.Subject() + " " + m.Headers().Get(publisher.KeyHeader) + " " + string(m.Data())
		_ = m.Ack()
	}, n.cfg)
	require.NoError(t, err)
	replays, err := natsidem.ReplayConsumer(t.Context(), n.js, "ORDERS", "billing", d, n.cfg)
	require.NoError(t, err)
	durable, err := n.js.Consumer(t.Context(), "ORDERS", "billing")
	require.NoError(t, err)
	for _, c := range []jetstream.Consumer{durable, replays} {
		cc, err := c.Consume(handler, jetstream.PullMaxMessages(1))
		require.NoError(t, err)
		t.Cleanup(func() { cc.Stop(); <-cc.Closed() })
	}
	n.publish("k1", "body")
	e := n.letter(1)
	mended.Store(true)
	n.replayed(e, deadletter.ReplayOptions{})
	select {
	case got := <-seen:
		assert.Equal(t, "orders.created k1 body", got)
	case <-time.After(patience):
		require.NoError(t, errors.New("no replay"))
	}
	n.settledReplays()
}
