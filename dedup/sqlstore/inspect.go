package sqlstore

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

const listPage = 256 // records per round trip of List

// Get returns the record, or dedup.ErrNotFound. Other errors as of Extend.
func (s *Store) Get(ctx context.Context, k dedup.Key) (dedup.Record, error) {
	return s.change(ctx, "get", k, func(r *dedup.Record, _ time.Time, _ dedup.Fence) (bool, error) {
		if r.State == dedup.Absent {
			return false, dedup.ErrNotFound
		}
		return false, nil
	})
}

// List returns the records in the order of their keys, read in pages; no transaction stays open between them.
func (s *Store) List(ctx context.Context, f dedup.Filter) iter.Seq2[dedup.Record, error] {
	return func(yield func(dedup.Record, error) bool) {
		last := dedup.Key{Scope: f.Scope}
		for {
			page, err := s.page(ctx, f, last)
			if err != nil {
				yield(dedup.Record{}, err)
				return
			}
			for i := range page {
				r, err := page[i].record, error(nil)
				if page[i].bad != "" {
					r = dedup.Record{Key: page[i].record.Key}
					err = dedup.UnreadableError(r.Key, page[i].bad)
				}
				last = r.Key
				if (err != nil || f.Selects(&r)) && !yield(r, err) {
					return
				}
			}
			if len(page) < listPage {
				return
			}
		}
	}
}

// page reads the records after a key.
func (s *Store) page(ctx context.Context, f dedup.Filter, last dedup.Key) (page []row, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	st := s.st.list
	if f.Scope != "" {
		st = s.st.listScope
	}
	err = s.again(ctx, func() error {
		page = page[:0]
		rows, err := s.db.QueryContext(ctx, st.text, st.args([]any{last.Scope, last.ID, listPage})...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var now int64
			var k dedup.Key
			raw, err := scan(rows, &now, &k.Scope, &k.ID)
			if err != nil {
				return err
			}
			r := raw.row(k, now)
			r.record.Key = k
			page = append(page, r)
		}
		return errors.Join(rows.Close(), rows.Err())
	})
	if err != nil {
		return nil, s.failure("list", last, err, false)
	}
	return page, nil
}

// Forget removes the record and its steps; see [dedup.Inspector].
func (s *Store) Forget(ctx context.Context, k dedup.Key, force bool) error {
	const op = "forget"
	if err := ready(ctx, op, k); err != nil {
		return err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	for tries := 1; ; tries++ {
		done, err := s.tryForget(ctx, k, force)
		switch {
		case err != nil:
			return wrap(err, func(err error) error { return s.failure(op, k, err, true) })
		case done:
			return nil
		}
		if err := lostRace(ctx, tries); err != nil {
			return s.failure(op, k, err, false)
		}
	}
}

func (s *Store) tryForget(ctx context.Context, k dedup.Key, force bool) (done bool, err error) {
	cur, _, err := s.read(ctx, k)
	switch {
	case err != nil:
		return false, err
	case cur == nil || cur.expired:
		return false, ruleError{dedup.ErrNotFound}
	case cur.record.LeaseLeft() > 0 && !force:
		return false, ruleError{dedup.ErrLeaseRunning}
	}
	return s.remove(ctx, k, cur)
}

// Reopen makes a dead or forgotten key ready for a replay; see [dedup.Inspector].
func (s *Store) Reopen(ctx context.Context, q dedup.ReopenRequest) (out dedup.Reopening, err error) {
	_, err = s.change(ctx, "reopen", q.Key, func(r *dedup.Record, now time.Time, next dedup.Fence) (changed bool, _ error) {
		out, changed = transition.Reopen(r, q, now, next)
		return changed, nil
	})
	if err != nil {
		return 0, err
	}
	return out, nil
}
