package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/idemq/idemq/dedup"
)

//go:embed migrations
var migrationFiles embed.FS

// ErrSchema says that the database's schema is not the one that this build needs. The message says which it is, and what to do.
var ErrSchema = errors.New("sqlstore: the schema does not fit")

var errNoSchema = fmt.Errorf("%w: there is none in this database; run sqlstore.Migrate, or \"idemq store migrate\"", ErrSchema)

// migrationLock is the advisory lock under which one process at a time changes a Postgres schema.
const migrationLock = 0x1de30001

// statementSeparator stands between the statements of a migration.
const statementSeparator = "-- next statement\n"

// migrations returns the statements of each version, the first being version 1.
func (d *dialect) migrations() ([][]string, error) {
	dir := path.Join("migrations", d.name.String())
	files, err := fs.ReadDir(migrationFiles, dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var versions [][]string
	for i, f := range files {
		if !strings.HasPrefix(f.Name(), fmt.Sprintf("%04d_", i+1)) {
			return nil, fmt.Errorf("sqlstore: migration %s does not come after %d others", f.Name(), i)
		}
		text, err := migrationFiles.ReadFile(path.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		versions = append(versions, strings.Split(string(text), statementSeparator))
	}
	return versions, nil
}

// Migrate brings the database's schema to the version of this build, or makes it. It can be called by any number of
// processes at once, each time one starts, and changes nothing if there is nothing to change. All tables are idemq_…, in
// the schema that comes first on the connection's search_path. What was applied stands in idemq_schema.
//
// A schema that is newer than this build is an error that wraps [ErrSchema], and is left alone. On Postgres everything
// happens in one transaction under an advisory lock, so that it happens wholly or not at all; the context bounds the
// wait for it. On SQLite the transaction locks the whole database.
func Migrate(ctx context.Context, db *sql.DB, d Dialect) error {
	return migrateTo(ctx, db, d, 0)
}

// migrateTo stops at a version; 0 is the last one.
func migrateTo(ctx context.Context, db *sql.DB, kind Dialect, last int) error {
	d := dialects[kind]
	if d == nil {
		return fmt.Errorf("sqlstore: %w: the dialect is %d; use sqlstore.Postgres or sqlstore.SQLite", dedup.ErrConfig, kind)
	}
	versions, err := d.migrations()
	if err != nil {
		return err
	}
	if last > 0 {
		versions = versions[:last]
	}
	s := &Store{dialect: d}
	return s.again(ctx, func() error { return d.migrate(ctx, db, versions) })
}

func (d *dialect) migrate(ctx context.Context, db *sql.DB, versions [][]string) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	begin := []string{"BEGIN ISOLATION LEVEL READ COMMITTED", fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", migrationLock)}
	if d.name == SQLite {
		begin = []string{"BEGIN IMMEDIATE"}
	}
	defer func() {
		if err != nil {
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	run := func(statements ...string) error {
		for _, text := range statements {
			if _, err := conn.ExecContext(ctx, text); err != nil {
				return fmt.Errorf("sqlstore: migrate: %w", err)
			}
		}
		return nil
	}
	if err := run(append(begin, "CREATE TABLE IF NOT EXISTS idemq_schema (version integer PRIMARY KEY, applied_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP)")...); err != nil {
		return err
	}
	have, err := schemaVersion(ctx, conn)
	if err != nil {
		return fmt.Errorf("sqlstore: migrate: %w", err)
	}
	if have > len(versions) {
		return newerSchema(have, len(versions))
	}
	for v := have; v < len(versions); v++ {
		if err := run(versions[v]...); err != nil {
			return fmt.Errorf("version %d: %w", v+1, err)
		}
		if err := run(fmt.Sprintf("INSERT INTO idemq_schema (version) VALUES (%d)", v+1)); err != nil {
			return err
		}
	}
	return run("COMMIT")
}

// schemaVersion returns the version of the schema that is there.
func schemaVersion(ctx context.Context, q querier) (version int, err error) {
	rows, err := q.QueryContext(ctx, "SELECT coalesce(max(version), 0) FROM idemq_schema")
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	if rows.Next() {
		err = rows.Scan(&version)
	}
	return version, errors.Join(err, rows.Err())
}

func newerSchema(have, know int) error {
	return fmt.Errorf("%w: the database has version %d, this build knows %d; use a newer build", ErrSchema, have, know)
}

// checkSchema says whether a store of this build can work on the database.
func (d *dialect) checkSchema(ctx context.Context, q querier) error {
	versions, err := d.migrations()
	if err != nil {
		return err
	}
	have, err := schemaVersion(ctx, q)
	switch {
	case err != nil && d.missingTable(err):
		return errNoSchema
	case err != nil:
		return fmt.Errorf("sqlstore: the version of the schema could not be read: %w", err)
	case have == 0:
		return errNoSchema
	case have > len(versions):
		return newerSchema(have, len(versions))
	case have < len(versions):
		return fmt.Errorf("%w: the database has version %d, this build needs %d; run sqlstore.Migrate, or \"idemq store migrate\"", ErrSchema, have, len(versions))
	}
	return nil
}
