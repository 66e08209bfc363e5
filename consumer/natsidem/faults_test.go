package natsidem_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
)

func TestStoreDownBeforeTheHandlerClosed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.store.set(true, "acquire")
	b.publish("k", "1")
	b.run(succeed)
	assert.Contains(t, b.nextAnswer(), "-NAK {", "never a bare nak")
	assert.Zero(t, b.w.Stats().Executed)
	b.store.set(false, "acquire")
	b.settled()
	assert.EqualValues(t, 1, b.w.Stats().Executed)
}

func TestStoreDownBeforeTheHandlerOpen(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.cfg.StoreDown = consumer.StoreOpen })
	b.store.set(true, "acquire")
	b.publish("k", "1")
	b.run(func(ctx context.Context, _ *consumer.Message) error {
		assert.True(t, dedup.Untracked(ctx))
		return nil
	})
	assert.Equal(t, "+ACK", b.nextAnswer())
	b.stats(func(s consumer.Stats) bool { return s.Untracked == 1 })
}

func TestStoreDownAfterTheHandlerIsUnconfirmed(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.dcfg.Lease = 600 * time.Millisecond })
	b.publish("k", "1")
	b.run(func(context.Context, *consumer.Message) error {
		b.store.set(true, "settle")
		return nil
	})
	b.stats(func(s consumer.Stats) bool { return s.Unconfirmed+s.LeaseLost == 1 })
	b.noAnswer()
	assert.Equal(t, dedup.Acquired, b.store.record("k").State)
	assert.Equal(t, 1, b.info().NumAckPending)
}

func TestNothingIsSentAfterTheLeaseIsLost(t *testing.T) {
	t.Parallel()
	for name, outcome := range map[string]error{"success": nil, "error": errHandler, "permanent": consumer.Permanent(errHandler)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(b *bench) { b.dcfg.Lease = 300 * time.Millisecond })
			b.publish("k", "1")
			b.run(func(ctx context.Context, _ *consumer.Message) error {
				b.store.steal("k")
				<-ctx.Done()
				assert.ErrorIs(t, context.Cause(ctx), dedup.ErrLeaseLost)
				return outcome
			})
			b.stats(func(s consumer.Stats) bool { return s.LeaseLost == 1 })
			b.noAnswer()
			assert.Empty(t, b.letters.all())
			assert.Equal(t, dedup.Nonce("thief"), b.store.record("k").Nonce)
		})
	}
}

func TestLongHandlerKeepsItsMessage(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.dcfg.Lease = 300 * time.Millisecond })
	cfg := b.info().Config
	cfg.AckWait = 300 * time.Millisecond
	_, err := b.js.UpdateConsumer(t.Context(), "ORDERS", cfg)
	require.NoError(t, err)
	b.publish("k", "1")
	b.run(func(ctx context.Context, _ *consumer.Message) error {
		select {
		case <-time.After(4 * cfg.AckWait): // the time that has to pass is what is tested
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	assert.Equal(t, "+ACK", b.nextAnswer())
	assert.EqualValues(t, 1, b.w.Stats().Delivered, "heartbeats have moved the broker's deadline")
}

func TestServerRestartInTheMiddle(t *testing.T) {
	t.Parallel()
	var log logBuffer
	b := newBench(t, func(b *bench) {
		b.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		b.dcfg.Lease = 30 * time.Second // the outage must not cost the lease
	})
	b.publish("before", "1")
	entered, release := make(chan struct{}), make(chan struct{})
	b.run(func(_ context.Context, m *consumer.Message) error {
		if m.Key == "before" && m.Deliveries == 1 {
			close(entered)
			<-release
		}
		return nil
	})
	<-entered
	b.srv.Stop()
	b.eventually(func() bool { return strings.Contains(log.String(), "does not answer") }, "the outage is not logged")
	b.eventually(func() bool { return !b.nc.IsConnected() }, "the client has not noticed")
	close(release)
	b.stats(func(s consumer.Stats) bool { return s.Executed == 1 && s.AnswersFailed == 1 }) // nothing is sent while disconnected
	b.srv.Start(t)
	b.eventually(b.nc.IsConnected, "not reconnected")
	b.publish("after", "1")
	b.stats(func(s consumer.Stats) bool { return s.Executed == 2 })
	assert.Equal(t, 1, strings.Count(log.String(), "does not answer"), "an outage is logged once")
	assert.Equal(t, dedup.Consumed, b.store.record("after").State)
}

func TestDeletedConsumerEndsTheWorker(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	w, err := natsidem.New(b.js, "ORDERS", "billing", b.deduper(), consumer.HandlerFunc(succeed), b.cfg)
	require.NoError(t, err)
	b.publish("k", "1")
	done := make(chan error, 1)
	go func() { done <- w.Run(t.Context()) }()
	b.eventually(func() bool { return w.Stats().Executed == 1 }, "not at work")
	require.NoError(t, b.js.DeleteConsumer(t.Context(), "ORDERS", "billing"))
	err = <-done
	require.ErrorIs(t, err, natsidem.ErrConsumerGone)
	assert.Contains(t, err.Error(), "billing")
}

func TestShutdownWaitsForTheHandler(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("k", "1")
	entered, release := make(chan struct{}), make(chan struct{})
	stop := b.run(func(ctx context.Context, _ *consumer.Message) error {
		close(entered)
		<-release
		return ctx.Err()
	})
	<-entered
	done := make(chan error, 1)
	go func() { done <- stop() }()
	b.noAnswer()
	close(release)
	require.NoError(t, <-done)
	assert.EqualValues(t, 1, b.w.Stats().Executed)
	assert.Zero(t, b.info().NumAckPending, "the ack is confirmed before Run returns")
}

func TestShutdownGivesAnInterruptedMessageBackUncounted(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.cfg.Grace = 50 * time.Millisecond })
	b.publish("k", "1")
	entered := make(chan struct{})
	stop := b.run(func(ctx context.Context, _ *consumer.Message) error {
		close(entered)
		<-ctx.Done()
		assert.ErrorIs(t, context.Cause(ctx), consumer.ErrShutdown)
		return ctx.Err()
	})
	<-entered
	require.NoError(t, stop())
	assert.Contains(t, b.nextAnswer(), "-NAK {")
	r := b.store.record("k")
	assert.Equal(t, dedup.Failed, r.State)
	assert.Zero(t, r.Attempt)
	assert.Equal(t, 1, r.Interrupted)
}

func TestHandlerThatIgnoresCancellationIsNamed(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.cfg.Grace = 50 * time.Millisecond })
	b.publish("stubborn", "1")
	entered, release := make(chan struct{}), make(chan struct{})
	stop := b.run(func(context.Context, *consumer.Message) error {
		close(entered)
		<-release
		return nil
	})
	<-entered
	err := stop()
	require.ErrorIs(t, err, natsidem.ErrHandlerIgnoresCancellation)
	assert.Contains(t, err.Error(), `key "stubborn", subject "orders.created", sequence 1`)
	close(release)
	assert.Equal(t, "+ACK", b.nextAnswer(), "its lease went on")
}

func TestIdleExit(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.cfg.IdleExit = 150 * time.Millisecond })
	for _, k := range []string{"a", "b", "a"} {
		b.publish(k, "1")
	}
	w, err := natsidem.New(b.js, "ORDERS", "billing", b.deduper(), consumer.HandlerFunc(func(_ context.Context, m *consumer.Message) error {
		if m.Key == "b" && m.Attempt == 1 {
			return consumer.RetryAfter(600*time.Millisecond, errHandler) // longer than IdleExit
		}
		return nil
	}), b.cfg)
	require.NoError(t, err)
	require.NoError(t, w.Run(t.Context()))
	assert.EqualValues(t, 2, w.Stats().Executed, "what waits for its retry is not idleness")
	assert.Zero(t, b.info().NumAckPending)
	require.NoError(t, w.Run(t.Context()), "and again")
}

func TestConfirmedAcks(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.cfg.ConfirmAcks = true })
	b.publish("k", "1")
	b.run(succeed)
	m := b.nextAnswerMsg()
	assert.Equal(t, "+ACK", string(m.Data))
	assert.NotEmpty(t, m.Reply, "the ack is a request")
}

func TestManyMessagesManyDuplicates(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.cfg.Workers = 8 })
	const keys = 100
	for i := range 3 * keys {
		b.publish(fmt.Sprint("k", i%keys), "1")
	}
	b.run(succeed)
	b.settled()
	s := b.w.Stats()
	assert.EqualValues(t, keys, s.Executed)
	assert.EqualValues(t, 2*keys, s.DuplicateAcks)
	assert.Equal(t, s.Delivered, s.Executed+s.DuplicateAcks)
}

func TestMessageThatArrivesDuringAShutdownIsGivenBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stop := b.run(succeed)
	b.eventually(func() bool { return b.info().NumWaiting > 0 }, "no pull is waiting")
	done := make(chan error, 1)
	go func() { done <- stop() }()
	b.publish("k", "1")
	require.NoError(t, <-done)
	assert.Greater(t, b.info().Config.AckWait, patience, "a stranded message would come too late below")
	b.run(succeed)
	b.settled()
	assert.Equal(t, dedup.Consumed, b.store.record("k").State)
}
