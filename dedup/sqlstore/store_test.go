package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

func claimOf(id string, n dedup.Nonce) dedup.Claim {
	return dedup.Claim{Key: dedup.Key{Scope: "s", ID: id}, Nonce: n, Lease: time.Hour, Retention: time.Hour}
}

func (w world) granted(t testing.TB, id string, n dedup.Nonce) dedup.Record {
	t.Helper()
	v, r, err := w.Acquire(testContext(t), claimOf(id, n))
	require.NoError(t, err)
	require.Equal(t, dedup.Granted, v)
	return r
}

func hold(r dedup.Record) dedup.Hold {
	return dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
}

// counting counts statements and fails some of them.
type counting struct {
	querier

	n    atomic.Int64
	fail atomic.Pointer[func(query string) error]
}

func (c *counting) before(query string) error {
	c.n.Add(1)
	if f := c.fail.Load(); f != nil {
		return (*f)(query)
	}
	return nil
}

func (c *counting) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := c.before(query); err != nil {
		return nil, err
	}
	return c.querier.ExecContext(ctx, query, args...)
}

func (c *counting) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := c.before(query); err != nil {
		return nil, err
	}
	return c.querier.QueryContext(ctx, query, args...)
}

func newCounting(t testing.TB, d Dialect) (world, *counting) {
	t.Helper()
	w := newWorld(t, d, dedup.Config{})
	c := &counting{querier: w.Store.db}
	w.Store.db = c
	return w, c
}

// trips is how many statements f sends.
func (c *counting) trips(f func()) int64 {
	before := c.n.Load()
	f()
	return c.n.Load() - before
}

func TestRoundTripsOnPostgres(t *testing.T) {
	t.Parallel()
	w, c := newCounting(t, Postgres)
	ctx := testContext(t)
	var r dedup.Record
	assert.EqualValues(t, 1, c.trips(func() { r = w.granted(t, "1", "a") }), "a fresh claim")
	assert.EqualValues(t, 1, c.trips(func() { require.NoError(t, w.Extend(ctx, hold(r), time.Hour)) }), "a heartbeat")
	assert.EqualValues(t, 1, c.trips(func() {
		require.NoError(t, w.Settle(ctx, hold(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
	}), "a settlement")
	assert.EqualValues(t, 1, c.trips(func() {
		v, _, err := w.Acquire(ctx, claimOf("1", "b"))
		require.NoError(t, err)
		require.Equal(t, dedup.Duplicate, v)
	}), "a duplicate")
	assert.EqualValues(t, 1, c.trips(func() {
		yes, err := w.Committed(ctx, r)
		require.NoError(t, err)
		require.True(t, yes)
	}), "the look whether a transaction is committed")

	const batch = 64
	var claims []dedup.Claim
	var settlements []dedup.HeldSettlement
	for i := range batch {
		claims = append(claims, claimOf(fmt.Sprint("batch-", i), "a"))
	}
	assert.EqualValues(t, 1, c.trips(func() {
		for _, a := range w.AcquireMany(ctx, claims) {
			require.NoError(t, a.Err)
			require.Equal(t, dedup.Granted, a.Verdict)
			settlements = append(settlements, dedup.HeldSettlement{Hold: hold(a.Record), Settlement: dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}})
		}
	}), "a batch of fresh claims")
	assert.EqualValues(t, 1, c.trips(func() {
		for _, err := range w.SettleMany(ctx, settlements) {
			require.NoError(t, err)
		}
	}), "a batch of settlements")
	assert.EqualValues(t, 1, c.trips(func() {
		for i, a := range w.AcquireMany(ctx, claims) {
			require.NoError(t, a.Err)
			require.Equal(t, dedup.Duplicate, a.Verdict)
			require.Equal(t, claims[i].Key, a.Record.Key)
		}
	}), "a batch of duplicates")

	var keys []dedup.Key
	var adoptions []dedup.Adoption
	assert.EqualValues(t, 1, c.trips(func() {
		for i := range claims {
			keys = append(keys, claims[i].Key)
		}
		for _, f := range w.GetMany(ctx, keys) {
			require.NoError(t, f.Err)
			require.Equal(t, dedup.Consumed, f.Record.State)
			f.Record.Key.ID += "-adopted"
			adoptions = append(adoptions, dedup.Adoption{Record: f.Record})
		}
	}), "a batch of reads")
	assert.EqualValues(t, 1, c.trips(func() {
		for _, err := range w.AdoptMany(ctx, adoptions) {
			require.NoError(t, err)
		}
	}), "a batch that a tiered store settles")
	assert.EqualValues(t, 1, c.trips(func() {
		adoptions[0].Record.Key.ID = "alone"
		require.NoError(t, w.Adopt(ctx, adoptions[0].Record, 0))
	}), "one key that a tiered store settles")
}

// To settle in the caller's transaction adds one statement to it and sends nothing beside it; the look whether it is committed
// comes when the handler has returned.
func TestSettleTxAddsOneStatement(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		w, c := newCounting(t, d)
		ctx := testContext(t)
		r := w.granted(t, "1", "a")
		tx := &counting{querier: w.begin(t, ctx)}
		assert.Zero(t, c.trips(func() {
			assert.EqualValues(t, 1, tx.trips(func() {
				require.NoError(t, w.SettleTx(ctx, tx, r, dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
			}))
			r.Key.ID = "held elsewhere"
			assert.EqualValues(t, 1, tx.trips(func() {
				require.NoError(t, w.InsertSettledTx(ctx, tx, r, dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
			}))
		}), "statements outside the transaction")
	})
}

// stateError is an error as Postgres drivers give it.
type stateError string

func (e stateError) Error() string    { return "SQLSTATE " + string(e) }
func (e stateError) SQLState() string { return string(e) }

func TestSerializationFailuresAreRetriedAndBounded(t *testing.T) {
	t.Parallel()
	w, c := newCounting(t, Postgres)
	ctx := testContext(t)
	for _, state := range []stateError{stateSerialization, stateDeadlock} {
		var left atomic.Int64
		left.Store(3)
		fail := func(string) error {
			if left.Add(-1) >= 0 {
				return state
			}
			return nil
		}
		c.fail.Store(&fail)
		r := w.granted(t, string(state), "a")
		left.Store(3)
		require.NoError(t, w.Settle(ctx, hold(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
	}
	always := func(string) error { return stateError(stateSerialization) }
	c.fail.Store(&always)
	var se *dedup.StoreError
	assert.EqualValues(t, transientTries, c.trips(func() {
		_, _, err := w.Acquire(ctx, claimOf("never", "a"))
		require.ErrorAs(t, err, &se)
	}))
	assert.False(t, se.Indeterminate, "the server has refused it")
}

// A database whose sessions are serializable by default refuses changes that meet; the rules hold all the same.
func TestASerializableDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Postgres, dedup.Config{})
	ctx := testContext(t)
	var name string
	require.NoError(t, w.db.QueryRowContext(ctx, "SELECT current_database()").Scan(&name))
	_, err := w.db.ExecContext(ctx, "ALTER DATABASE "+name+" SET default_transaction_isolation = 'serializable'")
	require.NoError(t, err)
	w.db.SetMaxIdleConns(0) // connections from before do not know
	w.db.SetMaxIdleConns(8)
	const workers = 8
	for round := range 5 {
		id := fmt.Sprint("k", round)
		verdicts := make(chan dedup.Verdict)
		for i := range workers {
			go func() {
				v, _, err := w.Acquire(ctx, claimOf(id, dedup.Nonce(fmt.Sprint("w", i))))
				assert.NoError(t, err)
				verdicts <- v
			}()
		}
		got := map[dedup.Verdict]int{}
		for range workers {
			got[<-verdicts]++
		}
		assert.Equal(t, map[dedup.Verdict]int{dedup.Granted: 1, dedup.Busy: workers - 1}, got)
	}
}

// Every time is the server's: a worker whose clock is an hour wrong changes nothing.
func TestThisMachinesClockDoesNotMatterOnPostgres(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Postgres, dedup.Config{})
	for _, st := range []statement{
		w.st.claim, w.st.read, w.st.clock, w.st.insert, w.st.update, w.st.remove, w.st.extend, w.st.settle, w.st.settleTx,
		w.st.insertSettled, w.st.insertSettledTx, w.st.list, w.st.listScope, w.st.sweep, w.st.saveStep, *w.st.claimMany, *w.st.settleMany,
		*w.st.readMany, *w.st.adoptMany,
	} {
		require.False(t, st.hostClock, "%s takes the time of this machine", st.text)
		require.NotContains(t, st.text, "now()", "the time at which a transaction began is not the time")
	}
	var before, after int64
	ctx := testContext(t)
	clock := "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
	require.NoError(t, w.db.QueryRowContext(ctx, clock).Scan(&before))
	r := w.granted(t, "1", "a")
	require.NoError(t, w.db.QueryRowContext(ctx, clock).Scan(&after))
	assert.WithinRange(t, r.CreatedAt, at(before), at(after))
	assert.Equal(t, r.CreatedAt.Add(time.Hour), r.LeaseUntil)
	assert.Equal(t, dedup.Fence(r.CreatedAt.UnixMicro()), r.Fence) //nolint:gosec // after 1970
}

func TestADatabaseThatGoesAwayBetweenClaimAndCommit(t *testing.T) {
	t.Parallel()
	server := testserver.PrivatePostgres(t)
	db := server.DB(t)
	ctx := testContext(t)
	require.NoError(t, Migrate(ctx, db, Postgres))
	_, err := db.ExecContext(ctx, "CREATE TABLE effects (id text)")
	require.NoError(t, err)
	w := world{Store: open(t, db, Postgres, Config{}), db: db}
	w.d, err = dedup.New(w.Store, dedup.Config{Lease: 3 * time.Second})
	require.NoError(t, err)
	lost := errors.New("the database went away")
	_, err = w.d.Do(ctx, testKey, func(ctx context.Context) ([]byte, error) {
		tx := w.begin(t, ctx)
		require.NoError(t, effect(ctx, tx, "1"))
		require.NoError(t, dedup.SettleTx(ctx, tx))
		server.Stop()
		require.Error(t, tx.Commit())
		return nil, lost
	})
	require.ErrorIs(t, err, lost)
	var se *dedup.StoreError
	_, _, err = w.Acquire(ctx, claimOf("2", "a"))
	require.ErrorAs(t, err, &se)

	server.Start(t)
	require.Eventually(t, func() bool {
		out, err := w.d.Do(ctx, testKey, func(ctx context.Context) ([]byte, error) {
			tx := w.begin(t, ctx)
			return nil, errors.Join(effect(ctx, tx, "1"), dedup.SettleTx(ctx, tx), tx.Commit())
		})
		return err == nil && out.Verdict == dedup.Granted
	}, patience, 50*time.Millisecond, "the pool finds the server again, and the lease runs out")
	assert.Equal(t, 1, w.effects(t))
}

// A sweep that finds nothing must cost nothing, however many records live.
func TestASweepLooksAtExpiredRecordsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Postgres, dedup.Config{})
	ctx := testContext(t)
	_, err := w.db.ExecContext(ctx, `INSERT INTO idemq_records (scope, id, state, fence, version, created_at, updated_at, expires_at, sweep_hour)
		SELECT 's', n, 'c', 1, 1, 1, 1, 10000000000000000, 1000000 FROM generate_series(1, 20000) n`)
	require.NoError(t, err)
	_, err = w.db.ExecContext(ctx, "ANALYZE idemq_records")
	require.NoError(t, err)
	rows, err := w.db.QueryContext(ctx, "EXPLAIN ANALYZE "+w.st.sweep.text, 400)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	var plan strings.Builder
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		plan.WriteString(line + "\n")
	}
	require.NoError(t, rows.Err())
	assert.Contains(t, plan.String(), "Index Cond: (sweep_hour <= ")
	assert.NotContains(t, plan.String(), "Rows Removed by")
}

// A settlement changes no index and stays on its page, so that Postgres cleans up behind it by itself.
func TestSettlementsStayOnTheirPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Postgres, dedup.Config{})
	ctx := testContext(t)
	tx := w.begin(t, ctx) // its statistics are its own
	w.Store.db = tx
	const keys = 200
	middle := 24*time.Hour + 30*time.Minute - time.Since(time.Now().Truncate(time.Hour)) // of an hour, far from the next
	for i := range keys {
		c := claimOf(fmt.Sprint("k", i), "a")
		c.Lease, c.Retention = 30*time.Second, middle
		_, r, err := w.Acquire(ctx, c)
		require.NoError(t, err)
		require.NoError(t, w.Settle(ctx, hold(r), dedup.Settlement{State: dedup.Consumed, Retention: middle}))
	}
	var updated, hot int
	require.NoError(t, tx.QueryRowContext(ctx, `SELECT pg_stat_get_xact_tuples_updated('idemq_records'::regclass),
		pg_stat_get_xact_tuples_hot_updated('idemq_records'::regclass)`).Scan(&updated, &hot))
	assert.Equal(t, keys, updated)
	assert.GreaterOrEqual(t, hot, keys*95/100)
}

// Between the reading of a record and the writing of what follows somebody else changes it: the write must not count.
func TestAChangeInBetweenIsNotOverwritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		w, c := newCounting(t, d)
		ctx := testContext(t)
		other := open(t, w.db, d, Config{})
		r := w.granted(t, "1", "a")
		var meanwhile atomic.Bool
		fail := func(query string) error {
			if strings.HasPrefix(query, "UPDATE idemq_records") && meanwhile.CompareAndSwap(false, true) {
				return other.Settle(ctx, hold(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour})
			}
			return nil
		}
		c.fail.Store(&fail)
		require.ErrorIs(t, w.Release(ctx, hold(r), dedup.Release{}), dedup.ErrLeaseLost)
		require.True(t, meanwhile.Load())
		got, err := other.Get(ctx, r.Key)
		require.NoError(t, err)
		assert.Equal(t, dedup.Consumed, got.State)
	})
}

func TestSweep(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		w := newWorld(t, d, dedup.Config{})
		ctx := testContext(t)
		w.sweepAfter = -1
		expire := func(ids ...string) {
			t.Helper()
			for _, id := range ids {
				r := w.granted(t, id, "a")
				require.NoError(t, w.SaveStep(ctx, hold(r), dedup.SavedStep{Name: "one", Data: []byte("x")}))
				_, err := w.db.ExecContext(ctx, "UPDATE idemq_records SET expires_at = 1, sweep_hour = 1 WHERE id = '"+id+"'")
				require.NoError(t, err)
			}
		}
		rows := func(table string) (n int) {
			require.NoError(t, w.db.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n))
			return n
		}
		expire("1", "2", "3")
		live := w.granted(t, "live", "a")
		require.NoError(t, w.SaveStep(ctx, hold(live), dedup.SavedStep{Name: "one"}))
		for _, want := range []int{2, 1, 0} {
			n, err := w.Sweep(ctx, 2)
			require.NoError(t, err)
			assert.Equal(t, want, n)
		}
		assert.Equal(t, []int{1, 1}, []int{rows("idemq_records"), rows("idemq_steps")}, "steps go with their record")
		_, err := w.Sweep(ctx, 0)
		require.ErrorIs(t, err, dedup.ErrConfig)

		expire("4", "5")
		w.sweepAfter = 3
		w.granted(t, "fresh-1", "a")
		w.granted(t, "fresh-2", "a")
		assert.Equal(t, 5, rows("idemq_records"))
		w.granted(t, "fresh-3", "a")
		assert.Equal(t, 4, rows("idemq_records"), "the third fresh claim sweeps")
	})
}

func TestSteps(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		w := newWorld(t, d, dedup.Config{})
		ctx := testContext(t)
		r := w.granted(t, "1", "a")
		save := func(h dedup.Hold, name, data string) error {
			return w.SaveStep(ctx, h, dedup.SavedStep{Name: name, Data: []byte(data)})
		}
		for _, name := range []string{"z", "a", "m", "z"} {
			require.NoError(t, save(hold(r), name, name+"-data"))
		}
		want := []dedup.SavedStep{{Name: "z", Data: []byte("z-data")}, {Name: "a", Data: []byte("a-data")}, {Name: "m", Data: []byte("m-data")}}
		same := func(want []dedup.SavedStep) {
			t.Helper()
			got, err := w.Steps(ctx, r.Key)
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
		same(want)
		for _, h := range []dedup.Hold{
			{Key: r.Key, Fence: r.Fence + 1, Nonce: r.Nonce}, {Key: r.Key, Fence: r.Fence, Nonce: "b"}, {Key: dedup.Key{Scope: "s", ID: "none"}, Fence: 1, Nonce: "a"},
		} {
			require.ErrorIs(t, save(h, "stale", ""), dedup.ErrLeaseLost)
		}
		require.NoError(t, w.Release(ctx, hold(r), dedup.Release{}))
		require.ErrorIs(t, save(hold(r), "late", ""), dedup.ErrLeaseLost)
		same(want)

		// A record that has expired takes its steps along, also when nobody has swept it.
		_, err := w.db.ExecContext(ctx, "UPDATE idemq_records SET expires_at = 1")
		require.NoError(t, err)
		r = w.granted(t, "1", "b")
		same(nil)
		require.NoError(t, save(hold(r), "z", "new"))
		require.NoError(t, w.Forget(ctx, r.Key, true))
		same(nil)
		r = w.granted(t, "1", "c")
		require.NoError(t, save(hold(r), "z", "new"))
		_, err = w.db.ExecContext(ctx, "UPDATE idemq_records SET expires_at = 1")
		require.NoError(t, err)
		a, err := w.Reopen(ctx, dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: time.Hour})
		require.NoError(t, err)
		assert.Equal(t, dedup.Reopened, a)
		same(nil)
	})
}
