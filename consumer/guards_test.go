package consumer_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// faulty is a store of which a test decides what happens before an operation.
type faulty struct {
	*memstore.Store

	before atomic.Pointer[func(op string) error]
}

func (f *faulty) set(before func(op string) error) { f.before.Store(&before) }

func (f *faulty) do(op string, k dedup.Key) error {
	if before := f.before.Load(); before != nil {
		if err := (*before)(op); err != nil {
			return &dedup.StoreError{Op: op, Key: k, Err: err}
		}
	}
	return nil
}

func (f *faulty) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	if err := f.do("acquire", c.Key); err != nil {
		return 0, dedup.Record{}, err
	}
	return f.Store.Acquire(ctx, c)
}

// over puts a pipeline over a faulty store in the place of the bench's.
func (b *bench) over(h consumer.HandlerFunc, change ...func(*consumer.Config)) *faulty {
	b.t.Helper()
	f := &faulty{Store: b.store}
	d, err := dedup.New(f, dedup.Config{})
	require.NoError(b.t, err)
	cfg := consumer.Config{Letters: b.letters, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	b.p, err = consumer.New(d, scope, h, cfg)
	require.NoError(b.t, err)
	return f
}

// A conflict is with the record. While the store is still being asked about one payload, nobody knows whether that one is
// the record's, so the other must not become a dead letter.
func TestAConflictIsNotDecidedBeforeTheStoreHasSpoken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, consumer.HandlerFunc(failed))
		right := b.message("k", "right")
		require.Equal(t, []string{"nak"}, b.process(right)) // it waits for its retry
		pass(time.Minute)
		gate := make(chan struct{})
		b.over(ok).set(func(string) error { <-gate; return nil })
		wrong, done := b.message("k", "wrong"), make(chan struct{})
		go func() { b.process(wrong); close(done) }()
		synctest.Wait()
		again := &delivery{m: &consumer.Message{Stream: "ORDERS", Durable: "billing", Sequence: right.m.Sequence, Header: right.m.Header, Data: right.m.Data}}
		assert.Equal(t, []string{"nak"}, b.process(again), "given back, not buried")
		close(gate)
		<-done
		assert.Equal(t, []string{"term"}, wrong.said())
		require.Len(t, b.letters.letters, 1)
		assert.Equal(t, "wrong", string(b.letters.letters[0].Data))
	})
}

func TestAHandlerThatEndsItsGoroutineIsRetried(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*faulty){
		"claimed": func(*faulty) {},
		"untracked": func(f *faulty) {
			f.set(func(string) error { return errors.New("down") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := setup(t, consumer.HandlerFunc(ok))
				f := b.over(func(context.Context, *consumer.Message) error { runtime.Goexit(); return nil },
					func(c *consumer.Config) { c.StoreDown = consumer.StoreOpen })
				change(f)
				d, done := b.message("k", "x"), make(chan struct{})
				go func() { defer close(done); b.process(d) }()
				<-done
				assert.Equal(t, []string{"nak"}, d.said())
				assert.Zero(t, b.p.Busy(), "its entry is gone")
				assert.Empty(t, b.p.Running())
				progress := d.heard()
				pass(time.Hour)
				assert.Equal(t, progress, d.heard(), "and so are its heartbeats")
				if name == "claimed" {
					assert.Equal(t, dedup.Failed, b.state("k").State)
				}
			})
		})
	}
}

// A claim that was lost is somebody else's at once, although its handler still runs.
func TestALostClaimLetsOthersThrough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stubborn, successor := make(chan struct{}), make(chan struct{})
		runs := 0
		b := setup(t, consumer.HandlerFunc(func(context.Context, *consumer.Message) error {
			if runs++; runs == 1 {
				<-stubborn // it does not look at its context
			} else {
				<-successor
			}
			return nil
		}))
		one, two, three := b.message("k", "x"), b.message("k", "x"), b.message("k", "x")
		one.unhealthy = true
		go b.process(one)
		synctest.Wait()
		assert.Empty(t, b.process(two), "parked")
		pass(time.Minute)
		synctest.Wait()
		assert.Equal(t, []string{"nak"}, two.said(), "given back as soon as the claim was lost")
		require.Len(t, b.p.Running(), 1, "a handler that ignores its cancellation can still be named")

		again := &delivery{m: two.m}
		go b.process(again) // takes over
		synctest.Wait()
		require.Len(t, b.p.Running(), 2)
		close(stubborn)
		synctest.Wait()
		assert.Empty(t, one.said(), "a lost claim sends nothing")
		assert.Empty(t, b.process(three), "parked on the successor: the late end of the first has not dropped its entry")
		close(successor)
		synctest.Wait()
		assert.Equal(t, []string{"ack"}, again.said())
		assert.Equal(t, []string{"ack"}, three.said())
		assert.Equal(t, 2, runs)
	})
}

func TestParkedDeliveriesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := setup(t, consumer.HandlerFunc(func(context.Context, *consumer.Message) error { <-release; return nil }),
			func(c *consumer.Config, _ *dedup.Config) { c.MaxParked = 1 })
		go b.process(b.message("k", "x"))
		synctest.Wait()
		two, three := b.message("k", "x"), b.message("k", "x")
		assert.Empty(t, b.process(two))
		assert.Equal(t, []string{"nak"}, b.process(three), "no room")
		close(release)
		synctest.Wait()
		assert.Equal(t, []string{"ack"}, two.said())
	})
}

func TestPullingStopsWhileTheStoreIsDown(t *testing.T) {
	t.Parallel()
	for _, policy := range []consumer.StoreDownPolicy{consumer.StoreClosed, consumer.StoreOpen} {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, consumer.HandlerFunc(ok))
			f := b.over(ok, func(c *consumer.Config) { c.StoreDown = policy })
			f.set(func(string) error { return errors.New("down") })
			require.NoError(t, b.p.Admit(t.Context()))
			for range 5 {
				b.process(b.message("k", "x"))
			}
			begun := time.Now()
			require.NoError(t, b.p.Admit(t.Context()))
			if policy == consumer.StoreOpen {
				assert.Zero(t, time.Since(begun), "the policy is to run all the same")
				return
			}
			assert.GreaterOrEqual(t, time.Since(begun), 2*time.Second, "the breaker is open for that long")
			b.process(b.message("k", "x")) // its trial fails, too
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.ErrorIs(t, b.p.Admit(ctx), context.DeadlineExceeded)
			f.set(func(string) error { return nil })
			require.NoError(t, b.p.Admit(t.Context()))
			assert.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		})
	}
}

func TestAnUntrackedRunKeepsItsMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, consumer.HandlerFunc(ok))
		f := b.over(func(context.Context, *consumer.Message) error { pass(time.Minute); return nil },
			func(c *consumer.Config) { c.StoreDown = consumer.StoreOpen })
		f.set(func(string) error { return errors.New("down") })
		d := b.message("k", "x")
		assert.Equal(t, []string{"ack"}, b.process(d))
		assert.GreaterOrEqual(t, d.heard(), 5, "every third of the lease")
		assert.EqualValues(t, 1, b.p.Stats().Untracked)
	})
}
