package sqlstore

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

// The store tells nobody of a change, so who waits for an outcome asks.
func TestAwaitAsksADatabase(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w, c := newCounting(t, kind)
		ctx := testContext(t)
		g, _, err := w.d.Begin(ctx, testKey, dedup.Fingerprint{})
		require.NoError(t, err)
		type answer struct {
			out dedup.Outcome
			err error
		}
		got := make(chan answer)
		before := c.n.Load()
		go func() {
			out, err := w.d.Await(ctx, testKey)
			got <- answer{out, err}
		}()
		require.Eventually(t, func() bool { return c.n.Load() >= before+3 }, patience, tick, "it asks again and again")
		require.NoError(t, g.Consume(ctx, []byte("receipt")))
		a := <-got
		require.NoError(t, a.err)
		assert.Equal(t, dedup.Duplicate, a.out.Verdict)
		assert.Equal(t, "receipt", string(a.out.Result()))
	})
}

// The core refuses steps as large as that by default; a database takes them.
func TestAStepOf10MB(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{})
		ctx := testContext(t) // two minutes, where the core's time limit for a call of the store is short
		r := w.granted(t, "1", "a")
		large := bytes.Repeat([]byte("x"), 10<<20)
		require.NoError(t, w.SaveStep(ctx, hold(r), dedup.SavedStep{Name: "large", Data: large}))
		steps, err := w.Steps(ctx, r.Key)
		require.NoError(t, err)
		require.Len(t, steps, 1)
		assert.True(t, bytes.Equal(large, steps[0].Data))
	})
}

// An open transaction holds off the heartbeats (on Postgres by the row, on SQLite by the file), so the claim is lost with its
// lease. That cancels the handler's context, and with it the transaction.
func TestATransactionThatOutlastsTheLeaseIsRolledBack(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{Lease: time.Second})
		ctx := testContext(t)
		_, err := w.d.Do(ctx, testKey, func(ctx context.Context) ([]byte, error) {
			tx := w.begin(t, ctx)
			require.NoError(t, effect(ctx, tx, "1"))
			require.NoError(t, dedup.SettleTx(ctx, tx))
			<-ctx.Done()
			return nil, tx.Commit()
		})
		require.Error(t, err)
		assert.Zero(t, w.effects(t))
		require.Eventually(t, func() bool {
			out, err := w.d.Do(ctx, testKey, func(ctx context.Context) ([]byte, error) {
				tx := w.begin(t, ctx)
				if err := effect(ctx, tx, "1"); err != nil {
					return nil, err
				}
				if err := dedup.SettleTx(ctx, tx); err != nil {
					return nil, err
				}
				return nil, tx.Commit()
			})
			return err == nil && out.Record.State == dedup.Consumed
		}, time.Minute, 50*time.Millisecond, "another one does it")
		assert.Equal(t, 1, w.effects(t))
	})
}
