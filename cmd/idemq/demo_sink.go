package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/sqlstore"
)

// effect is one effect that a worker has had.
type effect struct {
	key   string
	fence dedup.Fence
	pid   int
}

// demoSink is where a worker's effects go.
type demoSink interface {
	// add has the effect of a message. While hold says so it does not return, but stands at the moment that a kill does
	// the most harm to, until the context ends.
	add(ctx context.Context, m *consumer.Message, hold func(context.Context) error) error
}

// journalSink writes each effect as a line in one go, which SIGKILL cannot take back. It is no part of the store: a kill
// between effect and record repeats the effect.
type journalSink struct{ w io.Writer }

func (s journalSink) add(ctx context.Context, m *consumer.Message, hold func(context.Context) error) error {
	if _, err := fmt.Fprintf(s.w, "effect %s %d %d\n", m.Key, m.Fence, os.Getpid()); err != nil {
		return err
	}
	return hold(ctx)
}

// tableSink inserts each effect in the database that the store is, or that stands behind it, and settles in the same transaction: both are there, or
// neither is.
type tableSink struct {
	db   *sqlDB
	name string
}

func (s tableSink) add(ctx context.Context, m *consumer.Message, hold func(context.Context) error) (err error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, "INSERT INTO "+s.name+" (id, fence, pid) VALUES ($1, $2, $3)", m.Key, int64(m.Fence), os.Getpid()) //nolint:gosec // a fence is at most 2^53; the table's name is ours
	if err != nil {
		return err
	}
	if err := dedup.SettleTx(ctx, tx); err != nil {
		return err
	}
	if s.db.dialect == sqlstore.Postgres { // an open transaction locks its own rows; in SQLite, the whole file
		if err := hold(ctx); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return hold(ctx)
}

func (s tableSink) create(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, "CREATE TABLE "+s.name+" (id text NOT NULL, fence bigint NOT NULL, pid bigint NOT NULL)")
	if err != nil {
		return fmt.Errorf("table for the demo's effects: %w", err)
	}
	return nil
}

func (s tableSink) drop(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, "DROP TABLE IF EXISTS "+s.name)
	return err
}

func (s tableSink) effects(ctx context.Context) (out []effect, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT id, fence, pid FROM "+s.name) //nolint:gosec // the name is ours
	if err != nil {
		return nil, fmt.Errorf("effects of the demo: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var e effect
		var fence int64
		if err := rows.Scan(&e.key, &fence, &e.pid); err != nil {
			return nil, err
		}
		e.fence = dedup.Fence(fence) //nolint:gosec // it was one before
		out = append(out, e)
	}
	return out, rows.Err()
}

// demoTable is the name of a table of the demo's own.
func demoTable(id string) string { return "idemq_" + strings.ToLower(id) }

// openDemoStore opens the store; with a database, alone or behind a fast store, also the table for the demo's effects, which
// may not be there yet.
func (a *app) openDemoStore(ctx context.Context, js jetstream.JetStream, id string) (dedup.Store, *tableSink, func(), error) {
	base := a.database()
	if base == nil {
		s, closeStore, err := a.openStore(ctx, js)
		return s, nil, closeStore, err
	}
	db, closeStore, err := base.openSQL(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	s := dedup.Store(db.store)
	if !a.isSQL() {
		if s, closeStore, err = a.inFrontOf(ctx, js, s, closeStore); err != nil {
			return nil, nil, nil, err
		}
	}
	return s, &tableSink{db, demoTable(id)}, closeStore, nil
}

// effects are those of all workers, killed ones included.
func (d *demoRun) effects(ctx context.Context) (out []effect, err error) {
	if d.table != nil {
		return d.table.effects(ctx)
	}
	for i := 1; i <= d.started; i++ {
		j, err := readJournal(filepath.Join(d.dir, fmt.Sprintf("journal-%d", i)))
		if err != nil {
			return nil, err
		}
		out = append(out, j.effects...)
	}
	return out, nil
}
