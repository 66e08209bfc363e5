package sqlstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/idemq/idemq/dedup"
)

// SettleTx settles a claim of this store in the caller's transaction, whose database must be this store's; handlers call
// it through [dedup.SettleTx]. Fence, nonce and state are checked inside the transaction: with another owner, or a record
// that is settled already, the error is [dedup.ErrLeaseLost]. On Postgres the server itself refuses the rest of the
// transaction then, so that it cannot be committed even by a caller that does not look at the error; on SQLite the caller
// must roll back. Other errors are the driver's.
func (s *Store) SettleTx(ctx context.Context, tx dedup.Tx, granted dedup.Record, se dedup.Settlement) error {
	args, ok := settleArgs(dedup.Hold{Key: granted.Key, Fence: granted.Fence, Nonce: granted.Nonce}, se)
	if !ok {
		return dedup.ErrLeaseLost
	}
	return s.inTx(ctx, tx, s.st.settleTx, args, dedup.ErrLeaseLost)
}

// InsertSettledTx keeps, in the caller's transaction, the settled record of a claim that is held in another store: the
// record as it was granted there, and how it ended. It is for a fast store in front of this one. The row is unique for
// scope and key, so of several transactions only one can commit; the others wait for its end and then get
// [dedup.ErrSettledElsewhere]. The row of an older claim that was never settled is replaced, and so is one that has
// expired; a settled one never is. On Postgres the server refuses the rest of the transaction, as with SettleTx.
//
// The memory is counted by this database's clock; fence, attempts and the time of creation stay the other store's.
func (s *Store) InsertSettledTx(ctx context.Context, tx dedup.Tx, granted dedup.Record, se dedup.Settlement) error {
	args, err := insertSettledArgs(granted, se)
	if err != nil {
		return err
	}
	return s.inTx(ctx, tx, s.st.insertSettledTx, args, dedup.ErrSettledElsewhere)
}

// InsertSettled is InsertSettledTx in a transaction of its own. It can be repeated: with the same claim and the same end it
// succeeds again. Errors: [dedup.ErrSettledElsewhere], [dedup.ErrUnreadable], a context's, or a [*dedup.StoreError].
func (s *Store) InsertSettled(ctx context.Context, granted dedup.Record, se dedup.Settlement) error {
	const op = "insert-settled"
	if err := ready(ctx, op, granted.Key); err != nil {
		return err
	}
	args, err := insertSettledArgs(granted, se)
	if err != nil {
		return err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	n, err := s.exec(ctx, s.st.insertSettled, args)
	if err != nil {
		return s.failure(op, granted.Key, err, true)
	}
	if n == 1 {
		return nil
	}
	cur, _, err := s.read(ctx, granted.Key)
	switch {
	case err != nil:
		return s.failure(op, granted.Key, err, true)
	case cur == nil: // forgotten just now
		return &dedup.StoreError{Op: op, Key: granted.Key, Err: errors.New("sqlstore: the record was forgotten meanwhile")}
	case cur.bad != "":
		return dedup.UnreadableError(granted.Key, cur.bad)
	case owns(cur, granted) && (cur.record.State == se.State || cur.record.State == dedup.DeadSent && se.State == dedup.DeadOwed):
		return nil
	}
	return fmt.Errorf("%w: %s", dedup.ErrSettledElsewhere, granted.Key)
}

// Committed says whether the claim is consumed; see [dedup.TxSettler].
func (s *Store) Committed(ctx context.Context, granted dedup.Record) (bool, error) {
	const op = "confirm"
	if err := ready(ctx, op, granted.Key); err != nil {
		return false, err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	cur, _, err := s.read(ctx, granted.Key)
	switch {
	case err != nil:
		return false, s.failure(op, granted.Key, err, false)
	case cur == nil:
		return false, nil
	case cur.bad != "":
		return false, dedup.UnreadableError(granted.Key, cur.bad)
	}
	return cur.record.State == dedup.Consumed && owns(cur, granted), nil
}

func owns(cur *row, granted dedup.Record) bool {
	return cur.record.Fence == granted.Fence && cur.record.Nonce == granted.Nonce
}

// inTx executes a statement that must change one row. Nothing is tried again: that is for whoever began the transaction.
func (s *Store) inTx(ctx context.Context, tx dedup.Tx, st statement, args []any, refused error) error {
	res, err := tx.ExecContext(ctx, st.text, st.args(args)...)
	if err != nil {
		if state := sqlState(err); state == stateLost || state == stateElsewhere {
			return fmt.Errorf("%w (%w)", refused, err)
		}
		return err
	}
	if s.dialect.name == Postgres { // idemq_demand has looked; a batch could not say yet
		return nil
	}
	n, err := res.RowsAffected()
	if err == nil && n != 1 {
		err = refused
	}
	return err
}

func insertSettledArgs(granted dedup.Record, se dedup.Settlement) ([]any, error) {
	h := dedup.Hold{Key: granted.Key, Fence: granted.Fence, Nonce: granted.Nonce}
	end, ok := settleArgs(h, se)
	if !ok {
		return nil, fmt.Errorf("sqlstore: %w: a claim of state %v and nonce %q cannot be inserted as settled", dedup.ErrConfig, se.State, granted.Nonce)
	}
	// Of end: 4 state, 5 result, 6 class, 7 message, 8 retention.
	return []any{
		granted.Key.Scope, granted.Key.ID, end[4], int64(granted.Fence), string(granted.Nonce), //nolint:gosec // a fence is at most 2^53
		granted.Attempt, granted.Abandoned, granted.Interrupted, granted.Generation, printOf(granted.Fingerprint),
		end[5], end[6], end[7], end[8], micros(granted.CreatedAt), micros(granted.FailedAt),
	}, nil
}
