package dedup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Errors of settling in a transaction, for errors.Is.
var (
	// ErrNoClaim: SettleTx was called with a context that is not a handler's, or the handler runs untracked.
	ErrNoClaim = errors.New("dedup: there is no claim to settle: pass the handler's own context; an untracked run cannot settle")
	// ErrNotSettledInTx: Config.SettleInTx says that the handler settles in its transaction, and it returned without having
	// called SettleTx. Its effect may be committed, so running it again would repeat it.
	ErrNotSettledInTx = errors.New("dedup: the handler returned without calling SettleTx, which Config.SettleInTx demands of it; its effect may be done, its key is not consumed")
	// ErrNotCommitted: the handler returned without an error, but the transaction in which it settled was rolled back, or is
	// not committed yet. The key is not consumed.
	ErrNotCommitted = errors.New("dedup: the handler returned without an error, but the transaction in which it called SettleTx is not committed")
	// ErrSettledElsewhere: the key was settled by another claim, so that this transaction must be rolled back.
	ErrSettledElsewhere = errors.New("dedup: the key was settled by another claim; roll the transaction back")
)

// Tx executes one statement in a transaction of the caller's. *sql.Tx is one, and *sql.Conn in whose session a
// transaction was begun; package dedup/sqlstore/pgxtx makes one of a pgx.Tx or a pgx.Batch.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// TxSettler is a [Store] that can end a claim in a transaction of the handler's own database, together with the effect.
type TxSettler interface {
	// SettleTx executes one statement in tx that settles the claim which was granted with this record. It succeeds only
	// where this very call ends the claim, never repeated, for a second success would let a second effect commit. With an
	// error ([ErrLeaseLost], [ErrSettledElsewhere], or the driver's, as it is) the transaction must be rolled back.
	SettleTx(ctx context.Context, tx Tx, granted Record, s Settlement) error
	// Committed says whether the claim is settled in the database that SettleTx writes to, read so that a commit that was
	// acknowledged is seen. It is called once the handler has returned; a store with several tiers tells the others then.
	Committed(ctx context.Context, granted Record) (bool, error)
}

// SettleOption is an option of [SettleTx].
type SettleOption func(*Settlement)

// WithResult keeps a result with the consumed key, which comes with every later Duplicate.
func WithResult(result []byte) SettleOption { return func(s *Settlement) { s.Result = result } }

// SettleTx settles the claim of the handler with this context as consumed, inside tx: the effect and the mark are
// committed together or not at all. Call it once, as the last statement before the commit:
//
//	tx, err := db.BeginTx(ctx, nil)
//	defer tx.Rollback()
//	… the effect, in tx …
//	if err := dedup.SettleTx(ctx, tx); err != nil {
//		return err
//	}
//	return tx.Commit()
//
// It adds one statement and no round trip beyond it. The store must be a [TxSettler] whose tables are in tx's database.
// Once the handler has returned the pipeline looks whether the record is there (one read) and only then acknowledges: a
// transaction that was rolled back is not consumed, whatever the handler returned.
//
// On an error roll back. [ErrLeaseLost]: somebody else may have taken over. [ErrSettledElsewhere]: somebody else has
// committed. [ErrNoClaim], [ErrConfig]: see there. Others are the driver's; at isolation levels above read committed a
// serialization failure may come from the heartbeat that extended the lease meanwhile, and the next try mends it.
func SettleTx(ctx context.Context, tx Tx, opts ...SettleOption) error {
	g := infoFrom(ctx).guard
	if g == nil {
		return ErrNoClaim
	}
	return g.SettleTx(ctx, tx, opts...)
}

// SettleTx settles the claim as consumed inside tx; see the function [SettleTx]. Consume then confirms it.
func (g *Guard) SettleTx(ctx context.Context, tx Tx, opts ...SettleOption) error {
	ts, ok := g.d.store.(TxSettler)
	if !ok {
		return fmt.Errorf("%w: the store (%T) cannot settle in a transaction; use sqlstore, alone or behind a fast store", ErrConfig, g.d.store)
	}
	if _, isPool := tx.(*sql.DB); isPool || tx == nil {
		return fmt.Errorf("%w: SettleTx was given %T; pass the transaction of the effect", ErrConfig, tx)
	}
	g.mu.Lock()
	forbidden := g.noTx
	g.mu.Unlock()
	if forbidden != "" {
		return fmt.Errorf("%w: SettleTx cannot be used here: %s", ErrConfig, forbidden)
	}
	if err := g.Err(); err != nil {
		return err
	}
	s := Settlement{State: Consumed, Retention: g.d.cfg.Retention}
	for _, o := range opts {
		o(&s)
	}
	g.mu.Lock()
	g.settling = true // whether it succeeds or not: only the database knows what becomes of it
	g.mu.Unlock()
	return ts.SettleTx(ctx, tx, g.record, s)
}

// ForbidSettleTx makes SettleTx an error that gives the reason, for adapters whose result is known only after the handler.
func (g *Guard) ForbidSettleTx(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noTx = reason
}

// Settling says whether the handler has called SettleTx.
func (g *Guard) Settling() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.settling
}

// Committed says whether the claim was settled by SettleTx and that transaction is committed. It goes on when ctx is
// cancelled, and tries again for one lease at most, also when the claim was lost meanwhile: what is committed stays so. The error is a [*StoreError], or [ErrUnreadable].
func (g *Guard) Committed(ctx context.Context) (yes bool, err error) {
	ts, ok := g.d.store.(TxSettler)
	if !ok || !g.Settling() {
		return false, nil
	}
	ctx = context.WithoutCancel(ctx)
	until := time.Now().Add(g.d.cfg.Lease)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		opCtx, done := context.WithTimeout(ctx, g.d.cfg.StoreTimeout)
		yes, err = ts.Committed(opCtx, g.record)
		done()
		left := time.Until(until)
		if err == nil || left <= 0 {
			return yes, err
		}
		t := time.NewTimer(min(pause, left))
		<-t.C
	}
}

// confirm is Consume for a handler that settles in its transaction. ErrNotSettledInTx and ErrNotCommitted leave the claim
// held, so that it can be released or killed.
func (g *Guard) confirm(ctx context.Context) error {
	if !g.Settling() {
		return fmt.Errorf("%w: %s", ErrNotSettledInTx, g.record.Key)
	}
	yes, err := g.Committed(ctx)
	switch {
	case yes:
		g.Abandon()
		return nil
	case err != nil:
		g.Abandon()
		return err
	}
	if lost := g.Err(); lost != nil {
		g.Abandon()
		return lost
	}
	return fmt.Errorf("%w: %s", ErrNotCommitted, g.record.Key)
}
