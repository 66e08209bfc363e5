package consumer_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
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

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint("k", i)
	}
	return out
}

func TestAFlowClaimsWhatHasArrivedInOneCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 64, ok)
		held, open := gate()
		defer open()
		b.store.set(func(s *batches) { s.acquire = func(dedup.Claim) error { <-held; return nil } })
		ds := b.offer(names(50)...)
		synctest.Wait() // the first call is under way; the others gather
		open()
		synctest.Wait()
		for _, d := range ds {
			assert.Equal(t, []string{"ack"}, d.said())
		}
		sizes := b.store.sizes("acquire")
		require.LessOrEqual(t, len(sizes), 2)
		assert.GreaterOrEqual(t, sizes[len(sizes)-1], 25)
		assert.EqualValues(t, 50, b.p.Stats().Executed)
		assert.Zero(t, b.p.Busy())
		assert.True(t, b.flow.Idle())
	})
}

// I5, for every record of a batch on its own.
func TestAnAckFollowsItsOwnSettlement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 16, ok)
		shut, open := gate()
		defer open()
		b.store.set(func(s *batches) {
			s.gate = shut
			s.settle = func(h dedup.Hold) error {
				if h.Key.ID == "k3" {
					return errDown
				}
				return nil
			}
		})
		ds := b.offer(names(8)...)
		synctest.Wait()
		assert.Empty(t, b.p.Running(), "all handlers have returned")
		for _, d := range ds {
			require.Empty(t, d.said(), "the store does not know yet")
		}
		assert.Zero(t, b.p.Stats().Executed)
		assert.False(t, b.flow.Idle())
		open()
		synctest.Wait()
		for i, d := range ds {
			if i == 3 {
				require.Empty(t, d.said())
				continue
			}
			require.Equal(t, []string{"ack"}, d.said(), "one failure does not hold up the others")
			require.Equal(t, dedup.Consumed, b.state(d.m.Key).State)
		}
		pass(20 * time.Second)
		assert.Positive(t, ds[3].heard(), "its claim and its message are kept alive")
		b.store.set(func(s *batches) { s.settle = nil })
		b.until(ds[3], "ack")
		assert.EqualValues(t, 8, b.p.Stats().Executed)
	})
}

func TestASettlementThatNeverComesSendsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 4, ok)
		b.store.set(func(s *batches) { s.settle = func(dedup.Hold) error { return errDown } })
		ds := b.offer("k", "k")
		pass(5 * time.Minute)
		assert.Empty(t, ds[0].said())
		assert.EqualValues(t, 1, b.p.Stats().Unconfirmed)
		assert.Equal(t, []string{"nak"}, ds[1].said(), "what was parked on it is due again")
		assert.True(t, b.flow.Idle())
		assert.Zero(t, b.p.Busy())
	})
}

func TestALostLeaseSendsNothingInAFlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 4, ok)
		b.store.set(func(s *batches) {
			s.settle = func(h dedup.Hold) error { // somebody else has taken over
				return b.store.Forget(t.Context(), h.Key, true)
			}
		})
		d := b.offer("k")[0]
		pass(time.Minute)
		assert.Empty(t, d.said())
		assert.EqualValues(t, 1, b.p.Stats().LeaseLost)
	})
}

func TestDuplicatesNeedNoWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release, open := gate()
		defer open()
		b := newFlow(t, 1, func(_ context.Context, m *consumer.Message) error {
			if m.Key == "slow" {
				<-release
			}
			return nil
		}, func(c *consumer.Config, _ *dedup.Config) { c.MaxAhead = 8 })
		b.warm("k")
		slow := b.offer("slow")[0]
		synctest.Wait()
		again := b.offer("k", "slow")
		synctest.Wait()
		assert.Equal(t, []string{"ack"}, again[0].said(), "from the answer of its claim")
		assert.Empty(t, again[1].said(), "parked")
		open()
		b.until(slow, "ack")
		b.until(again[1], "ack")
		assert.EqualValues(t, 2, b.p.Stats().DuplicateAcks)
	})
}

// What is not known to be fast is not claimed ahead of the workers.
func TestClaimsAheadFollowTheSpeedOfTheHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var takes atomic.Int64
		takes.Store(int64(time.Second))
		b := newFlow(t, 4, func(context.Context, *consumer.Message) error { pass(time.Duration(takes.Load())); return nil })
		assert.Equal(t, 4, b.flow.Window(), "nothing is known yet")
		ds := b.offer(names(100)...)
		synctest.Wait()
		assert.Len(t, b.p.Running(), 4)
		assert.Equal(t, 4, b.claimed(), "no claim is ahead")
		b.until(ds[3], "ack")
		assert.Equal(t, 4, b.flow.Window(), "100 ms of handlers that take a second")
		b.stop()

		b = newFlow(t, 4, func(context.Context, *consumer.Message) error { pass(time.Millisecond); return nil })
		b.until(b.offer("k")[0], "ack")
		assert.Equal(t, 4+400, b.flow.Window())
		b = newFlow(t, 4, ok, func(c *consumer.Config, _ *dedup.Config) { c.MaxAhead = -1 })
		b.warm("k")
		assert.Equal(t, 4, b.flow.Window())
	})
}

func (b *flowBench) claimed() (n int) {
	for _, size := range b.store.sizes("acquire") {
		n += size
	}
	return n
}

func TestLargePayloadsAreNotPiledUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 1, ok)
		d := b.message("k", string(make([]byte, 8<<20)))
		b.flow.Offer(d, false)
		b.until(d, "ack")
		assert.LessOrEqual(t, b.flow.Window(), 5)
	})
}

// A claim whose lease runs short while it waits is given back, and its handler does not begin.
func TestClaimsAheadAreGivenBackWhenTheirLeaseRunsShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release, open := gate()
		defer open()
		ran := map[string]int{}
		b := newFlow(t, 1, func(_ context.Context, m *consumer.Message) error {
			ran[m.Key]++
			if m.Key == "slow" {
				<-release
			}
			return nil
		}, func(c *consumer.Config, _ *dedup.Config) { c.MaxAhead = 2 })
		b.warm("k")
		slow := b.offer("slow")[0]
		synctest.Wait()
		ds := b.offer("a", "b", "a", "c") // a and b are claimed, the others wait unclaimed
		synctest.Wait()
		require.Equal(t, dedup.Acquired, b.state("b").State)
		_, err := b.store.Get(t.Context(), dedup.Key{Scope: scope, ID: "c"})
		require.ErrorIs(t, err, dedup.ErrNotFound)
		pass(17 * time.Second) // of a lease of 30
		synctest.Wait()
		for _, d := range ds {
			assert.Equal(t, []string{"nak"}, d.said())
		}
		r := b.state("a")
		assert.Equal(t, dedup.Failed, r.State)
		assert.Zero(t, r.Attempt, "uncounted")
		assert.Equal(t, 1, r.Interrupted)
		assert.EqualValues(t, 4, b.p.Stats().Returned)
		open()
		b.until(slow, "ack")
		synctest.Wait()
		assert.Equal(t, map[string]int{"k": 1, "slow": 1}, ran)
		pass(time.Second)
		b.until(b.offer("a")[0], "ack")
		synctest.Wait()
		assert.True(t, b.flow.Idle(), "their seats are free")
	})
}

// A claim that has waited is renewed before its handler begins, the message with it.
func TestAHandlerDoesNotBeginWithAShortLease(t *testing.T) {
	t.Parallel()
	for _, reachable := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			ran := make(chan time.Time, 1)
			b := newFlow(t, 1, func(ctx context.Context, _ *consumer.Message) error {
				ran <- time.Now()
				pass(27 * time.Second) // with its heartbeat alone: more than the lease that was left
				return ctx.Err()
			}, func(_ *consumer.Config, d *dedup.Config) { d.StoreTimeout = 10 * time.Second })
			b.store.set(func(s *batches) { s.acquire = func(dedup.Claim) error { pass(9 * time.Second); return nil } })
			d := b.message("k", "x")
			d.unhealthy = !reachable
			b.flow.Offer(d, false)
			if !reachable {
				b.until(d, "nak")
				assert.Empty(t, ran)
				assert.EqualValues(t, 1, b.p.Stats().Returned)
				assert.Equal(t, 1, b.state("k").Interrupted)
				return
			}
			<-ran
			assert.Equal(t, 1, d.heard(), "the broker's deadline")
			assert.Equal(t, time.Now().Add(30*time.Second).UnixMilli(), b.state("k").LeaseUntil.UnixMilli())
			b.until(d, "ack")
		})
	}
}

func TestAStoreThatDoesNotAnswerKeepsNoClaimAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release, open := gate()
		defer open()
		b := newFlow(t, 1, func(_ context.Context, m *consumer.Message) error {
			if m.Key == "slow" {
				<-release
			}
			return nil
		})
		b.warm("k")
		b.offer("slow")
		synctest.Wait()
		d := b.offer("a")[0]
		synctest.Wait()
		require.NoError(t, b.store.Forget(t.Context(), dedup.Key{Scope: scope, ID: "a"}, true)) // its release is refused
		pass(17 * time.Second)
		synctest.Wait()
		assert.Empty(t, d.said(), "somebody else's: nothing is sent")
		assert.EqualValues(t, 1, b.p.Stats().LeaseLost)
		open()
	})
}

func TestStopGivesBackWhatHasNotBegun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release, open := gate()
		defer open()
		ran := atomic.Int64{}
		b := newFlow(t, 2, func(_ context.Context, m *consumer.Message) error {
			ran.Add(1)
			if m.Key != "k" {
				<-release
			}
			return nil
		}, func(c *consumer.Config, _ *dedup.Config) { c.MaxAhead = 3 })
		b.warm("k")
		running := b.offer("r1", "r2")
		synctest.Wait()
		ahead := b.offer("a1", "a2", "a3", "w1", "w2")
		synctest.Wait()
		b.flow.Stop()
		synctest.Wait()
		for _, d := range ahead[3:] {
			assert.Equal(t, []string{"nak"}, d.said(), "unclaimed")
		}
		late := b.offer("late")[0]
		assert.Equal(t, []string{"nak"}, late.said())
		for _, d := range ahead[:3] {
			assert.Equal(t, []string{"nak"}, d.said(), "although no worker is free")
			assert.Equal(t, 1, b.state(d.m.Key).Interrupted)
			assert.Zero(t, b.state(d.m.Key).Attempt)
		}
		for _, d := range running {
			assert.Empty(t, d.said(), "handlers go on")
		}
		open()
		<-b.flow.Done()
		for _, d := range running {
			assert.Equal(t, []string{"ack"}, d.said())
		}
		assert.EqualValues(t, 3, ran.Load())
		assert.EqualValues(t, 6, b.p.Stats().Interrupted)
		assert.Zero(t, b.p.Busy())
		b.flow.Stop() // again
	})
}

// A claim that is under way when the flow is stopped is put back when its answer comes.
func TestStopDuringAClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 2, func(context.Context, *consumer.Message) error { t.Error("ran"); return nil })
		shut, open := gate()
		defer open()
		b.store.set(func(s *batches) { s.acquire = func(dedup.Claim) error { <-shut; return nil } })
		ds := b.offer("a", "b")
		synctest.Wait()
		b.cancel(consumer.ErrShutdown)
		b.flow.Stop()
		synctest.Wait()
		open()
		<-b.flow.Done()
		for _, d := range ds {
			assert.Equal(t, []string{"nak"}, d.said())
		}
		assert.Equal(t, 1, b.state("a").Interrupted)
	})
}

func TestStopFlushes256Settlements(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 256, ok)
		shut, open := gate()
		defer open()
		var refused atomic.Int64
		b.store.set(func(s *batches) {
			s.gate = shut
			s.settle = func(h dedup.Hold) error {
				if n := refused.Add(1); h.Key.ID == "k7" && n < 256+5 { // with its batch, and then on its own
					return errDown
				}
				return nil
			}
		})
		ds := b.offer(names(256)...)
		synctest.Wait()
		require.Empty(t, b.p.Running(), "all have been handled")
		b.flow.Stop()
		pass(time.Second)
		select {
		case <-b.flow.Done():
			t.Fatal("256 are unsettled")
		default:
		}
		for _, d := range ds {
			require.Empty(t, d.said())
		}
		open()
		<-b.flow.Done()
		for _, d := range ds {
			require.Equal(t, []string{"ack"}, d.said())
		}
	})
}

// What the store does not know of is bounded: workers wait.
func TestUnsettledMessagesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ran atomic.Int64
		b := newFlow(t, 3, func(context.Context, *consumer.Message) error { ran.Add(1); return nil },
			func(c *consumer.Config, _ *dedup.Config) { c.MaxUnsettled = 5 })
		shut, open := gate()
		defer open()
		b.store.set(func(s *batches) { s.gate = shut })
		ds := b.offer(names(20)...)
		synctest.Wait()
		assert.EqualValues(t, 5+3, ran.Load(), "the workers wait with their last ones")
		open()
		for _, d := range ds {
			b.until(d, "ack")
		}
	})
}

func TestAFlowWhoseStoreIsDown(t *testing.T) {
	t.Parallel()
	for _, policy := range []consumer.StoreDownPolicy{consumer.StoreClosed, consumer.StoreOpen} {
		synctest.Test(t, func(t *testing.T) {
			ran := 0
			b := newFlow(t, 4, func(ctx context.Context, _ *consumer.Message) error {
				ran++
				assert.Equal(t, ran == 1 && policy == consumer.StoreOpen, dedup.Untracked(ctx))
				return nil
			}, func(c *consumer.Config, _ *dedup.Config) { c.StoreDown = policy })
			b.store.set(func(s *batches) { s.acquire = func(dedup.Claim) error { return errDown } })
			d := b.offer("k")[0]
			synctest.Wait()
			if policy == consumer.StoreOpen {
				assert.Equal(t, []string{"ack"}, d.said())
				assert.EqualValues(t, 1, b.p.Stats().Untracked)
			} else {
				assert.Equal(t, []string{"nak"}, d.said())
				b.offer(names(10)...)
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				require.Error(t, b.p.Admit(ctx), "the breaker counts the messages of a batch")
				assert.Zero(t, ran)
			}
			b.store.set(func(s *batches) { s.acquire = nil })
			pass(10 * time.Second)
			b.until(b.offer("k")[0], "ack")
		})
	}
}

// A batch that was answered for one key is no sign of a store that is down.
func TestKeysThatFailOpenNoBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 16, ok)
		shut, open := gate()
		defer open()
		b.store.set(func(s *batches) {
			s.acquire = func(c dedup.Claim) error {
				switch c.Key.ID {
				case "gate":
					<-shut
				case "good":
				default:
					return errDown
				}
				return nil
			}
		})
		b.offer("gate")
		synctest.Wait()
		ds := b.offer(append([]string{"good"}, names(10)...)...) // one batch
		open()
		b.until(ds[0], "ack")
		b.until(ds[10], "nak")
		begun := time.Now()
		require.NoError(t, b.p.Admit(t.Context()))
		assert.Zero(t, time.Since(begun))
		assert.EqualValues(t, 10, b.p.Stats().StoreDown)
	})
}

func TestAFlowAnswersEveryCase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFlow(t, 4, func(_ context.Context, m *consumer.Message) error {
			switch name, _, _ := strings.Cut(m.Key, "-"); name {
			case "permanent":
				return consumer.Permanent(errHandler)
			case "fails":
				return errHandler
			case "goexit":
				runtime.Goexit()
			case "panics":
				panic("boom")
			}
			return nil
		})
		for key, want := range map[string]string{"": "term", "not a key": "term", "permanent": "term", "fails": "nak", "goexit": "nak", "panics": "nak", "k": "ack"} {
			for i := range 5 { // more than there are workers to lose
				d := b.message(key, "x")
				if key == "goexit" || key == "panics" {
					d = b.message(fmt.Sprint(key, "-", i), "x")
				}
				b.flow.Offer(d, false)
				got := want
				if key == "permanent" && b.p.Stats().DeadLettered > 0 && b.has("permanent", dedup.DeadSent) {
					got = "ack" // one key, one fate
				}
				b.until(d, got)
			}
		}
		other := b.message("k", "another payload")
		b.flow.Offer(other, false)
		b.until(other, "term")
		assert.Equal(t, dedup.ConflictingPayload, b.letters.letters[len(b.letters.letters)-1].Class)
		assert.True(t, b.flow.Idle())
		assert.Zero(t, b.p.Busy())
	})
}

func (b *flowBench) has(key string, s dedup.State) bool {
	r, err := b.store.Get(b.t.Context(), dedup.Key{Scope: scope, ID: key})
	return err == nil && r.State == s
}

// Over a store without batches each worker does everything itself.
func TestAFlowOverAStoreWithoutBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, consumer.HandlerFunc(ok))
		f := struct{ dedup.Store }{memstore.New(memstore.Config{})}
		d, err := dedup.New(f, dedup.Config{})
		require.NoError(t, err)
		b.p, err = consumer.New(d, scope, consumer.HandlerFunc(ok), consumer.Config{Letters: b.letters})
		require.NoError(t, err)
		fb := &flowBench{bench: b, flow: b.p.Flow(t.Context(), 2, nil)}
		for _, d := range fb.offer(names(20)...) {
			fb.until(d, "ack")
		}
		assert.Equal(t, 2, fb.flow.Window(), "nothing is taken ahead")
		fb.stop()
	})
}

func TestSeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release, open := gate()
		defer open()
		b := newFlow(t, 8, func(context.Context, *consumer.Message) error { <-release; return nil },
			func(c *consumer.Config, _ *dedup.Config) { c.MaxAhead = -1 })
		one := b.flow.Ask(5, false)
		<-one.Granted()
		require.Equal(t, 5, one.Take())
		assert.Zero(t, one.Take())
		patient := b.flow.Ask(100, true)
		<-patient.Granted()
		require.Equal(t, 3, patient.Take(), "a quarter of the window is free")
		first, second := b.flow.Ask(2, false), b.flow.Ask(100, false)
		granted := func(s *consumer.Seats) bool {
			select {
			case <-s.Granted():
				return true
			default:
				return false
			}
		}
		assert.False(t, granted(first))
		b.flow.GiveBack(1)
		assert.True(t, granted(first), "whoever asked first")
		assert.False(t, granted(second))
		assert.Equal(t, 1, first.Take())
		assert.Zero(t, second.Take(), "withdrawn")
		b.flow.GiveBack(1)
		patient = b.flow.Ask(100, true)
		assert.False(t, granted(patient), "one of eight is not worth a pull")
		b.flow.GiveBack(1)
		assert.True(t, granted(patient))
		assert.Equal(t, 2, patient.Take())

		for _, k := range names(2) { // a seat is held until the handler has ended
			b.flow.Offer(b.message(k, "x"), true)
		}
		b.flow.GiveBack(6)
		all := b.flow.Ask(100, false)
		assert.Equal(t, 6, all.Take())
		more := b.flow.Ask(100, false)
		assert.False(t, granted(more))
		open()
		synctest.Wait()
		assert.True(t, granted(more))
		n := more.Take()
		more = b.flow.Ask(100, false)
		assert.Equal(t, 2, n+more.Take())
	})
}
