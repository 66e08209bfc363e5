package consumer_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/sqlstore"
)

// txBench is a pipeline whose records and effects are in one SQLite database.
type txBench struct {
	*bench
	db     *sql.DB
	store  *sqlstore.Store
	flowed bool // deliveries go through a flow
}

// both runs a test for deliveries one by one, and through a flow, which settles many at once where it may.
func both(t *testing.T, f func(t *testing.T, flowed bool)) {
	t.Helper()
	t.Parallel()
	for name, flowed := range map[string]bool{"process": false, "flow": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, flowed)
		})
	}
}

func (b *txBench) process(d *delivery) []string {
	b.t.Helper()
	if !b.flowed {
		return b.bench.process(d)
	}
	flow := b.p.Flow(b.t.Context(), 1, nil)
	flow.Offer(d, false)
	require.Eventually(b.t, flow.Idle, time.Minute, time.Millisecond)
	flow.Stop()
	<-flow.Done()
	return d.said()
}

func setupTx(t *testing.T, flowed, must bool, h func(ctx context.Context, tx *sql.Tx) error) *txBench {
	t.Helper()
	dsn := "file:" + filepath.Join(t.TempDir(), "idemq.db") + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)"
	db, err := sql.Open("sqlite", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	require.NoError(t, sqlstore.Migrate(t.Context(), db, sqlstore.SQLite))
	_, err = db.ExecContext(t.Context(), "CREATE TABLE effects (id TEXT)")
	require.NoError(t, err)
	b := &txBench{bench: &bench{t: t, letters: &letterbox{}}, db: db, flowed: flowed}
	b.store, err = sqlstore.New(t.Context(), db, sqlstore.SQLite, sqlstore.Config{})
	require.NoError(t, err)
	d, err := dedup.New(b.store, dedup.Config{SettleInTx: must})
	require.NoError(t, err)
	handler := consumer.HandlerFunc(func(ctx context.Context, _ *consumer.Message) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := tx.ExecContext(ctx, "INSERT INTO effects VALUES ('1')"); err != nil {
			return err
		}
		return h(ctx, tx)
	})
	b.p, err = consumer.New(d, scope, handler, consumer.Config{Letters: b.letters, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return b
}

func (b *txBench) is(effects int, state dedup.State) {
	b.t.Helper()
	var n int
	require.NoError(b.t, b.db.QueryRowContext(b.t.Context(), "SELECT count(*) FROM effects").Scan(&n))
	assert.Equal(b.t, effects, n)
	r, err := b.store.Get(b.t.Context(), dedup.Key{Scope: scope, ID: "k"})
	require.NoError(b.t, err)
	assert.Equal(b.t, state, r.State)
}

func TestAHandlerSettlesInItsTransaction(t *testing.T) {
	both(t, func(t *testing.T, flowed bool) {
		b := setupTx(t, flowed, true, func(ctx context.Context, tx *sql.Tx) error {
			return errors.Join(dedup.SettleTx(ctx, tx), tx.Commit())
		})
		assert.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		assert.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		b.is(1, dedup.Consumed)
		assert.EqualValues(t, 1, b.p.Stats().Executed)
	})
}

func TestAnAckNeedsTheCommit(t *testing.T) {
	both(t, func(t *testing.T, flowed bool) {
		b := setupTx(t, flowed, true, func(ctx context.Context, tx *sql.Tx) error {
			return dedup.SettleTx(ctx, tx) // and tx is rolled back
		})
		assert.Equal(t, []string{"nak"}, b.process(b.message("k", "x")))
		b.is(0, dedup.Failed)
		assert.EqualValues(t, 1, b.p.Stats().Retried)
	})
}

func TestAHandlerThatForgotToSettleMakesADeadLetterAtOnce(t *testing.T) {
	both(t, func(t *testing.T, flowed bool) {
		b := setupTx(t, flowed, true, func(_ context.Context, tx *sql.Tx) error { return tx.Commit() })
		assert.Equal(t, []string{"term"}, b.process(b.message("k", "x")))
		b.is(1, dedup.DeadSent)
		require.Len(t, b.letters.letters, 1)
		assert.Equal(t, dedup.Permanent, b.letters.letters[0].Class)
		assert.Contains(t, b.letters.letters[0].Error, "SettleTx")
		assert.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
		b.is(1, dedup.DeadSent)
	})
}

func TestAnErrorAfterTheCommitIsAcknowledged(t *testing.T) {
	both(t, func(t *testing.T, flowed bool) {
		for name, err := range map[string]error{"retryable": errHandler, "permanent": consumer.Permanent(errHandler)} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := setupTx(t, flowed, false, func(ctx context.Context, tx *sql.Tx) error {
					return errors.Join(dedup.SettleTx(ctx, tx), tx.Commit(), err)
				})
				assert.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
				b.is(1, dedup.Consumed)
			})
		}
	})
}
