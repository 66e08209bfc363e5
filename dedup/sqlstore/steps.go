package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/idemq/idemq/dedup"
)

// SaveStep keeps a step under a claim; see [dedup.StepStore]. Errors as of Extend.
func (s *Store) SaveStep(ctx context.Context, h dedup.Hold, step dedup.SavedStep) error {
	args := append(holdArgs(h), step.Name, notNil(step.Data))
	return s.held(ctx, "save-step", h.Key, s.st.saveStep, args, func(r *dedup.Record, _ time.Time, _ dedup.Fence) (bool, error) {
		return false, dedup.ErrLeaseLost
	})
}

// Steps returns the steps of a key; see [dedup.StepStore].
func (s *Store) Steps(ctx context.Context, k dedup.Key) (out []dedup.SavedStep, err error) {
	const op = "steps"
	if err := ready(ctx, op, k); err != nil {
		return nil, err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	err = s.again(ctx, func() error {
		out = nil
		rows, err := s.db.QueryContext(ctx, s.st.steps.text, s.st.steps.args([]any{k.Scope, k.ID})...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var step dedup.SavedStep
			if err := rows.Scan(&step.Name, &step.Data); err != nil {
				return err
			}
			out = append(out, step)
		}
		return errors.Join(rows.Close(), rows.Err())
	})
	if err != nil {
		return nil, s.failure(op, k, err, false)
	}
	return out, nil
}
