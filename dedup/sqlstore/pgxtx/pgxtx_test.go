package pgxtx_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/sqlstore"
	"github.com/idemq/idemq/dedup/sqlstore/pgxtx"
	"github.com/idemq/idemq/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m, testserver.VerifyLeaks()) }

var key = dedup.Key{Scope: "s", ID: "order-1"}

// world is a pgx pool, and a store on the same pool.
type world struct {
	pool  *pgxpool.Pool
	store *sqlstore.Store
	d     *dedup.Deduper
}

func newWorld(t *testing.T, tracer pgx.QueryTracer) world {
	t.Helper()
	ctx := testContext(t)
	cfg, err := pgxpool.ParseConfig(testserver.Postgres(t).Database(t))
	require.NoError(t, err)
	cfg.ConnConfig.Tracer = tracer
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	require.NoError(t, sqlstore.Migrate(ctx, db, sqlstore.Postgres))
	_, err = pool.Exec(ctx, "CREATE TABLE effects (id text)")
	require.NoError(t, err)
	w := world{pool: pool}
	w.store, err = sqlstore.New(ctx, db, sqlstore.Postgres, sqlstore.Config{})
	require.NoError(t, err)
	w.d, err = dedup.New(w.store, dedup.Config{SettleInTx: true})
	require.NoError(t, err)
	return w
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (w world) effects(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, w.pool.QueryRow(testContext(t), "SELECT count(*) FROM effects").Scan(&n))
	return n
}

func TestSettleInAPgxTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ctx := testContext(t)
	run := func(ctx context.Context) ([]byte, error) {
		return nil, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO effects VALUES ('1')"); err != nil {
				return err
			}
			return dedup.SettleTx(ctx, pgxtx.Of(tx))
		})
	}
	for _, want := range []dedup.Verdict{dedup.Granted, dedup.Duplicate} {
		out, err := w.d.Do(ctx, key, run)
		require.NoError(t, err)
		assert.Equal(t, want, out.Verdict)
	}
	assert.Equal(t, 1, w.effects(t))
}

// batches counts what is sent.
type batches struct{ batches, queries int }

func (b *batches) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	b.queries++
	return ctx
}
func (b *batches) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (b *batches) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	b.batches++
	return ctx
}
func (b *batches) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (b *batches) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// The effect and the settlement go to the server together, and a lost claim takes the effect with it.
func TestSettleInABatchCostsNoRoundTrip(t *testing.T) {
	t.Parallel()
	sent := &batches{}
	w := newWorld(t, sent)
	ctx := testContext(t)
	write := func(ctx context.Context, settle func(dedup.Tx) error) error {
		return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			before := *sent
			var b pgx.Batch
			b.Queue("INSERT INTO effects VALUES ('1')")
			if err := settle(pgxtx.Queue(&b)); err != nil {
				return err
			}
			err := tx.SendBatch(ctx, &b).Close()
			assert.Equal(t, batches{batches: 1}, batches{batches: sent.batches - before.batches, queries: sent.queries - before.queries})
			return err
		})
	}
	out, err := w.d.Do(ctx, key, func(ctx context.Context) ([]byte, error) {
		return nil, write(ctx, func(tx dedup.Tx) error { return dedup.SettleTx(ctx, tx) })
	})
	require.NoError(t, err)
	assert.Equal(t, dedup.Granted, out.Verdict)
	r, err := w.store.Get(ctx, key)
	require.NoError(t, err)
	require.Equal(t, dedup.Consumed, r.State)
	assert.Equal(t, 1, w.effects(t))

	err = write(ctx, func(tx dedup.Tx) error {
		return w.store.SettleTx(ctx, tx, r, dedup.Settlement{State: dedup.Consumed, Retention: time.Hour})
	})
	require.ErrorContains(t, err, "lease lost")
	assert.Equal(t, 1, w.effects(t), "it was not committed")
}
