package sqlstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/idemq/idemq/dedup"
)

// ErrStaleFence says that a newer owner of the key has written already, so this one must write nothing.
var ErrStaleFence = errors.New("sqlstore: a newer owner of this key has written already; roll the transaction back")

var errNoKey = fmt.Errorf("%w (the context has no key)", dedup.ErrNoClaim)

const (
	onceText = "INSERT INTO idemq_effects (scope, id, name) VALUES ($1, $2, $3) ON CONFLICT (scope, id, name) DO NOTHING"

	fenceText = `INSERT INTO idemq_fences (scope, id, name, fence) VALUES ($1, $2, $3, $4)
		ON CONFLICT (scope, id, name) DO UPDATE SET fence = excluded.fence WHERE idemq_fences.fence <= excluded.fence`
)

// Once counts effects: it inserts the key of the handler with this context, and the effect's name, under a unique
// constraint in the effect's own transaction. first is true for the one transaction that may make the effect; false says
// that it is done already, and that the handler should return without an error. It waits for the end of a transaction that
// is about to make the same effect.
//
//	first, err := sqlstore.Once(ctx, tx, sqlstore.Postgres, "charge")
//	if err != nil || !first {
//		return err
//	}
//	… the effect, in tx …
//	return tx.Commit()
//
// It needs the tables of [Migrate] in the effect's database and nothing else: the claim may be in any store, and an
// untracked run is safe too. It holds for as long as the row, which nobody removes but you:
// DELETE FROM idemq_effects WHERE made_at < …. At isolation levels above read committed a conflict may come as a
// serialization failure, which the next try mends.
func Once(ctx context.Context, tx dedup.Tx, d Dialect, name string) (first bool, err error) {
	k := dedup.KeyFrom(ctx)
	if k == (dedup.Key{}) {
		return false, errNoKey
	}
	return changes(ctx, tx, d, onceText, k.Scope, k.ID, name)
}

// Newest orders writers: it keeps the fence of the handler with this context as the largest that has written under its
// key and the name, and returns [ErrStaleFence] if a larger one has. So an owner that was overtaken, and does not know
// it yet, cannot overwrite what the newer one wrote. Use it for a sink that holds a state, in the state's own transaction.
//
// It does not count effects: after a crash the next owner has a larger fence and writes again. For effects that must
// happen once use [Once] or [dedup.SettleTx].
func Newest(ctx context.Context, tx dedup.Tx, d Dialect, name string) error {
	k, fence := dedup.KeyFrom(ctx), dedup.FenceFrom(ctx)
	if k == (dedup.Key{}) || fence == 0 {
		return errNoKey
	}
	newest, err := changes(ctx, tx, d, fenceText, k.Scope, k.ID, name, int64(fence)) //nolint:gosec // a fence is at most 2^53
	if err == nil && !newest {
		err = ErrStaleFence
	}
	return err
}

// changes executes a statement and says whether it has changed a row.
func changes(ctx context.Context, tx dedup.Tx, kind Dialect, text string, args ...any) (bool, error) {
	d := dialects[kind]
	if d == nil {
		return false, fmt.Errorf("sqlstore: %w: the dialect is %d; use sqlstore.Postgres or sqlstore.SQLite", dedup.ErrConfig, kind)
	}
	st := d.statement(text)
	res, err := tx.ExecContext(ctx, st.text, st.args(args)...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}
