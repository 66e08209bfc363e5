package idemtest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/idemq/idemq/consumer"
)

// act runs a scenario with a handler that takes a second, and returns its worlds. The pipeline keeps that handler from
// running twice, so that only the world can tell whether anything was done to it.
func act(t *testing.T, name Scenario) []*world {
	t.Helper()
	c := &config{build: func(e *Effects) consumer.Handler {
		return consumer.HandlerFunc(func(ctx context.Context, _ *consumer.Message) error {
			<-time.After(time.Second)
			e.Record(ctx)
			return nil
		})
	}}
	assert.NoError(t, c.add(consumer.Message{Key: "k", Data: []byte("payload")}))
	m, problems := c.measure()
	assert.Empty(t, problems)
	i := slices.IndexFunc(stories, func(s story) bool { return s.name == name })
	return stories[i].act(c, m)
}

func TestScenariosDoWhatTheySay(t *testing.T) {
	t.Parallel()
	for name, check := range map[Scenario]func(t *testing.T, w *world){
		Redelivery: func(t *testing.T, w *world) {
			assert.Len(t, w.broker.messages, 2)
			assert.Equal(t, 2, w.broker.messages[0].count, "its ack got lost")
			assert.Equal(t, 1, w.broker.messages[1].count)
			assert.Greater(t, w.broker.messages[1].stored.Sub(w.started), time.Hour)
			assert.Len(t, w.runs, 1)
		},
		Crash: func(t *testing.T, w *world) {
			assert.Len(t, w.runs, 2)
			assert.True(t, w.workers[0].cut.Load())
			assert.False(t, w.workers[1].cut.Load())
			assert.Equal(t, 2, w.runs[1].attempt)
		},
		Parallel: func(t *testing.T, w *world) {
			assert.Len(t, w.broker.messages, parallelCopies)
			assert.Len(t, w.runs, 1)
			var parked, busy uint64
			for _, wk := range w.workers {
				parked += wk.pipeline.Stats().Parked
				busy += wk.pipeline.Stats().Busy
			}
			assert.GreaterOrEqual(t, parked, uint64(parallelCopies/2-1), "beside the one that runs")
			assert.GreaterOrEqual(t, busy, uint64(1), "at the other worker")
		},
		Slow: func(t *testing.T, w *world) {
			assert.Len(t, w.runs, 1)
			counts := []int{w.broker.messages[0].count, w.broker.messages[1].count}
			assert.Equal(t, 1, slices.Min(counts), "heartbeats keep the one that runs")
			assert.Greater(t, slices.Max(counts), 1, "the other one is given back meanwhile")
			assert.Greater(t, time.Since(w.started), 4*lease)
		},
	} {
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				worlds := act(t, name)
				check(t, worlds[0])
				for _, w := range worlds {
					assert.Empty(t, w.found())
					for _, s := range w.broker.messages {
						assert.True(t, s.done)
					}
				}
			})
		})
	}
}

func TestTheBrokerKeepsTheRulesOfJetStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, wk := t.Context(), &worker{}
		b := newBroker(ackWait)
		b.publish(consumer.Message{Key: "k"})
		take := func(after time.Duration) []*delivery {
			<-time.After(after)
			due, _, _ := b.take(func() *worker { return wk })
			return due
		}
		first := take(0)
		assert.Len(t, first, 1)
		assert.Empty(t, take(ackWait-time.Second))
		assert.NoError(t, first[0].InProgress(ctx))
		assert.Empty(t, take(time.Second), "the deadline was renewed")
		second := take(ackWait)
		assert.Len(t, second, 1, "nobody answered")
		assert.Equal(t, 2, second[0].message.Deliveries)

		assert.NoError(t, first[0].Nak(ctx, time.Second))
		assert.Len(t, take(time.Second), 1, "a stale nak is honoured")

		wk.cut.Store(true)
		assert.ErrorIs(t, second[0].Ack(ctx), errCut)
		wk.cut.Store(false)
		assert.NoError(t, first[0].Ack(ctx), "a stale ack is accepted")
		assert.NoError(t, second[0].Nak(ctx, 0))
		_, _, open := b.take(func() *worker { return wk })
		assert.False(t, open, "done for good")
	})
}

func TestAMessageThatComesForEverIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &config{build: func(*Effects) consumer.Handler {
			return consumer.HandlerFunc(func(context.Context, *consumer.Message) error { return errors.New("no") })
		}}
		w := c.newWorld(nil)
		w.publish(consumer.Message{Key: "k"}).count = maxDeliveries
		w.drain()
		assert.Len(t, w.found(), 1)
		assert.Contains(t, w.found()[0], "delivered more than 10000 times")
	})
}
