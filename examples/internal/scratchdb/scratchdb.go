// Package scratchdb gives an example a database that is empty, and gone when it ends.
package scratchdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/idemq/idemq/dedup/sqlstore"
)

// Open opens an empty database that closing removes: a file, or a schema of its own in the database at dbURL.
func Open(ctx context.Context, dbURL string) (*sql.DB, sqlstore.Dialect, func() error, error) {
	if dbURL == "" {
		dir, err := os.MkdirTemp("", "idemq-example-")
		if err != nil {
			return nil, 0, nil, err
		}
		db, err := sql.Open("sqlite", "file:"+url.PathEscape(filepath.Join(dir, "example.db"))+
			"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
		if err != nil {
			return nil, 0, nil, errors.Join(err, os.RemoveAll(dir))
		}
		return db, sqlstore.SQLite, func() error { return errors.Join(db.Close(), os.RemoveAll(dir)) }, nil
	}
	cfg, err := pgx.ParseConfig(dbURL)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("--db is not the URL of a Postgres: %w", err)
	}
	schema := fmt.Sprint("idemq_example_", time.Now().UnixNano())
	cfg.RuntimeParams["search_path"] = schema
	db := stdlib.OpenDB(*cfg)
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA "+schema); err != nil {
		return nil, 0, nil, errors.Join(fmt.Errorf("cannot make a schema: %w; give --db a Postgres where you may", err), db.Close())
	}
	return db, sqlstore.Postgres, func() error {
		_, err := db.ExecContext(context.WithoutCancel(ctx), "DROP SCHEMA "+schema+" CASCADE")
		return errors.Join(err, db.Close())
	}, nil
}
