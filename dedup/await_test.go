package dedup_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// looked is a store that counts what a waiting costs it.
type looked struct {
	*memstore.Store
	reads, watches atomic.Int64
	down           atomic.Bool // reads fail
	refuse         atomic.Bool // watches fail
	end            atomic.Bool // a watch ends as soon as it has begun
	before         func()      // is called before a watch begins
}

func (l *looked) Get(ctx context.Context, k dedup.Key) (dedup.Record, error) {
	l.reads.Add(1)
	if l.down.Load() {
		return dedup.Record{}, &dedup.StoreError{Op: "get", Key: k, Err: errFault}
	}
	return l.Store.Get(ctx, k)
}

func (l *looked) Watch(ctx context.Context, k dedup.Key) (<-chan struct{}, error) {
	l.watches.Add(1)
	if l.before != nil {
		l.before()
	}
	switch {
	case l.refuse.Load():
		return nil, errFault
	case l.end.Load():
		c := make(chan struct{})
		close(c)
		return c, nil
	}
	return l.Store.Watch(ctx, k)
}

// awaited is what came of an Await under way.
type awaited struct {
	out   dedup.Outcome
	err   error
	after time.Duration
}

// awaitSetup returns a key at work, and who waits for it.
func awaitSetup(t *testing.T, opts ...dedup.AwaitOption) (*dedup.Deduper, *looked, *dedup.Guard, func(context.Context) <-chan awaited) {
	t.Helper()
	l := &looked{Store: memstore.New(memstore.Config{})}
	d, err := dedup.New(l, dedup.Config{})
	require.NoError(t, err)
	g := begin(t, d)
	g.Start(nil)
	return d, l, g, func(ctx context.Context) <-chan awaited {
		c := make(chan awaited, 1)
		go func() {
			begun := time.Now()
			out, err := d.Await(ctx, key, opts...)
			c <- awaited{out, err, time.Since(begun)}
		}()
		return c
	}
}

func TestAwaitIsToldOfTheOutcome(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end     func(*dedup.Guard) error
		verdict dedup.Verdict
		err     error
	}{
		"consumed": {func(g *dedup.Guard) error { return g.Consume(context.Background(), []byte("receipt")) }, dedup.Duplicate, nil},
		"dead": {func(g *dedup.Guard) error {
			return g.Kill(context.Background(), dedup.Cause{Class: dedup.Permanent, Message: "no"})
		}, dedup.Dead, nil},
		"failed": {func(g *dedup.Guard) error {
			return g.Release(context.Background(), dedup.Release{Cause: dedup.Cause{Message: "no"}})
		}, dedup.Busy, dedup.ErrUnsettled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, l, g, await := awaitSetup(t)
				waiting := await(t.Context())
				const busy = 3 * lease
				pass(busy)
				require.NoError(t, c.end(g))
				got := <-waiting
				require.ErrorIs(t, got.err, c.err)
				assert.Equal(t, c.verdict, got.out.Verdict)
				assert.Equal(t, busy, got.after, "told at once")
				assert.LessOrEqual(t, l.reads.Load(), int64(10), "it does not ask again and again")
				assert.EqualValues(t, 1, l.watches.Load())
				switch name {
				case "consumed":
					assert.Equal(t, "receipt", string(got.out.Result()))
				default:
					assert.Equal(t, "no", got.out.Record.Cause.Message)
				}
			})
		})
	}
}

// What happens between the first look and the watch is told by nobody, so there is a second look.
func TestAwaitSeesWhatHappensBeforeItWatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, l, g, await := awaitSetup(t)
		l.before = func() { assert.NoError(t, g.Consume(context.Background(), []byte("receipt"))) }
		got := <-await(t.Context())
		require.NoError(t, got.err)
		assert.Equal(t, "receipt", string(got.out.Result()))
		assert.Zero(t, got.after)
	})
}

func TestAwaitOfWhatIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, l, g, _ := awaitSetup(t)
		_, err := d.Await(t.Context(), dedup.Key{Scope: "s", ID: "unknown"})
		require.ErrorIs(t, err, dedup.ErrNotFound)
		_, err = d.Await(t.Context(), dedup.Key{Scope: "s", ID: "a b"})
		require.ErrorIs(t, err, dedup.ErrInvalidKey)
		require.NoError(t, g.Consume(t.Context(), []byte("receipt")))
		out, err := d.Await(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, "receipt", string(out.Result()))
		assert.Zero(t, l.watches.Load(), "what is over is not watched")
	})
}

func TestAwaitNoticesThatTheOwnerHasVanished(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, _, g, await := awaitSetup(t)
		waiting := await(t.Context())
		synctest.Wait()
		g.Abandon() // as a crash would
		got := <-waiting
		require.ErrorIs(t, got.err, dedup.ErrUnsettled)
		assert.Equal(t, dedup.Acquired, got.out.Record.State)
		assert.Equal(t, lease, got.after, "nobody tells of that, so it is looked at when the lease can be over")
	})
}

func TestAwaitThroughRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _, g, await := awaitSetup(t, dedup.ThroughRetries())
		waiting := await(t.Context())
		pass(time.Second)
		require.NoError(t, g.Release(t.Context(), dedup.Release{Cause: dedup.Cause{Message: "once"}}))
		pass(time.Second)
		require.NoError(t, d.Store().(dedup.Inspector).Forget(t.Context(), key, true))
		pass(time.Second)
		abandoned := begin(t, d)
		abandoned.Abandon()
		pass(2 * lease)
		require.NoError(t, begin(t, d).Consume(t.Context(), []byte("at last")))
		got := <-waiting
		require.NoError(t, got.err)
		assert.Equal(t, "at last", string(got.out.Result()))
		assert.Equal(t, 3*time.Second+2*lease, got.after)
	})
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, _, _, await := awaitSetup(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		got := <-await(ctx)
		require.ErrorIs(t, got.err, context.DeadlineExceeded)
		assert.Equal(t, time.Minute, got.after)
		assert.Equal(t, dedup.Busy, got.out.Verdict)
		assert.Equal(t, 1, got.out.Record.Attempt, "the record as it was seen last")
	})
}

// Where nobody tells, the store is asked, and not too often: about once a second in the end.
func TestAwaitAsksWhereNobodyTells(t *testing.T) {
	t.Parallel()
	for name, cannot := range map[string]func(*looked){
		"refused": func(l *looked) { l.refuse.Store(true) },
		"ended":   func(l *looked) { l.end.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, l, g, await := awaitSetup(t)
				cannot(l)
				waiting := await(t.Context())
				const busy = time.Minute
				pass(busy)
				require.NoError(t, g.Consume(t.Context(), nil))
				got := <-waiting
				require.NoError(t, got.err)
				assert.Less(t, got.after, busy+2*time.Second)
				assert.Less(t, l.reads.Load(), int64(4*60))
				assert.Less(t, l.watches.Load(), int64(2*60), "a store that ends each watch is not asked in a loop")
				if name == "refused" {
					assert.EqualValues(t, 1, l.watches.Load(), "a store that has refused is not asked again")
				}
			})
		})
	}
}

// A store that ends its watches in an outage tells again after it.
func TestAwaitWatchesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, l, g, await := awaitSetup(t)
		l.end.Store(true)
		waiting := await(t.Context())
		pass(time.Minute)
		l.end.Store(false)
		pass(10 * time.Second)
		reads := l.reads.Load()
		pass(time.Minute)
		assert.LessOrEqual(t, l.reads.Load(), reads+4, "it is told again, and looks only when a lease can be over")
		require.NoError(t, g.Consume(t.Context(), nil))
		got := <-waiting
		require.NoError(t, got.err)
		assert.Equal(t, 2*time.Minute+10*time.Second, got.after)
	})
}

func TestAwaitBearsAShortOutageAndReportsALongOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, l, g, await := awaitSetup(t)
		l.down.Store(true)
		waiting := await(t.Context())
		synctest.Wait()
		l.down.Store(false)
		pass(time.Second)
		require.NoError(t, g.Consume(t.Context(), nil))
		require.NoError(t, (<-waiting).err)

		l.down.Store(true)
		var se *dedup.StoreError
		require.ErrorAs(t, (<-await(t.Context())).err, &se)
	})
}

func TestAwaitNeedsAStoreThatCanBeRead(t *testing.T) {
	t.Parallel()
	d, _, _ := setup(t, dedup.Config{}) // its store hides what memstore can do beyond a dedup.Store
	_, err := d.Await(t.Context(), key)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
