package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// querier is what a store needs of a database.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Store is a [dedup.Store] in a SQL database. It is also a [dedup.Batcher], [dedup.Inspector], [dedup.Describer],
// [dedup.StepStore] and [dedup.TxSettler]. It is safe for concurrent use, by any number of processes on the same tables,
// and has no goroutine of its own.
//
// A call whose context has no deadline is given 5 s.
type Store struct {
	db          querier
	pool        *sql.DB // behind db
	dialect     *dialect
	st          statements
	description string
	sweepAfter  int64
	fresh       atomic.Int64 // claims since the last sweep
}

var (
	_ dedup.Store      = (*Store)(nil)
	_ dedup.Batcher    = (*Store)(nil)
	_ dedup.Inspector  = (*Store)(nil)
	_ dedup.Describer  = (*Store)(nil)
	_ dedup.StepStore  = (*Store)(nil)
	_ dedup.TxSettler  = (*Store)(nil)
	_ dedup.TxInserter = (*Store)(nil)
)

// New returns a store on the database, whose schema [Migrate] has made. The pool stays the caller's. The error wraps
// [ErrSchema] if the schema is missing, older or newer than this build's, or [dedup.ErrConfig] if a setting cannot work.
func New(ctx context.Context, db *sql.DB, d Dialect, cfg Config) (*Store, error) {
	if db == nil {
		return nil, fmt.Errorf("sqlstore: %w: the database is nil", dedup.ErrConfig)
	}
	cfg, err := cfg.withDefaults(d)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, pool: db, dialect: dialects[d], sweepAfter: int64(cfg.SweepAfter), description: cfg.Description}
	s.st = s.dialect.statements()
	ctx, cancel := limit(ctx)
	defer cancel()
	if err := s.dialect.checkSchema(ctx, db); err != nil {
		return nil, err
	}
	if s.description == "" {
		if s.description, err = s.dialect.describe(ctx, db); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Describe returns the database's address without credentials: "postgres://127.0.0.1:5432/orders", "sqlite:///var/lib/orders.db",
// or what [Config] says.
func (s *Store) Describe() string { return s.description }

// Acquire claims a key. A key that is new, or known and not to be changed, takes one round trip; a retry or a takeover two.
// Errors: [dedup.ErrUnreadable], a context's, or a [*dedup.StoreError].
func (s *Store) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	const op = "acquire"
	if err := ready(ctx, op, c.Key); err != nil {
		return 0, dedup.Record{}, err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	for tries := 1; ; tries++ {
		v, r, done, err := s.tryAcquire(ctx, c)
		if err != nil {
			return 0, dedup.Record{}, wrap(err, func(err error) error { return s.failure(op, c.Key, err, true) })
		}
		if done {
			return v, r, nil
		}
		if err := lostRace(ctx, tries); err != nil {
			return 0, dedup.Record{}, s.failure(op, c.Key, err, false)
		}
	}
}

// tryAcquire is not done if somebody else has changed the record meanwhile.
func (s *Store) tryAcquire(ctx context.Context, c dedup.Claim) (v dedup.Verdict, r dedup.Record, done bool, err error) {
	cur, now, fresh, err := s.claim(ctx, c)
	if err != nil || cur == nil {
		return 0, r, false, err
	}
	if fresh {
		s.sweepNow(ctx, 1)
		return dedup.Granted, cur.record, true, nil
	}
	return s.decide(ctx, c, cur, now)
}

// decide applies the rules to the record that is there.
func (s *Store) decide(ctx context.Context, c dedup.Claim, cur *row, now int64) (v dedup.Verdict, r dedup.Record, done bool, err error) {
	switch {
	case cur.expired: // forgotten: away with it and its steps, and then the key is fresh
		_, err := s.remove(ctx, c.Key, cur)
		return 0, r, false, err
	case cur.bad != "":
		return 0, r, false, dedup.UnreadableError(c.Key, cur.bad)
	}
	v, r, changed := verdict(c, cur, now)
	if !changed {
		return v, r, true, nil
	}
	done, err = s.update(ctx, c.Key, cur, &r)
	return v, r, done, err
}

// verdict applies the rules to a readable record that is not expired.
func verdict(c dedup.Claim, cur *row, now int64) (v dedup.Verdict, r dedup.Record, changed bool) {
	r = cur.record
	v, changed = transition.Acquire(&r, c, at(now), transition.NextFence(r.Fence, at(now)))
	if changed {
		round(&r, now)
	}
	return v, r, changed
}

// claim makes a fresh record, or reads the one that is there; nil if neither was possible.
func (s *Store) claim(ctx context.Context, c dedup.Claim) (cur *row, now int64, fresh bool, err error) {
	args := []any{c.Key.Scope, c.Key.ID, string(c.Nonce), printOf(c.Fingerprint), c.Lease.Microseconds(), c.Retention.Microseconds()}
	if s.dialect.name == Postgres {
		cur, err = s.one(ctx, c.Key, s.st.claim, args, &fresh, &now)
		return cur, now, fresh, err
	}
	// A reader does not wait for SQLite's one writer, so a duplicate must not begin as one.
	if cur, now, err = s.read(ctx, c.Key); cur != nil || err != nil {
		return cur, now, false, err
	}
	err = s.locked(ctx, func(s *Store) error {
		cur, err = s.one(ctx, c.Key, s.st.claim, args, &now)
		return err
	})
	return cur, now, cur != nil, err
}

// Extend restarts the lease of a claim. Errors: [dedup.ErrLeaseLost], [dedup.ErrUnreadable], a context's, or a
// [*dedup.StoreError].
func (s *Store) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	return s.held(ctx, "extend", h.Key, s.st.extend, append(holdArgs(h), lease.Microseconds()),
		func(r *dedup.Record, now time.Time, _ dedup.Fence) (bool, error) {
			return transition.Extend(r, h, lease, now)
		})
}

// Settle ends a claim for good. Errors as of Extend.
func (s *Store) Settle(ctx context.Context, h dedup.Hold, se dedup.Settlement) error {
	args, ok := settleArgs(h, se)
	if !ok {
		return dedup.ErrLeaseLost
	}
	return s.held(ctx, "settle", h.Key, s.st.settle, args,
		func(r *dedup.Record, now time.Time, _ dedup.Fence) (bool, error) {
			return transition.Settle(r, h, se, now)
		})
}

// Release ends a claim so that it can be retried. Errors as of Extend.
func (s *Store) Release(ctx context.Context, h dedup.Hold, rel dedup.Release) error {
	_, err := s.change(ctx, "release", h.Key, func(r *dedup.Record, now time.Time, _ dedup.Fence) (bool, error) {
		return transition.Release(r, h, rel, now)
	})
	return err
}

// LetterSent finishes a death. Errors as of Extend.
func (s *Store) LetterSent(ctx context.Context, k dedup.Key, f dedup.Fence) error {
	_, err := s.change(ctx, "letter-sent", k, func(r *dedup.Record, now time.Time, _ dedup.Fence) (bool, error) {
		return transition.LetterSent(r, f, now)
	})
	return err
}

// held sends one statement that changes the record of a holder. If it finds nothing to change the rule says why.
func (s *Store) held(ctx context.Context, op string, k dedup.Key, st statement, args []any, apply rule) error {
	if err := ready(ctx, op, k); err != nil {
		return err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	n, err := s.exec(ctx, st, args)
	switch {
	case err != nil:
		return s.failure(op, k, err, true)
	case n == 1:
		return nil
	}
	_, err = s.change(ctx, op, k, apply)
	return err
}

func holdArgs(h dedup.Hold) []any {
	return []any{h.Key.Scope, h.Key.ID, int64(h.Fence), string(h.Nonce)} //nolint:gosec // a fence is at most 2^53
}

// settleArgs returns the parameters of settle; ok is false for a settlement that no claim can come to. Of a consumed key
// the result is kept, of a dead one the cause.
func settleArgs(h dedup.Hold, se dedup.Settlement) (args []any, ok bool) {
	if !se.State.Settled() || h.Nonce == "" {
		return nil, false
	}
	if se.State == dedup.Consumed {
		se.Cause = dedup.Cause{}
	} else {
		se.Result = nil
	}
	return append(holdArgs(h), string(dedup.StateLetter(se.State)), notNil(se.Result),
		string(se.Cause.Class), []byte(se.Cause.Message), se.Retention.Microseconds()), true
}
