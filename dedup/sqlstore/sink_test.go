package sqlstore

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

var errCrash = errors.New("crash after the effect")

// A keyed sink counts effects although the key is never settled; a sink that orders writers does not.
func TestOnceCountsEffectsAndNewestOrdersWriters(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{})
		ctx := testContext(t)
		for _, c := range []struct {
			id      string
			sink    func(ctx context.Context, tx dedup.Tx) (bool, error)
			effects int
		}{
			{"once", func(ctx context.Context, tx dedup.Tx) (bool, error) { return Once(ctx, tx, kind, "charge") }, 1},
			{"newest", func(ctx context.Context, tx dedup.Tx) (bool, error) { return true, Newest(ctx, tx, kind, "state") }, 3},
		} {
			before := w.effects(t)
			for range 3 {
				_, err := w.d.Do(ctx, dedup.Key{Scope: "s", ID: c.id}, func(ctx context.Context) ([]byte, error) {
					tx := w.begin(t, ctx)
					first, err := c.sink(ctx, tx)
					require.NoError(t, err)
					if first {
						require.NoError(t, effect(ctx, tx, c.id))
					}
					require.NoError(t, tx.Commit())
					return nil, errCrash
				})
				require.ErrorIs(t, err, errCrash)
			}
			assert.Equal(t, c.effects, w.effects(t)-before, c.id)
		}

		var old, now context.Context
		k := dedup.Key{Scope: "s", ID: "overtaken"}
		for _, at := range []*context.Context{&old, &now} {
			g, _, err := w.d.Begin(ctx, k, dedup.Fingerprint{})
			require.NoError(t, err)
			*at = context.WithoutCancel(g.Context())
			require.NoError(t, g.Release(ctx, dedup.Release{}))
		}
		tx := w.begin(t, ctx)
		require.NoError(t, Newest(now, tx, kind, "state"))
		require.NoError(t, Newest(now, tx, kind, "state"), "the same owner may write more")
		require.ErrorIs(t, Newest(old, tx, kind, "state"), ErrStaleFence)
		require.NoError(t, Newest(old, tx, kind, "another state"))
	})
}

func TestSinksNeedAKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, SQLite, dedup.Config{})
	tx := w.begin(t, testContext(t))
	_, err := Once(testContext(t), tx, SQLite, "x")
	require.ErrorIs(t, err, dedup.ErrNoClaim)
	untracked := dedup.WithUntracked(testContext(t), testKey)
	first, err := Once(untracked, tx, SQLite, "x")
	require.NoError(t, err)
	assert.True(t, first, "an untracked run is safe here too")
	require.ErrorIs(t, Newest(untracked, tx, SQLite, "x"), dedup.ErrNoClaim, "it has no fence")
}
