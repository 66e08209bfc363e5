package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/idemq/idemq/internal/testserver"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(envWorker); spec != "" {
		if err := worker(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testserver.Main(m, testserver.VerifyLeaks())
}

const (
	patience = 30 * time.Second
	tick     = 5 * time.Millisecond
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// sqliteDSN names a database file with the settings that the package comment advises.
func sqliteDSN(file string) string {
	return "file:" + file + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)" // no test loses power
}

func openSQLite(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// emptyDB is a database without a schema, of the test's own.
func emptyDB(t testing.TB, d Dialect) *sql.DB {
	t.Helper()
	if d == SQLite {
		return openSQLite(t, sqliteDSN(filepath.Join(t.TempDir(), "idemq.db")))
	}
	return testserver.Postgres(t).DB(t)
}

// testDB is a database with the schema.
func testDB(t testing.TB, d Dialect) *sql.DB {
	t.Helper()
	db := emptyDB(t, d)
	require.NoError(t, Migrate(testContext(t), db, d))
	return db
}

func open(t testing.TB, db *sql.DB, d Dialect, cfg Config) *Store {
	t.Helper()
	s, err := New(testContext(t), db, d, cfg)
	require.NoError(t, err)
	return s
}

// eachDialect runs a test on both kinds of databases.
func eachDialect(t *testing.T, f func(t *testing.T, d Dialect)) {
	t.Helper()
	t.Parallel()
	for _, d := range []Dialect{SQLite, Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			f(t, d)
		})
	}
}
