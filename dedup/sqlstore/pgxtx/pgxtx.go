// Package pgxtx lets handlers that use pgx natively settle in their transactions. It stands apart from sqlstore so that
// users of database/sql do not compile pgx.
//
//	err := dedup.SettleTx(ctx, pgxtx.Of(tx))     // one statement in a pgx.Tx
//	err := dedup.SettleTx(ctx, pgxtx.Queue(&b))  // one more statement in a pgx.Batch: no round trip of its own
//
// The store is a sqlstore.Store on the same database, with a pool of database/sql of its own (pgx's package stdlib, for
// instance stdlib.OpenDBFromPool).
package pgxtx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/idemq/idemq/dedup"
)

// Of makes a dedup.Tx of a pgx transaction. It is as safe for concurrent use as that, which is not at all.
func Of(tx pgx.Tx) dedup.Tx { return transaction{tx} }

type transaction struct{ tx pgx.Tx }

// ExecContext executes the statement in the transaction.
func (t transaction) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	tag, err := t.tx.Exec(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(tag.RowsAffected()), nil
}

// Queue makes a dedup.Tx that puts the statement into a batch, which the caller sends in its transaction together with
// the effect. The answer comes with the batch's: if the claim is lost the server refuses the statement and with it the
// whole transaction, so that Commit cannot succeed. Read the results of the batch (Close is enough) before Commit.
//
// It is for [dedup.SettleTx] and the store's own methods only; sqlstore.Once and Newest need the answer at once.
func Queue(b *pgx.Batch) dedup.Tx { return batch{b} }

type batch struct{ b *pgx.Batch }

// ExecContext queues the statement.
func (t batch) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.b.Queue(query, args...)
	return queued{}, nil
}

type queued struct{}

var errQueued = errors.New("pgxtx: the statement is only queued; nobody knows yet how many rows it will change")

// LastInsertId is unknown.
func (queued) LastInsertId() (int64, error) { return 0, errQueued }

// RowsAffected is unknown.
func (queued) RowsAffected() (int64, error) { return 0, errQueued }
