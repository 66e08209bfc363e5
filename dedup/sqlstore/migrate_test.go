package sqlstore

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

func TestManyProcessesMigrateAtOnce(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		db := emptyDB(t, d)
		errs := make(chan error)
		const processes = 8
		for range processes {
			go func() { errs <- Migrate(t.Context(), db, d) }()
		}
		for range processes {
			require.NoError(t, <-errs)
		}
		open(t, db, d, Config{})
		var applied int
		require.NoError(t, db.QueryRowContext(testContext(t), "SELECT count(*) FROM idemq_schema").Scan(&applied))
		versions, err := dialects[d].migrations()
		require.NoError(t, err)
		assert.Len(t, versions, applied, "each version was applied once")
	})
}

func TestAnOlderSchemaIsMigratedAndANewerOneRefused(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		db := emptyDB(t, d)
		ctx := testContext(t)
		is := func(err error, text string) {
			t.Helper()
			require.ErrorIs(t, err, ErrSchema)
			require.ErrorContains(t, err, text)
		}
		_, err := New(ctx, db, d, Config{})
		is(err, "there is none in this database; run sqlstore.Migrate")

		require.NoError(t, migrateTo(ctx, db, d, 1))
		_, err = New(ctx, db, d, Config{})
		is(err, "run sqlstore.Migrate")
		key := dedup.Key{Scope: "s", ID: "1"}
		s := &Store{db: db, dialect: dialects[d], st: dialects[d].statements(), sweepAfter: -1}
		_, _, err = s.Acquire(ctx, dedup.Claim{Key: key, Nonce: "a", Lease: 1e9, Retention: 1e12})
		require.NoError(t, err)
		require.NoError(t, Migrate(ctx, db, d))
		require.NoError(t, Migrate(ctx, db, d))
		r, err := open(t, db, d, Config{}).Get(ctx, key)
		require.NoError(t, err)
		assert.Equal(t, dedup.Acquired, r.State, "a migration forgets nothing")

		_, err = db.ExecContext(ctx, "INSERT INTO idemq_schema (version) VALUES (1000)")
		require.NoError(t, err)
		_, err = New(ctx, db, d, Config{})
		is(err, "use a newer build")
		is(Migrate(ctx, db, d), "use a newer build")
	})
}

// A migration that fails leaves nothing behind, and says which one it is.
func TestAFailedMigrationChangesNothing(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		db := emptyDB(t, d)
		ctx := testContext(t)
		_, err := db.ExecContext(ctx, "CREATE TABLE idemq_fences (mine int)")
		require.NoError(t, err)
		require.ErrorContains(t, Migrate(ctx, db, d), "version 2")
		_, err = New(ctx, db, d, Config{})
		require.ErrorIs(t, err, ErrSchema)
		_, err = db.ExecContext(ctx, "SELECT 1 FROM idemq_records")
		require.Error(t, err)
	})
}

func TestWhatNewRefuses(t *testing.T) {
	t.Parallel()
	_, err := New(context.Background(), nil, Postgres, Config{})
	require.ErrorIs(t, err, dedup.ErrConfig)
	_, err = New(context.Background(), new(sql.DB), 7, Config{})
	require.ErrorIs(t, err, dedup.ErrConfig)
	require.ErrorIs(t, Migrate(context.Background(), nil, 7), dedup.ErrConfig)
}

func TestDescribe(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		db := testDB(t, d)
		assert.Regexp(t, map[Dialect]string{Postgres: `^postgres://[^@]+:\d+/idemq_test_\w+$`, SQLite: `^sqlite:///.*/idemq\.db$`}[d],
			open(t, db, d, Config{}).Describe())
		assert.Equal(t, "here", open(t, db, d, Config{Description: "here"}).Describe())
	})
}
