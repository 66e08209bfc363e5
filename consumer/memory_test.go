package consumer_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher"
)

// asked is a store that counts the questions.
type asked struct {
	*memstore.Store

	acquires int
}

func (a *asked) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	a.acquires++
	return a.Store.Acquire(ctx, c)
}

// remembering returns a bench whose handler counts its runs, and the store.
func remembering(t *testing.T, result error, change ...func(*consumer.Config, *dedup.Config)) (b *bench, store *asked, runs *int) {
	t.Helper()
	runs = new(int)
	b = setup(t, consumer.HandlerFunc(func(context.Context, *consumer.Message) error { *runs++; return result }), change...)
	cfg, dcfg := consumer.Config{Letters: b.letters}, dedup.Config{}
	for _, c := range change {
		c(&cfg, &dcfg)
	}
	store = &asked{Store: b.store}
	d, err := dedup.New(store, dcfg)
	require.NoError(t, err)
	b.p, err = consumer.New(d, scope, consumer.HandlerFunc(func(context.Context, *consumer.Message) error { *runs++; return result }), cfg)
	require.NoError(t, err)
	return b, store, runs
}

func TestADuplicateOfWhatWasSettledHereAsksNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, store, runs := remembering(t, nil)
		require.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		for range 3 {
			require.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		}
		assert.Equal(t, 1, store.acquires)
		assert.Equal(t, 1, *runs)
		s := b.p.Stats()
		assert.EqualValues(t, 3, s.DuplicateAcks)
		assert.EqualValues(t, 3, s.Remembered)
		assert.InDelta(t, 1, s.HitRate(), 0)
		assert.Zero(t, b.p.Busy())

		require.Equal(t, []string{"term"}, b.process(b.message("k", "another payload")), "the store judges that")
		assert.Equal(t, 2, store.acquires)

		pass(time.Minute)
		require.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		assert.Equal(t, 3, store.acquires, "a minute later it is asked again")
		assert.InDelta(t, 0.75, b.p.Stats().HitRate(), 0)
	})
}

func TestAFlowRemembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 4, ok)
		b.warm("k")
		for _, d := range b.offer("k", "k", "k") {
			b.until(d, "ack")
		}
		assert.Equal(t, 1, b.claimed())
		assert.EqualValues(t, 3, b.p.Stats().Remembered)
		assert.True(t, b.flow.Idle())
		assert.Zero(t, b.p.Busy())
	})
}

// Forget reaches every process within a minute, and a replay at once.
func TestAForgottenKeyAndAReplay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, store, runs := remembering(t, nil)
		b.process(b.message("k", "x"))
		require.NoError(t, store.Forget(t.Context(), dedup.Key{Scope: scope, ID: "k"}, false))
		require.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		assert.Equal(t, 1, *runs, "not for the memory of this process")
		replay := b.message("k", "x")
		replay.m.ReplaySequence = 7
		require.Equal(t, []string{"ack"}, b.process(replay))
		assert.Equal(t, 2, *runs)

		require.NoError(t, store.Forget(t.Context(), dedup.Key{Scope: scope, ID: "k"}, false))
		pass(time.Minute)
		require.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		assert.Equal(t, 3, *runs)
	})
}

func TestOnlyWhatIsConsumedIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, store, _ := remembering(t, consumer.Permanent(errHandler))
		require.Equal(t, []string{"term"}, b.process(b.message("k", "x")))
		require.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		require.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		assert.Equal(t, 3, store.acquires, "a dead key may be reopened by another process")
		assert.Zero(t, b.p.Stats().Remembered)
	})
}

func TestNothingIsRememberedForLongerThanTheStoreDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, _, runs := remembering(t, nil, func(_ *consumer.Config, d *dedup.Config) { d.Lease, d.Retention = time.Second, 5*time.Second })
		b.process(b.message("k", "x"))
		pass(5 * time.Second)
		b.process(b.message("k", "x"))
		assert.Equal(t, 2, *runs)
	})
}

func TestTheMemoryIsBounded(t *testing.T) {
	t.Parallel()
	b, store, _ := remembering(t, nil, func(c *consumer.Config, _ *dedup.Config) { c.Remember = 10 })
	for i := range 100 {
		b.process(b.message(fmt.Sprint("k", i), "x"))
	}
	store.acquires = 0
	for i := range 100 {
		require.Equal(t, []string{"ack"}, b.process(b.message(fmt.Sprint("k", i), "x")))
	}
	known := 100 - store.acquires
	assert.LessOrEqual(t, known, 10)
	assert.GreaterOrEqual(t, known, 5, "the latest ones")
	b, store, _ = remembering(t, nil, func(c *consumer.Config, _ *dedup.Config) { c.Remember = -1 })
	b.process(b.message("k", "x"))
	b.process(b.message("k", "x"))
	assert.Equal(t, 2, store.acquires, "switched off")
}

func TestAllocationsOfTheMemory(t *testing.T) {
	b, _, _ := remembering(t, nil)
	b.process(b.message("k", "x"))
	m := consumer.Message{Stream: "ORDERS", Sequence: 2, Data: []byte("x"), Header: map[string][]string{publisher.KeyHeader: {"k"}}}
	d := &instant{m: m, done: func() {}}
	allocs := testing.AllocsPerRun(1000, func() { b.p.Process(t.Context(), d) })
	assert.LessOrEqual(t, allocs, 5.0, "of a duplicate that is known here")
}
