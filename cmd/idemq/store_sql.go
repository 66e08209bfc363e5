package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/idemq/idemq/dedup/sqlstore"
)

// sqlDB is an open database with the store in it.
type sqlDB struct {
	*sql.DB
	dialect sqlstore.Dialect
	store   *sqlstore.Store
}

// errNoFile: a file that must be there is not.
var errNoFile = errors.New("there is no such file")

// sqlSource says how to open the database at an address, without opening it. A file that must be there is never made.
func sqlSource(address string, mustExist bool) (open func() (*sql.DB, error), d sqlstore.Dialect, err error) {
	kind, rest, _ := strings.Cut(address, "://")
	if kind != storeSQLite {
		cfg, err := pgx.ParseConfig(address)
		if err != nil { // its text may show the password
			return nil, 0, fmt.Errorf("the address of the database %s cannot be read; write postgres://USER:PASSWORD@HOST:5432/DB, with special characters percent-encoded", redact(address))
		}
		return func() (*sql.DB, error) { return stdlib.OpenDB(*cfg), nil }, sqlstore.Postgres, nil
	}
	file, query, _ := strings.Cut(rest, "?")
	if file == "" || query != "" {
		return nil, 0, errors.New("write sqlite://FILE, without parameters: sqlite://orders.db is in the current folder, sqlite:///var/lib/orders.db is not")
	}
	mode := "rwc"
	if mustExist {
		mode = "rw"
	}
	// Writers wait for each other instead of failing; readers do not wait at all.
	const settings = "&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_txlock=immediate"
	return func() (*sql.DB, error) {
		if mustExist {
			if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("%w: %s", errNoFile, file)
			}
		}
		return sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+"?mode="+mode+settings)
	}, sqlstore.SQLite, nil
}

// openSQL opens the database of the store, whose tables must be there.
func (a *app) openSQL(ctx context.Context) (*sqlDB, func(), error) {
	open, d, err := sqlSource(a.store, true)
	if err != nil {
		return nil, nil, &exitError{exitUsage, err}
	}
	db, err := open()
	if err != nil {
		return nil, nil, a.sqlError(err)
	}
	s := &sqlDB{DB: db, dialect: d}
	err = a.patiently(ctx, func(ctx context.Context) (err error) {
		if s.store, err = sqlstore.New(ctx, db, d, sqlstore.Config{}); errors.Is(err, sqlstore.ErrSchema) {
			return &exitError{exitFailed, err} // waiting does not mend it
		}
		return err
	})
	if err != nil {
		_ = db.Close()
		return nil, nil, a.sqlError(err)
	}
	return s, func() { _ = db.Close() }, nil
}

func (a *app) sqlError(err error) error {
	if errors.Is(err, errNoFile) || errors.Is(err, sqlstore.ErrSchema) {
		return fmt.Errorf("cannot use the store %s: %w; idemq store migrate %s makes it", redact(a.store), err, redact(a.store))
	}
	return fmt.Errorf("cannot use the store %s: %w", redact(a.store), err)
}

// migrate makes the tables of the store, or brings them up to date.
func (a *app) migrate(ctx context.Context) error {
	open, d, err := sqlSource(a.store, false)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	db, err := open()
	if err != nil {
		return a.sqlError(err)
	}
	defer func() { _ = db.Close() }()
	if err := a.patiently(ctx, db.PingContext); err != nil {
		return a.sqlError(err)
	}
	if err := sqlstore.Migrate(ctx, db, d); err != nil {
		return fmt.Errorf("cannot migrate %s: %w", redact(a.store), err)
	}
	return nil
}

// isSQL says whether the store that was asked for is a database.
func (a *app) isSQL() bool {
	switch kind, _, _ := strings.Cut(a.store, "://"); kind {
	case storePostgres, storePostgresQL, storeSQLite:
		return true
	default:
		return false
	}
}
