package tieredstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/dedup/tieredstore"
	"github.com/idemq/idemq/internal/testserver"
)

func TestNothingIsGrantedBesideAClaimThatTheFastTierHasLost(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(b *both, r dedup.Record) error{
		"heartbeat": func(b *both, r dedup.Record) error { return b.Extend(b.t.Context(), holdOf(r), lease) },
		"settle":    func(b *both, r dedup.Record) error { return b.consume(r, "x") },
		"release": func(b *both, r dedup.Record) error {
			return b.Release(b.t.Context(), holdOf(r), dedup.Release{Delay: long})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBoth(t)
			other := b.again()
			r := b.acquire("held", "a", dedup.Granted)
			b.fast.flush()
			busy := other.acquire("held", "b", dedup.Busy)
			assert.Equal(t, lease, busy.Wait(), "told when to come back")
			other.acquire("new", "b", dedup.Busy)
			b.acquire("new", "c", dedup.Busy)
			require.NoError(t, end(b, r), "the claim is put back, over what others have left there meanwhile")
			want := map[string]dedup.Verdict{"heartbeat": dedup.Busy, "settle": dedup.Duplicate, "release": dedup.Busy}[name]
			got := other.acquire("held", "d", want)
			assert.Equal(t, 1, got.Attempt, "as it was")
			b.advance(lease)
			other.acquire("new", "e", dedup.Granted)
			b.acquire("another", "e", dedup.Granted)
			if name == "heartbeat" {
				require.NoError(t, b.consume(r, "x"))
			}
		})
	}
}

func TestAHolderThatComesAfterTheQuarantine(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	other := b.again()
	free, taken := b.acquire("free", "a", dedup.Granted), b.acquire("taken", "a", dedup.Granted)
	b.fast.flush()
	other.acquire("new", "b", dedup.Busy)
	b.advance(lease)
	second := other.acquire("taken", "b", dedup.Granted)
	require.NoError(t, b.Extend(t.Context(), holdOf(free), lease), "nobody has taken it")
	require.ErrorIs(t, b.Extend(t.Context(), holdOf(taken), lease), dedup.ErrLeaseLost)
	require.ErrorIs(t, b.consume(taken, "first"), dedup.ErrLeaseLost)
	require.NoError(t, other.consume(second, "second"))
}

func TestAClaimThatWasForgottenOnPurposeIsNotPutBack(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	r := b.acquire("1", "a", dedup.Granted)
	require.NoError(t, b.again().Forget(t.Context(), r.Key, true), "another process's operator")
	require.ErrorIs(t, b.Extend(t.Context(), holdOf(r), lease), dedup.ErrLeaseLost)
	require.ErrorIs(t, b.consume(r, "x"), dedup.ErrLeaseLost)
	fast, durable := b.states(r.Key)
	assert.Equal(t, []dedup.State{dedup.Absent, dedup.Absent}, []dedup.State{fast, durable})
}

func TestThereIsNoQuarantineAtAStart(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	b.acquire("1", "a", dedup.Granted)         // the very first
	b.again().acquire("2", "a", dedup.Granted) // another process
	b.durable.flush()                          // a durable tier that begins anew behind a fast one that does not
	b.again().acquire("3", "a", dedup.Granted)
	b.fast.flush()
	b.acquire("4", "a", dedup.Busy) // it is noticed all the same
	b.again().acquire("4", "b", dedup.Busy)
	b.advance(lease)
	b.again().acquire("4", "c", dedup.Granted)
	b.acquire("5", "a", dedup.Granted)
	found := 0
	for r, err := range b.List(t.Context(), dedup.Filter{}) {
		require.NoError(t, err)
		assert.Equal(t, key.Scope, r.Key.Scope, "the marker is not listed")
		found++
	}
	assert.Equal(t, 2, found)
}

// A long handler under the core's heartbeats: the fast tier is lost several times, and nothing runs beside it.
func TestHeartbeatsCarryAClaimOverLosses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fast, durable := newSpy(memstore.Config{}), newSpy(memstore.Config{})
		deduper := func() *dedup.Deduper {
			s, err := tieredstore.New(fast, durable, tieredstore.Config{})
			require.NoError(t, err)
			d, err := dedup.New(s, dedup.Config{})
			require.NoError(t, err)
			return d
		}
		a, b := deduper(), deduper()
		runs := 0
		var wg sync.WaitGroup
		wg.Go(func() {
			out, err := a.Do(t.Context(), key, func(ctx context.Context) ([]byte, error) {
				runs++
				for range 5 {
					fast.flush()
					<-time.After(dedup.DefaultLease)
				}
				return []byte("done"), ctx.Err()
			})
			assert.NoError(t, err)
			assert.Equal(t, dedup.Granted, out.Verdict)
		})
		synctest.Wait()
		for {
			out, err := b.Do(t.Context(), key, func(context.Context) ([]byte, error) { runs++; return nil, nil })
			require.NoError(t, err)
			if out.Verdict == dedup.Duplicate {
				assert.Equal(t, "done", string(out.Result()))
				break
			}
			require.Equal(t, dedup.Busy, out.Verdict)
			<-time.After(time.Second)
		}
		wg.Wait()
		assert.Equal(t, 1, runs)
	})
}

// What this process remembers of a claim counts as long as its lease: after that somebody may have taken over.
func TestAClaimIsNotRememberedLongerThanItsLease(t *testing.T) {
	t.Parallel()
	for name, loss := range map[string]func(s *spy){"down": func(s *spy) { s.set(true, "all") }, "flushed": (*spy).flush} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBoth(t)
				r := b.acquire("1", "a", dedup.Granted)
				<-time.After(lease - time.Second)
				require.NoError(t, b.Extend(t.Context(), holdOf(r), lease))
				<-time.After(lease)
				loss(b.fast)
				require.Error(t, b.consume(r, "late"))
				_, durable := b.states(r.Key)
				assert.Equal(t, dedup.Absent, durable)
			})
		})
	}
}

// FLUSHALL in the middle of a run of two processes: keys that are consumed, keys whose handlers are at work, and duplicates
// of both afterwards. The same run on Redis alone is the control: it repeats every effect that it has forgotten.
func TestFlushAllInTheMiddleOfARun(t *testing.T) {
	t.Parallel()
	const each = 20
	for name, c := range map[string]struct {
		durable func(t *testing.T) dedup.Store
		repeats int
	}{
		"tiered":      {func(*testing.T) dedup.Store { return memstore.New(memstore.Config{}) }, 0},
		"redis alone": {func(*testing.T) dedup.Store { return nil }, 2 * each},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := testserver.PrivateRedis(t).Client(t)
			var store dedup.Store = redisstore.New(rdb, redisstore.Config{})
			deduper := func(durable dedup.Store) *dedup.Deduper {
				s := store
				if durable != nil {
					s = tiered(t, store, durable)
				}
				d, err := dedup.New(s, dedup.Config{}) // a lease of 30 s: nothing here depends on its end
				require.NoError(t, err)
				return d
			}
			durable := c.durable(t)
			one, two := deduper(durable), deduper(durable)

			var mu sync.Mutex
			effects := map[string]int{}
			do := func(d *dedup.Deduper, id string, wait <-chan struct{}, at func()) (dedup.Verdict, error) {
				out, err := d.Do(t.Context(), dedup.Key{Scope: "run", ID: id}, func(context.Context) ([]byte, error) {
					mu.Lock()
					effects[id]++
					mu.Unlock()
					if at != nil {
						at()
						<-wait
					}
					return []byte("receipt of " + id), nil
				})
				return out.Verdict, err
			}
			for i := range each {
				v, err := do(one, fmt.Sprint("done-", i), nil, nil)
				require.NoError(t, err)
				require.Equal(t, dedup.Granted, v)
			}
			var running, all sync.WaitGroup
			open := make(chan struct{})
			errs := make([]error, each)
			for i := range each {
				running.Add(1)
				all.Go(func() { _, errs[i] = do(one, fmt.Sprint("work-", i), open, running.Done) })
			}
			running.Wait()
			require.NoError(t, rdb.FlushAll(t.Context()).Err())
			for i := range each {
				for _, kind := range []string{"done-", "work-"} {
					_, err := do(two, fmt.Sprint(kind, i), nil, nil)
					require.NoError(t, err)
				}
			}
			close(open)
			all.Wait()
			if c.repeats == 0 {
				require.NoError(t, errors.Join(errs...), "who was at work settles")
			}
			for i := range each {
				for _, kind := range []string{"done-", "work-"} {
					v, err := do(two, fmt.Sprint(kind, i), nil, nil)
					require.NoError(t, err)
					assert.Equal(t, dedup.Duplicate, v)
				}
			}
			repeats := 0
			for _, n := range effects {
				repeats += n - 1
			}
			assert.Len(t, effects, 2*each)
			assert.Equal(t, c.repeats, repeats)
		})
	}
}
