package natsidem_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// Each test is a row of the lifecycle's table "What happens to a message", on a real server.

func TestSuccessIsSettledThenAcked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("k", "")
	b.run(func(_ context.Context, m *consumer.Message) error {
		assert.Empty(t, m.Data)
		assert.Equal(t, "k", m.Key)
		assert.Equal(t, 1, m.Attempt)
		return nil
	})
	assert.Equal(t, "+ACK", b.nextAnswer())
	assert.Equal(t, dedup.Consumed, b.store.record("k").State, "the record comes before the ack")
	b.settled()
}

func TestNoAckBeforeTheStoreKnows(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.store.set(true, "settle")
	b.publish("k", "1")
	ran := make(chan struct{}, 1)
	b.run(func(context.Context, *consumer.Message) error { ran <- struct{}{}; return nil })
	<-ran
	b.noAnswer()
	b.store.set(false, "settle")
	assert.Equal(t, "+ACK", b.nextAnswer())
	assert.EqualValues(t, 1, b.w.Stats().Executed)
}

func TestKnownKeysAreAckedWithoutRunning(t *testing.T) {
	t.Parallel()
	for state, dead := range map[dedup.State]uint64{dedup.Consumed: 0, dedup.DeadSent: 1} {
		t.Run(state.String(), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.store.put("k", dedup.Record{State: state, Fence: 1, Generation: 1})
			b.publish("k", "1")
			b.run(func(context.Context, *consumer.Message) error { t.Error("ran"); return nil })
			assert.Equal(t, "+ACK", b.nextAnswer())
			b.stats(func(s consumer.Stats) bool { return s.DuplicateAcks == 1 && s.DeadAcks == dead })
			assert.Equal(t, state, b.store.record("k").State)
			assert.Empty(t, b.letters.all())
		})
	}
}

func TestOwedLetterIsPublishedByWhoeverComesBy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.store.put("k", dedup.Record{State: dedup.DeadOwed, Fence: 7, Generation: 2, Cause: dedup.Cause{Class: dedup.Permanent, Message: "no"}})
	b.publish("k", "1")
	b.run(func(context.Context, *consumer.Message) error { t.Error("ran"); return nil })
	assert.Contains(t, b.nextAnswer(), "+TERM idemq: dead letter, class permanent")
	assert.Equal(t, dedup.DeadSent, b.store.record("k").State)
	require.Len(t, b.letters.all(), 1)
	assert.EqualValues(t, 7, b.letters.all()[0].Fence)
	b.settled()
}

func TestBadKeysBecomeLetters(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, h := range []nats.Header{
		nil, {"Other": {"x"}}, {publisher.KeyHeader: {""}}, {publisher.KeyHeader: {strings.Repeat("k", 256)}},
		{publisher.KeyHeader: {"a\x01b"}}, {publisher.KeyHeader: {"a", "b"}}, {publisher.KeyHeader: {"a"}, "idempotency-key": {"b"}},
	} {
		b.publishHeader(h, "body")
	}
	b.run(func(context.Context, *consumer.Message) error { t.Error("ran"); return nil })
	classes := map[dedup.Class]int{}
	for range 7 {
		assert.Contains(t, b.nextAnswer(), "+TERM idemq: dead letter, class m")
	}
	for _, l := range b.letters.all() {
		classes[l.Class]++
		assert.Equal(t, "body", string(l.Data))
	}
	assert.Equal(t, map[dedup.Class]int{dedup.MissingKey: 2, dedup.Malformed: 5}, classes)
	b.settled()
}

func TestOddButValidKeysRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	keys := []string{strings.Repeat("k", 255), "{a}b{c}", "*.>", "$JS.ACK", "..", "{}"}
	for _, k := range keys {
		b.publish(k, "1")
	}
	b.run(succeed)
	b.settled()
	for _, k := range keys {
		assert.Equal(t, dedup.Consumed, b.store.record(k).State, k)
	}
}

func TestConflictIsALetterAndNeverAcked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("k", "1")
	b.run(succeed)
	assert.Equal(t, "+ACK", b.nextAnswer())
	b.publish("k", "2")
	assert.Contains(t, b.nextAnswer(), "class conflict")
	require.Len(t, b.letters.all(), 1)
	assert.Equal(t, "2", string(b.letters.all()[0].Data))
	assert.EqualValues(t, 1, b.w.Stats().Executed)
}

func TestRedeliveryOfARunningMessageIsNotAnswered(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("k", "1")
	release := make(chan struct{})
	b.run(func(context.Context, *consumer.Message) error { <-release; return nil })
	b.stats(func(s consumer.Stats) bool { return s.Delivered == 1 })
	// A stale nak is honoured, and brings the message again beside the running one.
	require.NoError(t, b.nc.Publish(b.ackSubject(1, 1, 1), []byte("-NAK")))
	assert.Equal(t, "-NAK", b.nextAnswer())
	b.stats(func(s consumer.Stats) bool { return s.Redelivered == 1 })
	b.noAnswer()
	close(release)
	assert.Equal(t, "+ACK", b.nextAnswer())
	b.settled()
	assert.EqualValues(t, 1, b.w.Stats().Executed)
}

func TestDuplicateOfARunningKeyIsParked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("k", "1")
	b.publish("k", "1")
	release := make(chan struct{})
	b.run(func(context.Context, *consumer.Message) error { <-release; return nil })
	b.stats(func(s consumer.Stats) bool { return s.Parked == 1 })
	b.noAnswer()
	close(release)
	b.settled()
	s := b.w.Stats()
	assert.EqualValues(t, 2, s.Delivered, "no extra delivery is burnt")
	assert.EqualValues(t, 1, s.Executed)
	assert.EqualValues(t, 1, s.DuplicateAcks)
}

func TestBusyElsewhereIsGivenBackWithADelay(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.store.put("k", dedup.Record{
		State: dedup.Acquired, Fence: 1, Nonce: "other", Attempt: 1, Generation: 1, LeaseUntil: time.Now().Add(700 * time.Millisecond),
	})
	b.publish("k", "1")
	b.run(succeed)
	assert.Regexp(t, `^-NAK \{"delay": \d{7,}\}$`, b.nextAnswer())
	assert.Equal(t, "+ACK", b.nextAnswer())
	assert.Equal(t, dedup.Consumed, b.store.record("k").State)
	assert.Equal(t, 1, b.store.record("k").Abandoned)
}

func TestRetryNotBefore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("k", "1")
	var first, second atomic.Int64
	b.run(func(_ context.Context, m *consumer.Message) error {
		if m.Attempt == 1 {
			first.Store(time.Now().UnixMilli())
			return consumer.RetryAfter(300*time.Millisecond, errHandler)
		}
		second.Store(time.Now().UnixMilli())
		return nil
	})
	assert.Contains(t, b.nextAnswer(), "-NAK {")
	assert.Equal(t, dedup.Failed, b.store.record("k").State)
	assert.Equal(t, "+ACK", b.nextAnswer())
	assert.GreaterOrEqual(t, second.Load()-first.Load(), int64(300))
}

func TestPermanentAndExhaustedBecomeLetters(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.dcfg.MaxAttempts = 2 })
	b.publish("permanent", "1")
	b.run(func(_ context.Context, m *consumer.Message) error {
		if m.Key == "permanent" {
			return consumer.Permanent(errHandler)
		}
		return errHandler
	})
	assert.Contains(t, b.nextAnswer(), "class permanent")
	b.publish("exhausted", "1")
	assert.Contains(t, b.nextAnswer(), "-NAK")
	assert.Contains(t, b.nextAnswer(), "class exhausted")
	require.Len(t, b.letters.all(), 2)
	assert.Equal(t, 2, b.letters.all()[1].Attempts)
	assert.Equal(t, dedup.DeadSent, b.store.record("exhausted").State)
	b.settled()
}

func TestLetterThatCannotBePublished(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.letters.setFull(true)
	b.publish("k", "1")
	b.run(func(context.Context, *consumer.Message) error { return consumer.Permanent(errHandler) })
	assert.Contains(t, b.nextAnswer(), "-NAK {")
	assert.Equal(t, dedup.DeadOwed, b.store.record("k").State)
	b.letters.setFull(false)
	for a := b.nextAnswer(); !strings.HasPrefix(a, "+TERM"); a = b.nextAnswer() {
		assert.Contains(t, a, "-NAK {")
	}
	assert.Equal(t, dedup.DeadSent, b.store.record("k").State)
	assert.Len(t, b.letters.all(), 1)
}

func TestUnreadableRecordDoesNotHurtItsNeighbours(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.store.corrupt("bad", true)
	b.publish("bad", "1")
	b.publish("good", "1")
	b.run(succeed)
	b.stats(func(s consumer.Stats) bool { return s.Unreadable >= 2 && s.Executed == 1 })
	assert.Empty(t, b.letters.all())
	b.store.corrupt("bad", false)
	b.settled()
	assert.EqualValues(t, 2, b.w.Stats().Executed)
}

func TestPanicIsRetried(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.dcfg.MaxAttempts = 2 })
	b.publish("k", "1")
	b.run(func(context.Context, *consumer.Message) error { panic("boom") })
	assert.Contains(t, b.nextAnswer(), "-NAK {")
	assert.Contains(t, b.nextAnswer(), "+TERM")
	require.Len(t, b.letters.all(), 1)
	assert.Contains(t, b.letters.all()[0].Stack, "lifecycle_test.go")
}

func TestUnreadableHeadersBecomeALetterWithTheirBytes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const broken = "NATS/1.0\r\nno colon here\r\n\r\n"
	b.publishRaw(broken, "body")
	b.publishRaw(broken, "")
	b.publish("good", "1")
	b.run(succeed)
	b.settled()
	require.Len(t, b.letters.all(), 2)
	for _, l := range b.letters.all() {
		assert.Equal(t, dedup.Malformed, l.Class)
		assert.Equal(t, broken, string(l.RawHeader))
	}
	assert.EqualValues(t, 1, b.w.Stats().Executed, "the consumer goes on")
}
