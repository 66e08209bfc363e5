package dedup_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

var key = dedup.Key{Scope: "ORDERS/billing", ID: "order-4711"}

const lease = 30 * time.Second

func setup(t *testing.T, cfg dedup.Config) (*dedup.Deduper, *faulty, *memstore.Store) {
	t.Helper()
	mem := memstore.New(memstore.Config{})
	f := newFaulty(mem)
	d, err := dedup.New(f, cfg)
	require.NoError(t, err)
	return d, f, mem
}

func begin(t *testing.T, d *dedup.Deduper) *dedup.Guard {
	t.Helper()
	g, out, err := d.Begin(t.Context(), key, dedup.Fingerprint{}, dedup.WithLetters())
	require.NoError(t, err)
	require.Equal(t, dedup.Granted, out.Verdict)
	t.Cleanup(g.Abandon)
	return g
}

func TestHeartbeatKeepsAClaimForManyLeases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := setup(t, dedup.Config{})
		g := begin(t, d)
		renewed := 0
		g.Start(func(context.Context) error { renewed++; return nil })
		pass(10 * lease)
		require.NoError(t, g.Err())
		require.NoError(t, g.Context().Err())
		require.NoError(t, g.Consume(t.Context(), []byte("done")))
		assert.GreaterOrEqual(t, renewed, 29, "the broker's deadline is renewed with every heartbeat")
		_, out, err := d.Begin(t.Context(), key, dedup.Fingerprint{})
		require.NoError(t, err)
		assert.Equal(t, dedup.Duplicate, out.Verdict)
		assert.Equal(t, "done", string(out.Result()))
	})
}

func TestHeartbeatThatBeginsLateKeepsTheClaim(t *testing.T) {
	t.Parallel()
	for _, late := range []time.Duration{lease/3 - 1, lease / 3, lease / 2, lease * 4 / 5} {
		synctest.Test(t, func(t *testing.T) {
			d, _, _ := setup(t, dedup.Config{})
			g := begin(t, d)
			pass(late)
			g.Start(nil)
			pass(10 * lease)
			require.NoError(t, g.Consume(t.Context(), nil), late)
		})
	}
}

func TestTrustEndsBeforeTheLease(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*dedup.Guard, *faulty){
		"no heartbeat": func(*dedup.Guard, *faulty) {},
		"store cannot be reached": func(g *dedup.Guard, f *faulty) {
			f.set(failing("extend"), nil)
			g.Start(nil)
		},
		"store hangs": func(g *dedup.Guard, f *faulty) {
			f.set(func(op string) error {
				if op != "extend" {
					return nil
				}
				pass(lease / 3) // one heartbeat is under way when trust ends
				return errFault
			}, nil)
			g.Start(nil)
		},
		"every answer is lost": func(g *dedup.Guard, f *faulty) {
			f.set(nil, failing("extend"))
			g.Start(nil)
		},
		"broker cannot be reached": func(g *dedup.Guard, _ *faulty) {
			g.Start(func(context.Context) error { return errFault })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var told error
				d, f, _ := setup(t, dedup.Config{OnLeaseLost: func(_ dedup.Key, _ dedup.Fence, err error) { told = err }})
				begun := time.Now()
				g := begin(t, d)
				start(g, f)
				<-g.Context().Done()
				assert.Equal(t, lease-lease/10, time.Since(begun), "trust ends a margin before the lease")
				require.ErrorIs(t, context.Cause(g.Context()), dedup.ErrLeaseLost)
				<-g.Lost()
				synctest.Wait()
				require.ErrorIs(t, told, dedup.ErrLeaseLost, "the callback is fired")
				require.ErrorIs(t, g.Consume(t.Context(), nil), dedup.ErrLeaseLost)
				assert.Zero(t, f.count("settle"), "a lost claim sends nothing")
				extended := f.count("extend")
				pass(2 * lease)
				assert.Equal(t, extended, f.count("extend"), "heartbeats stop")
			})
		})
	}
}

func TestHeartbeatsCountFromBeforeTheirSend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slow = 5 * time.Second
		d, f, _ := setup(t, dedup.Config{StoreTimeout: lease / 3})
		begun := time.Now()
		g := begin(t, d)
		f.set(nil, func(op string) error {
			if op == "extend" { // this answer takes its time, and all after it fail
				f.set(failing("extend"), nil)
				pass(slow)
			}
			return nil
		})
		g.Start(nil)
		<-g.Lost()
		assert.Equal(t, lease/3+lease-lease/10, time.Since(begun), "the store's lease runs from when it got the heartbeat, not from its answer")
	})
}

// A heartbeat that fails is repeated soon, not a whole third of the lease later: an outage shorter than what is left of the
// trust costs nothing.
func TestAShortOutageCostsNoClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := setup(t, dedup.Config{})
		g := begin(t, d)
		f.set(failing("extend"), nil)
		g.Start(nil)
		pass(lease * 7 / 10) // the heartbeats at 1/3 and 2/3 have failed, the next would come when trust is over
		f.set(nil, nil)
		pass(lease)
		require.NoError(t, g.Err())
		require.NoError(t, g.Consume(t.Context(), nil))
	})
}

// I9: whoever ends a claim does not wait for a heartbeat that hangs.
func TestTheEndOfAClaimStopsAHeartbeatUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, err := dedup.New(hangingExtend{memstore.New(memstore.Config{})}, dedup.Config{})
		require.NoError(t, err)
		g := begin(t, d)
		g.Start(nil)
		pass(lease/3 + time.Second) // it hangs now
		begun := time.Now()
		require.NoError(t, g.Consume(t.Context(), nil))
		assert.Zero(t, time.Since(begun))
	})
}

// hangingExtend is a store whose Extend does not answer.
type hangingExtend struct{ dedup.Store }

func (hangingExtend) Extend(ctx context.Context, _ dedup.Hold, _ time.Duration) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestTrustCountsFromBeforeTheFirstSend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := setup(t, dedup.Config{})
		tries := 0
		f.set(nil, func(op string) error { // the first answers are lost, after a second each
			if tries++; op != "acquire" || tries == 3 {
				return nil
			}
			pass(time.Second)
			return errFault
		})
		begun := time.Now()
		g := begin(t, d)
		require.Equal(t, 3, f.count("acquire"))
		assert.Equal(t, 1, g.Record().Attempt, "repeated under the same nonce it is the same claim")
		<-g.Lost()
		assert.Equal(t, lease-lease/10, time.Since(begun), "the lease runs since the first send, whose answer was lost")
	})
}

func TestTakeoverIsNoticedByTheHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _, mem := setup(t, dedup.Config{})
		g := begin(t, d)
		g.Start(nil)
		require.NoError(t, mem.Forget(t.Context(), key, true))
		other := begin(t, d)
		pass(lease/3 + time.Millisecond)
		require.ErrorIs(t, g.Err(), dedup.ErrLeaseLost)
		require.NoError(t, other.Err())
		assert.Greater(t, other.Hold().Fence, g.Hold().Fence)
		require.NoError(t, other.Consume(t.Context(), nil))
	})
}

func TestSettleIsTriedAgainWhileTheLeaseIsKeptAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := setup(t, dedup.Config{})
		g := begin(t, d)
		g.Start(nil)
		down := time.AfterFunc(lease/2, func() { f.set(nil, nil) })
		defer down.Stop()
		f.set(failing("settle"), nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // the handler's context must not matter: the effect is done
		require.NoError(t, g.Consume(ctx, nil))
	})
}

func TestUnconfirmedSettlement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := setup(t, dedup.Config{})
		g := begin(t, d)
		g.Start(nil)
		f.set(failing("settle", "extend"), nil)
		err := g.Consume(t.Context(), nil)
		var se *dedup.StoreError
		require.ErrorAs(t, err, &se, "the store never said")
		require.ErrorIs(t, err, errFault)
	})
	synctest.Test(t, func(t *testing.T) { // the lease can be kept, the settlement cannot: it does not go on for ever
		d, f, _ := setup(t, dedup.Config{})
		g := begin(t, d)
		g.Start(nil)
		f.set(failing("settle"), nil)
		begun := time.Now()
		require.ErrorIs(t, g.Consume(t.Context(), nil), errFault)
		assert.LessOrEqual(t, time.Since(begun), lease+time.Second)
	})
}

func TestAcquireWithALostAnswerIsNotGrantedTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := setup(t, dedup.Config{})
		f.set(nil, failing("acquire"))
		_, _, err := d.Begin(t.Context(), key, dedup.Fingerprint{})
		var se *dedup.StoreError
		require.ErrorAs(t, err, &se)
		assert.Equal(t, 3, f.count("acquire"))
		f.set(nil, nil)
		_, out, err := d.Begin(t.Context(), key, dedup.Fingerprint{})
		require.NoError(t, err)
		assert.Equal(t, dedup.Busy, out.Verdict, "another call does not get the running lease")
		assert.Positive(t, out.Wait())
	})
}

func TestDo(t *testing.T) {
	t.Parallel()
	d, _, _ := setup(t, dedup.Config{MaxAttempts: 2})
	runs := 0
	fn := func(ctx context.Context) ([]byte, error) {
		runs++
		assert.Equal(t, runs, dedup.AttemptFrom(ctx))
		assert.Equal(t, key, dedup.KeyFrom(ctx))
		assert.NotZero(t, dedup.FenceFrom(ctx))
		if runs == 1 {
			return nil, errFault
		}
		return []byte("receipt"), nil
	}
	_, err := d.Do(t.Context(), key, fn)
	require.ErrorIs(t, err, errFault)
	out, err := d.Do(t.Context(), key, fn)
	require.NoError(t, err)
	assert.Equal(t, dedup.Granted, out.Verdict)
	assert.Equal(t, "receipt", string(out.Result()))
	out, err = d.Do(t.Context(), key, fn)
	require.NoError(t, err)
	assert.Equal(t, dedup.Duplicate, out.Verdict)
	assert.Equal(t, "receipt", string(out.Result()))
	assert.Equal(t, 2, runs)
}

func TestDoOfAKeyThatAlwaysFailsIsDeadInTheEnd(t *testing.T) {
	t.Parallel()
	d, _, _ := setup(t, dedup.Config{MaxAttempts: 2})
	for range 2 {
		_, err := d.Do(t.Context(), key, func(context.Context) ([]byte, error) { return nil, errFault })
		require.ErrorIs(t, err, errFault)
	}
	out, err := d.Do(t.Context(), key, func(context.Context) ([]byte, error) { t.Error("ran"); return nil, nil })
	require.NoError(t, err)
	assert.Equal(t, dedup.Dead, out.Verdict, "no letters are configured, so none is owed")
	assert.Equal(t, dedup.Exhausted, out.Record.Cause.Class)
	assert.Equal(t, errFault.Error(), out.Record.Cause.Message)
}

func TestDoReleasesOnPanicAndOnCancel(t *testing.T) {
	t.Parallel()
	d, _, mem := setup(t, dedup.Config{})
	assert.PanicsWithValue(t, "boom", func() {
		_, _ = d.Do(t.Context(), key, func(context.Context) ([]byte, error) { panic("boom") })
	})
	r, err := mem.Get(t.Context(), key)
	require.NoError(t, err)
	assert.Equal(t, dedup.Failed, r.State)
	assert.Equal(t, 1, r.Attempt)

	ctx, cancel := context.WithCancel(t.Context())
	_, err = d.Do(ctx, key, func(ctx context.Context) ([]byte, error) { cancel(); return nil, ctx.Err() })
	require.ErrorIs(t, err, context.Canceled)
	r, err = mem.Get(t.Context(), key)
	require.NoError(t, err)
	assert.Equal(t, 1, r.Attempt, "a caller who goes away does not cost an attempt")
	assert.Equal(t, 1, r.Interrupted)
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]dedup.Config{
		"Lease":         {Lease: time.Millisecond},
		"Margin":        {Lease: time.Second, Margin: time.Second},
		"Retention":     {Retention: time.Second},
		"DeadRetention": {DeadRetention: time.Second},
		"StoreTimeout":  {StoreTimeout: time.Minute},
		"MaxAbandoned":  {MaxAbandoned: -1},
		"Abandoned":     {Abandoned: 7},
	} {
		_, err := dedup.New(memstore.New(memstore.Config{}), cfg)
		require.ErrorIs(t, err, dedup.ErrConfig, name)
		require.ErrorContains(t, err, name)
	}
	_, err := dedup.New(nil, dedup.Config{})
	require.ErrorIs(t, err, dedup.ErrConfig)
}

func TestInvalidKeyNeverReachesTheStore(t *testing.T) {
	t.Parallel()
	d, f, _ := setup(t, dedup.Config{})
	_, err := d.Do(t.Context(), dedup.Key{Scope: "s", ID: "a b"}, nil)
	require.ErrorIs(t, err, dedup.ErrInvalidKey)
	assert.Zero(t, f.count("acquire"))
}

func TestStoreErrorSaysWhatHappened(t *testing.T) {
	t.Parallel()
	err := error(&dedup.StoreError{Op: "settle", Key: key, Indeterminate: true, Err: errFault})
	assert.Contains(t, err.Error(), "answer was lost")
	assert.ErrorIs(t, err, errFault)
}
