package tieredstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/sqlstore"
	"github.com/idemq/idemq/dedup/tieredstore"
	"github.com/idemq/idemq/internal/testserver"
)

func sqlTier(t *testing.T) (*sql.DB, *sqlstore.Store) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "durable.db")+
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	require.NoError(t, sqlstore.Migrate(t.Context(), db, sqlstore.SQLite))
	s, err := sqlstore.New(t.Context(), db, sqlstore.SQLite, sqlstore.Config{})
	require.NoError(t, err)
	return db, s
}

func TestConformanceOfRedisOverSQL(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T) dedup.Store {
		_, s := sqlTier(t)
		return s
	})
}

func TestConformanceOfRedisOverPostgres(t *testing.T) {
	t.Parallel()
	address := testserver.Postgres(t).Database(t)
	admin, err := sql.Open("pgx", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close() })
	var n atomic.Int64
	onRedis(t, func(t *testing.T) dedup.Store { // a new fast tier before a durable one that is not new has lost everything
		schema := fmt.Sprint("tier", n.Add(1))
		_, err := admin.ExecContext(t.Context(), "CREATE SCHEMA "+schema)
		require.NoError(t, err)
		db, err := sql.Open("pgx", address+"&search_path="+schema)
		require.NoError(t, err)
		t.Cleanup(func() { _ = db.Close() })
		require.NoError(t, sqlstore.Migrate(t.Context(), db, sqlstore.Postgres))
		s, err := sqlstore.New(t.Context(), db, sqlstore.Postgres, sqlstore.Config{})
		require.NoError(t, err)
		return s
	})
}

// shop is a database with a table for effects, behind a fast tier that can be lost.
type shop struct {
	t  *testing.T
	db *sql.DB
	d  *sqlstore.Store
}

func newShop(t *testing.T) *shop {
	t.Helper()
	db, s := sqlTier(t)
	_, err := db.ExecContext(t.Context(), "CREATE TABLE effects (id text NOT NULL)")
	require.NoError(t, err)
	return &shop{t, db, s}
}

// worker is a process with its own view of a fast tier.
func (s *shop) worker(fast dedup.Store) *dedup.Deduper {
	s.t.Helper()
	ts, err := tieredstore.New(fast, s.d, tieredstore.Config{Quarantine: time.Nanosecond})
	require.NoError(s.t, err)
	d, err := dedup.New(ts, dedup.Config{Lease: time.Minute, SettleInTx: true})
	require.NoError(s.t, err)
	return d
}

// sell has the effect and settles, in one transaction.
func (s *shop) sell(ctx context.Context, end error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, "INSERT INTO effects VALUES (?)", dedup.KeyFrom(ctx).ID); err != nil {
		return err
	}
	if err := dedup.SettleTx(ctx, tx); err != nil {
		return err
	}
	if end != nil {
		return end
	}
	return tx.Commit()
}

func (s *shop) effects() (n int) {
	s.t.Helper()
	require.NoError(s.t, s.db.QueryRowContext(s.t.Context(), "SELECT count(*) FROM effects").Scan(&n))
	return n
}

func TestAHandlerSettlesInTheDurableDatabase(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	fast := memstore.New(memstore.Config{})
	d := s.worker(fast)
	k := dedup.Key{Scope: "s", ID: "k"}
	failure := errors.New("no")
	run := func(end error) (dedup.Outcome, error) {
		return d.Do(t.Context(), k, func(ctx context.Context) ([]byte, error) { return nil, s.sell(ctx, end) })
	}
	_, err := run(failure)
	require.ErrorIs(t, err, failure)
	assert.Zero(t, s.effects(), "rolled back")
	out, err := run(nil)
	require.NoError(t, err)
	assert.Equal(t, dedup.Granted, out.Verdict, "what was rolled back is not consumed")
	r, err := fast.Get(t.Context(), k)
	require.NoError(t, err)
	assert.Equal(t, dedup.Consumed, r.State, "the fast tier is warm")
	out, err = run(nil)
	require.NoError(t, err)
	assert.Equal(t, dedup.Duplicate, out.Verdict)
	assert.Equal(t, 1, s.effects())

	out, err = s.worker(memstore.New(memstore.Config{})).Do(t.Context(), k, func(context.Context) ([]byte, error) { panic("it runs again") })
	require.NoError(t, err)
	assert.Equal(t, dedup.Duplicate, out.Verdict, "a fast tier that has lost everything asks the durable one")
}

// The fast tier has forgotten a claim that is being worked on. Both that hold it now try; one commits.
func TestOnlyOneOfTwoHoldersCommits(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	k := dedup.Key{Scope: "s", ID: "k"}
	first := s.worker(memstore.New(memstore.Config{}))
	second := s.worker(memstore.New(memstore.Config{})) // a fast tier without that claim
	out, err := first.Do(t.Context(), k, func(ctx context.Context) ([]byte, error) {
		require.Eventually(t, func() bool { // it grants nothing for a moment, since its fast tier has lost everything
			out, err := second.Do(ctx, k, func(ctx context.Context) ([]byte, error) { return nil, s.sell(ctx, nil) })
			return err == nil && out.Verdict == dedup.Granted
		}, time.Minute, time.Millisecond)
		return nil, s.sell(ctx, nil)
	})
	require.ErrorIs(t, err, dedup.ErrSettledElsewhere)
	assert.Equal(t, dedup.Granted, out.Verdict)
	assert.Equal(t, 1, s.effects())
	out, err = first.Do(t.Context(), k, func(context.Context) ([]byte, error) { panic("it runs again") })
	require.NoError(t, err)
	assert.Equal(t, dedup.Duplicate, out.Verdict)
}

func TestADurableTierWithoutTransactionsIsNamed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	ts, err := tieredstore.New(memstore.New(memstore.Config{}), memstore.New(memstore.Config{}), tieredstore.Config{Quarantine: time.Nanosecond})
	require.NoError(t, err)
	d, err := dedup.New(ts, dedup.Config{})
	require.NoError(t, err)
	_, err = d.Do(t.Context(), dedup.Key{Scope: "s", ID: "k"}, func(ctx context.Context) ([]byte, error) { return nil, s.sell(ctx, nil) })
	require.ErrorIs(t, err, dedup.ErrConfig)
	assert.ErrorContains(t, err, "use sqlstore")
	assert.Zero(t, s.effects())
}
