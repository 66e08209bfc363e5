package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// rule applies a function of package transition to r; the zero record stands for an absent one. It may be called several
// times and must start afresh each time. Its error is passed on to the caller.
type rule func(r *dedup.Record, now time.Time, next dedup.Fence) (changed bool, err error)

// patientTries is how often a change that lost against another is tried again without a pause. Each lost race means that
// somebody else got on.
const patientTries = 3

// ready refuses what cannot be stored, and a context that has ended.
func ready(ctx context.Context, op string, k dedup.Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := k.Validate(); err != nil {
		return &dedup.StoreError{Op: op, Key: k, Err: err}
	}
	return nil
}

// change reads, applies the rule and writes what has changed, if the record is still as it was read; otherwise again. No
// transaction is open meanwhile.
func (s *Store) change(ctx context.Context, op string, k dedup.Key, apply rule) (dedup.Record, error) {
	if err := ready(ctx, op, k); err != nil {
		return dedup.Record{}, err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	for tries := 1; ; tries++ {
		r, done, err := s.tryChange(ctx, k, apply, false)
		if err != nil {
			return dedup.Record{}, wrap(err, func(err error) error { return s.failure(op, k, err, true) })
		}
		if done {
			return r, nil
		}
		if err := lostRace(ctx, tries); err != nil {
			return dedup.Record{}, s.failure(op, k, err, false)
		}
	}
}

func lostRace(ctx context.Context, tries int) error {
	if tries < patientTries {
		return ctx.Err()
	}
	return wait(ctx, firstPause)
}

// ruleError keeps a rule's answer apart from the database's errors.
type ruleError struct{ error }

func (e ruleError) Unwrap() error { return e.error }

// wrap passes an answer of the rules on as it is, and gives other errors to f.
func wrap(err error, f func(error) error) error {
	var answer ruleError
	switch {
	case errors.As(err, &answer):
		return answer.error
	case errors.Is(err, dedup.ErrUnreadable):
		return err
	}
	return f(err)
}

func (s *Store) tryChange(ctx context.Context, k dedup.Key, apply rule, locked bool) (r dedup.Record, done bool, err error) {
	cur, now, err := s.read(ctx, k)
	if err != nil {
		return r, false, err
	}
	if cur == nil && !locked {
		err = s.locked(ctx, func(s *Store) error {
			r, done, err = s.tryChange(ctx, k, apply, true)
			return err
		})
		return r, done, err
	}
	var next dedup.Fence
	switch {
	case cur == nil:
		if now, err = s.clock(ctx); err != nil {
			return r, false, err
		}
		next = transition.NextFence(0, at(now))
	case cur.expired:
		next = transition.NextFence(dedup.Fence(max(0, cur.fence)), at(now)) //nolint:gosec // not negative
	case cur.bad != "":
		return r, false, dedup.UnreadableError(k, cur.bad)
	default:
		r, next = cur.record, transition.NextFence(cur.record.Fence, at(now))
	}
	changed, answer := apply(&r, at(now), next)
	if answer != nil {
		return r, false, ruleError{answer}
	}
	if !changed {
		return r, true, nil
	}
	round(&r, now)
	switch {
	case cur == nil:
		done, err = s.insert(ctx, k, &r)
	case cur.expired: // its steps must go with it
		if done, err = s.remove(ctx, k, cur); done && err == nil {
			done, err = s.insert(ctx, k, &r)
		}
	default:
		done, err = s.update(ctx, k, cur, &r)
	}
	return r, done, err
}

// read returns the record, expired or not; nil if there is none.
func (s *Store) read(ctx context.Context, k dedup.Key) (cur *row, now int64, err error) {
	cur, err = s.one(ctx, k, s.st.read, []any{k.Scope, k.ID}, &now)
	return cur, now, err
}

// one runs a statement that returns at most one row: what before points to, the first of which points to the time or to
// whether the row is fresh, and the columns.
func (s *Store) one(ctx context.Context, k dedup.Key, st statement, args []any, before ...any) (*row, error) {
	var out *row
	err := s.again(ctx, func() error {
		out = nil
		rows, err := s.db.QueryContext(ctx, st.text, st.args(args)...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		if rows.Next() {
			raw, err := scan(rows, before...)
			if err != nil {
				return err
			}
			now, ok := before[len(before)-1].(*int64)
			if !ok {
				return fmt.Errorf("sqlstore: the time is a %T", before[len(before)-1])
			}
			*now = raw.seen(*now)
			r := raw.row(k, *now)
			out = &r
		}
		return errors.Join(rows.Close(), rows.Err())
	})
	return out, err
}

// exec runs a statement and returns how many rows it has changed.
func (s *Store) exec(ctx context.Context, st statement, args []any) (n int64, err error) {
	err = s.again(ctx, func() error {
		res, err := s.db.ExecContext(ctx, st.text, st.args(args)...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}

func (s *Store) clock(ctx context.Context) (now int64, err error) {
	err = s.again(ctx, func() error {
		rows, err := s.db.QueryContext(ctx, s.st.clock.text, s.st.clock.args(nil)...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		if rows.Next() {
			err = rows.Scan(&now)
		}
		return errors.Join(err, rows.Close(), rows.Err())
	})
	return now, err
}

func (s *Store) insert(ctx context.Context, k dedup.Key, r *dedup.Record) (done bool, err error) {
	n, err := s.exec(ctx, s.st.insert, append([]any{k.Scope, k.ID}, values(r)...))
	return n == 1, err
}

func (s *Store) update(ctx context.Context, k dedup.Key, cur *row, r *dedup.Record) (done bool, err error) {
	args := append([]any{k.Scope, k.ID}, values(r)...)
	n, err := s.exec(ctx, s.st.update, append(args, cur.fence, cur.version))
	return n == 1, err
}

func (s *Store) remove(ctx context.Context, k dedup.Key, cur *row) (done bool, err error) {
	n, err := s.exec(ctx, s.st.remove, []any{k.Scope, k.ID, cur.fence, cur.version})
	return n == 1, err
}
