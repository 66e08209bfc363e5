package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

// world is a store, a Deduper on it, and a table of effects in the same database.
type world struct {
	*Store
	db *sql.DB
	d  *dedup.Deduper
}

func newWorld(t testing.TB, kind Dialect, cfg dedup.Config) world {
	t.Helper()
	db := testDB(t, kind)
	_, err := db.ExecContext(testContext(t), "CREATE TABLE effects (id text)")
	require.NoError(t, err)
	w := world{Store: open(t, db, kind, Config{}), db: db}
	w.d, err = dedup.New(w.Store, cfg)
	require.NoError(t, err)
	return w
}

var testKey = dedup.Key{Scope: "s", ID: "order-1"}

// effect makes one in tx.
func effect(ctx context.Context, tx dedup.Tx, id string) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO effects (id) VALUES ('"+id+"')")
	return err
}

// effects counts what is committed.
func (w world) effects(t testing.TB) (n int) {
	t.Helper()
	require.NoError(t, w.db.QueryRowContext(testContext(t), "SELECT count(*) FROM effects").Scan(&n))
	return n
}

func (w world) begin(t testing.TB, ctx context.Context) *sql.Tx { //nolint:revive // t comes first in tests
	t.Helper()
	tx, err := w.db.BeginTx(ctx, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

func TestAnEffectAndItsSettlementAreCommittedTogether(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{SettleInTx: true})
		ctx := testContext(t)
		run := func(ctx context.Context) ([]byte, error) {
			tx := w.begin(t, ctx)
			return []byte("ignored"), errors.Join(effect(ctx, tx, "1"), dedup.SettleTx(ctx, tx, dedup.WithResult([]byte("result"))), tx.Commit())
		}
		out, err := w.d.Do(ctx, testKey, run)
		require.NoError(t, err)
		assert.Equal(t, dedup.Granted, out.Verdict)
		out, err = w.d.Do(ctx, testKey, run)
		require.NoError(t, err)
		assert.Equal(t, dedup.Duplicate, out.Verdict)
		assert.Equal(t, "result", string(out.Result()))
		assert.Equal(t, 1, w.effects(t))
	})
}

func TestRolledBackIsNotConsumed(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{})
		ctx := testContext(t)
		_, err := w.d.Do(ctx, testKey, func(ctx context.Context) ([]byte, error) {
			tx := w.begin(t, ctx)
			return nil, errors.Join(effect(ctx, tx, "1"), dedup.SettleTx(ctx, tx), tx.Rollback())
		})
		require.ErrorIs(t, err, dedup.ErrNotCommitted)
		assert.Zero(t, w.effects(t))
		r, err := w.Get(ctx, testKey)
		require.NoError(t, err)
		assert.Equal(t, dedup.Failed, r.State, "it will be tried again")
	})
}

func TestAHandlerThatForgetsToSettleIsDeadTheFirstTime(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{SettleInTx: true})
		ctx := testContext(t)
		_, err := w.d.Do(ctx, testKey, func(ctx context.Context) ([]byte, error) {
			tx := w.begin(t, ctx)
			return nil, errors.Join(effect(ctx, tx, "1"), tx.Commit())
		})
		require.ErrorIs(t, err, dedup.ErrNotSettledInTx)
		out, err := w.d.Do(ctx, testKey, func(context.Context) ([]byte, error) { panic("it must not run again") })
		require.NoError(t, err)
		assert.Equal(t, dedup.Dead, out.Verdict)
		assert.Equal(t, dedup.Permanent, out.Record.Cause.Class)
	})
}

func TestAnErrorAfterTheCommitDoesNotRunItAgain(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{})
		ctx := testContext(t)
		after := errors.New("after the commit")
		out, err := w.d.Do(ctx, testKey, func(ctx context.Context) ([]byte, error) {
			tx := w.begin(t, ctx)
			return nil, errors.Join(effect(ctx, tx, "1"), dedup.SettleTx(ctx, tx), tx.Commit(), after)
		})
		require.ErrorIs(t, err, after)
		assert.Equal(t, dedup.Consumed, out.Record.State)
		r, err := w.Get(ctx, testKey)
		require.NoError(t, err)
		assert.Equal(t, dedup.Consumed, r.State)
	})
}

// A lost claim cannot commit: on Postgres not even if the handler looks at no error at all.
func TestALostClaimCannotCommit(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{})
		ctx := testContext(t)
		granted := func(n dedup.Nonce, lease time.Duration) dedup.Record {
			v, r, err := w.Acquire(ctx, dedup.Claim{Key: testKey, Nonce: n, Lease: lease, Retention: time.Hour})
			require.NoError(t, err)
			require.Equal(t, dedup.Granted, v)
			return r
		}
		consumed := dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}
		old := granted("old", time.Microsecond)
		now := granted("new", time.Hour)
		for name, stale := range map[string]dedup.Record{
			"fence": {Key: testKey, Fence: old.Fence, Nonce: now.Nonce}, "nonce": {Key: testKey, Fence: now.Fence, Nonce: old.Nonce}, "owner": old,
		} {
			tx := w.begin(t, ctx)
			require.NoError(t, effect(ctx, tx, "lost"))
			require.ErrorIs(t, w.SettleTx(ctx, tx, stale, consumed), dedup.ErrLeaseLost, name)
			if kind == Postgres {
				require.Error(t, effect(ctx, tx, "more"))
				require.Error(t, tx.Commit(), name)
			} else {
				require.NoError(t, tx.Rollback())
			}
		}
		assert.Zero(t, w.effects(t))

		tx := w.begin(t, ctx)
		require.NoError(t, effect(ctx, tx, "1"))
		require.NoError(t, w.SettleTx(ctx, tx, now, consumed))
		yes, err := w.Committed(ctx, now)
		require.NoError(t, err)
		assert.False(t, yes, "not committed yet")
		require.NoError(t, tx.Commit())
		yes, err = w.Committed(ctx, now)
		require.NoError(t, err)
		assert.True(t, yes)
		yes, err = w.Committed(ctx, old)
		require.NoError(t, err)
		assert.False(t, yes, "it was another claim that consumed the key")

		tx = w.begin(t, ctx)
		require.ErrorIs(t, w.SettleTx(ctx, tx, now, consumed), dedup.ErrLeaseLost, "a second success would commit a second effect")
	})
}

// The row that the transaction has locked holds off whoever would take over, and one that comes after a takeover is refused.
func TestATransactionThatIsOpenForLongerThanTheLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Postgres, dedup.Config{})
	ctx := testContext(t)
	claim := func(n dedup.Nonce) dedup.Claim {
		return dedup.Claim{Key: testKey, Nonce: n, Lease: time.Millisecond, Retention: time.Hour}
	}
	_, r, err := w.Acquire(ctx, claim("slow"))
	require.NoError(t, err)
	tx := w.begin(t, ctx)
	require.NoError(t, effect(ctx, tx, "1"))
	require.NoError(t, w.SettleTx(ctx, tx, r, dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
	require.Eventually(t, func() bool {
		got, err := w.Get(ctx, testKey)
		return err == nil && got.State == dedup.Acquired && got.LeaseLeft() == 0
	}, patience, tick)

	verdicts := make(chan dedup.Verdict, 1)
	go func() {
		v, _, err := w.Acquire(ctx, claim("other"))
		assert.NoError(t, err)
		verdicts <- v
	}()
	require.Eventually(t, func() bool { return w.waiting(t) > 0 }, patience, tick, "the other waits for the row")
	require.NoError(t, tx.Commit())
	assert.Equal(t, dedup.Duplicate, <-verdicts)
	assert.Equal(t, 1, w.effects(t))

	// The other way round: it settles after somebody has taken over.
	k := dedup.Key{Scope: "s", ID: "order-2"}
	c := claim("slow")
	c.Key = k
	_, r, err = w.Acquire(ctx, c)
	require.NoError(t, err)
	tx = w.begin(t, ctx)
	require.NoError(t, effect(ctx, tx, "2"))
	c.Nonce = "other"
	require.Eventually(t, func() bool {
		v, _, err := w.Acquire(ctx, c)
		return err == nil && v == dedup.Granted
	}, patience, tick)
	require.ErrorIs(t, w.SettleTx(ctx, tx, r, dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}), dedup.ErrLeaseLost)
	require.Error(t, tx.Commit())
	assert.Equal(t, 1, w.effects(t))
}

// waiting counts the connections to the database that wait for a lock.
func (w world) waiting(t testing.TB) (n int) {
	t.Helper()
	require.NoError(t, w.db.QueryRowContext(testContext(t),
		"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&n))
	return n
}

// The claim is held in another store: of two owners that both believe in their claims one commits.
func TestOfTwoClaimsHeldElsewhereOneCommits(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newWorld(t, kind, dedup.Config{})
		ctx := testContext(t)
		consumed := dedup.Settlement{State: dedup.Consumed, Retention: time.Hour, Result: []byte("r")}
		granted := func(id string, fence dedup.Fence, n dedup.Nonce) dedup.Record {
			return dedup.Record{
				Key: dedup.Key{Scope: "s", ID: id}, State: dedup.Acquired, Fence: fence, Nonce: n, Attempt: 2, Generation: 1,
				Fingerprint: dedup.Fingerprint{1}, CreatedAt: time.UnixMicro(5),
			}
		}
		one, two := granted("1", 10, "one"), granted("1", 11, "two")
		tx := w.begin(t, ctx)
		require.NoError(t, effect(ctx, tx, "1"))
		require.NoError(t, w.InsertSettledTx(ctx, tx, one, consumed))
		require.NoError(t, tx.Commit())
		tx = w.begin(t, ctx)
		require.NoError(t, effect(ctx, tx, "2"))
		require.ErrorIs(t, w.InsertSettledTx(ctx, tx, two, consumed), dedup.ErrSettledElsewhere)
		if kind == Postgres {
			require.Error(t, tx.Commit(), "not even by a handler that looks at no error")
		} else {
			require.NoError(t, tx.Rollback())
		}
		assert.Equal(t, 1, w.effects(t))

		r, err := w.Get(ctx, one.Key)
		require.NoError(t, err)
		assert.Equal(t, []any{dedup.Consumed, dedup.Fence(10), 2, "r", dedup.Fingerprint{1}, time.UnixMicro(5).UTC()},
			[]any{r.State, r.Fence, r.Attempt, string(r.Result), r.Fingerprint, r.CreatedAt})
		v, _, err := w.Acquire(ctx, dedup.Claim{Key: one.Key, Nonce: "x", Lease: time.Minute, Retention: time.Hour})
		require.NoError(t, err)
		assert.Equal(t, dedup.Duplicate, v)

		// Without a transaction it can be repeated by its owner, and by nobody else.
		require.NoError(t, w.InsertSettled(ctx, one, consumed))
		require.ErrorIs(t, w.InsertSettled(ctx, two, consumed), dedup.ErrSettledElsewhere)
		dead := dedup.Settlement{State: dedup.DeadOwed, Retention: time.Hour, Cause: dedup.Cause{Class: dedup.Permanent, Message: "m"}}
		require.ErrorIs(t, w.InsertSettled(ctx, one, dead), dedup.ErrSettledElsewhere, "another end")
		three := granted("3", 20, "three")
		require.NoError(t, w.InsertSettled(ctx, three, dead))
		require.NoError(t, w.LetterSent(ctx, three.Key, 20))
		require.NoError(t, w.InsertSettled(ctx, three, dead), "the letter was sent meanwhile")
		a, err := w.Reopen(ctx, dedup.ReopenRequest{Key: three.Key, Fence: 20, Generation: 1, Retention: time.Hour})
		require.NoError(t, err)
		require.Equal(t, dedup.Reopened, a)
		r, err = w.Get(ctx, three.Key)
		require.NoError(t, err)
		require.ErrorIs(t, w.InsertSettled(ctx, granted("3", 19, "late"), consumed), dedup.ErrSettledElsewhere, "a claim from before the death")
		require.NoError(t, w.InsertSettled(ctx, granted("3", r.Fence+1, "replay"), consumed))
	})
}

func TestSettleTxSaysWhatItCannotDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, SQLite, dedup.Config{})
	ctx := testContext(t)
	require.ErrorIs(t, dedup.SettleTx(ctx, w.db), dedup.ErrNoClaim)
	require.ErrorIs(t, dedup.SettleTx(dedup.WithUntracked(ctx, testKey), w.db), dedup.ErrNoClaim)
	_, err := w.d.Do(ctx, testKey, func(ctx context.Context) ([]byte, error) { return nil, dedup.SettleTx(ctx, w.db) })
	require.ErrorIs(t, err, dedup.ErrConfig, "a pool is no transaction")
	require.ErrorContains(t, err, "sql.DB")
}
