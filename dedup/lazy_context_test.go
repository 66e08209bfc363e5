package dedup

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errReason = errors.New("a reason")

// Whenever the channel is asked for, before or after the end, the context tells the same as one of package context.
func TestLazyContext(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit      time.Duration
		end        func(*lazyContext, context.CancelCauseFunc)
		err, cause error
	}{
		"goes on":             {time.Hour, func(*lazyContext, context.CancelCauseFunc) {}, nil, nil},
		"ended":               {time.Hour, func(c *lazyContext, _ context.CancelCauseFunc) { c.end(nil); c.end(errReason) }, context.Canceled, context.Canceled},
		"ended with a reason": {time.Hour, func(c *lazyContext, _ context.CancelCauseFunc) { c.end(errReason); c.end(nil) }, context.Canceled, errReason},
		"its time is over":    {time.Second, func(*lazyContext, context.CancelCauseFunc) { <-time.After(time.Second) }, context.DeadlineExceeded, context.DeadlineExceeded},
		"its parent ended":    {time.Hour, func(_ *lazyContext, cancel context.CancelCauseFunc) { cancel(errReason) }, context.Canceled, errReason},
	} {
		for _, early := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), contextKey{}, &claimInfo{attempt: 7}))
					defer cancel(nil)
					ctx := withLimit(parent, time.Now(), c.limit)
					defer ctx.end(nil)
					var child context.Context
					if early {
						var stop context.CancelFunc
						child, stop = context.WithCancel(ctx)
						defer stop()
						require.NotNil(t, ctx.Done())
					}
					deadline, ok := ctx.Deadline()
					assert.True(t, ok)
					assert.Equal(t, c.limit, time.Until(deadline))
					c.end(ctx, cancel)
					synctest.Wait()
					require.Equal(t, c.err, ctx.Err())
					require.Equal(t, c.cause, context.Cause(ctx))
					require.Equal(t, c.err, ctx.Err())
					select {
					case <-ctx.Done():
						require.Error(t, c.err)
					default:
						require.NoError(t, c.err)
					}
					require.Equal(t, c.err, ctx.Err(), "after the channel was asked for")
					if child != nil {
						require.Equal(t, c.err, child.Err())
						require.Equal(t, c.cause, context.Cause(child))
					}
					require.Equal(t, 7, AttemptFrom(ctx))
				})
			})
		}
	}
}

func TestLazyContextHasTheEarlierDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ctx := withLimit(parent, time.Now(), time.Minute)
		defer ctx.end(nil)
		deadline, _ := ctx.Deadline()
		assert.Equal(t, time.Second, time.Until(deadline))
		<-ctx.Done()
		assert.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
		none := &lazyContext{parent: context.Background()}
		_, ok := none.Deadline()
		assert.False(t, ok)
		assert.NoError(t, none.Err())
	})
}

// What a claim costs beyond its store: the guard, a context for each of two calls, the nonce, and one for the two contexts.
func TestAClaimAllocatesLittle(t *testing.T) {
	d, err := New(grantingStore{}, Config{})
	require.NoError(t, err)
	ctx, k := t.Context(), Key{Scope: "s", ID: "k"}
	const budget = 5
	require.LessOrEqual(t, testing.AllocsPerRun(200, func() {
		g, _, err := d.Begin(ctx, k, Fingerprint{})
		if err != nil {
			t.Error(err)
			return
		}
		g.Start(nil)
		if err := g.Consume(g.Context(), nil); err != nil {
			t.Error(err)
		}
	}), float64(budget))
}
