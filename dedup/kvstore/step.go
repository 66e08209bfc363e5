package kvstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var _ dedup.StepStore = (*Store)(nil)

// SaveStep keeps a step under a claim. Record and steps are one message, so together they must not be larger than the
// server takes (max_payload, 1 MB unless configured); the error then wraps [dedup.ErrStepResult]. Errors otherwise as of
// Extend.
func (s *Store) SaveStep(ctx context.Context, h dedup.Hold, st dedup.SavedStep) error {
	const op = "save-step"
	_, err := s.changeSteps(ctx, op, h.Key, func(r *dedup.Record, steps *[]byte, _ time.Time) (action, error) {
		if err := transition.SaveStep(r, h); err != nil {
			return confirm, err
		}
		kept, err := dedup.DecodeSteps(h.Key, *steps)
		if err != nil {
			return leave, err
		}
		*steps = dedup.EncodeSteps(transition.KeepStep(kept, st))
		return replace, nil
	})
	if errors.Is(err, errTooLarge) {
		return &dedup.StoreError{Op: op, Key: h.Key, Err: fmt.Errorf("%w: %w", dedup.ErrStepResult, err)}
	}
	return err
}

// Steps returns the steps of a key in the order in which they were saved first. Like Get it is not confirmed with the
// replicas; a claim that was just acquired has confirmed what is read after it. Errors: [dedup.ErrUnreadable], a
// context's, or a [*dedup.StoreError].
func (s *Store) Steps(ctx context.Context, k dedup.Key) (out []dedup.SavedStep, err error) {
	_, err = s.changeSteps(ctx, "steps", k, func(_ *dedup.Record, steps *[]byte, _ time.Time) (action, error) {
		out, err = dedup.DecodeSteps(k, *steps)
		return leave, err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
