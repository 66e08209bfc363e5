package tieredstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/idemq/idemq/dedup"
)

// SaveStep keeps a step in the durable tier, which outlives the fast one, under a copy of the claim there. If the durable
// tier keeps no steps they are in the fast tier and end with it; if neither does the error is [dedup.ErrNoAbility].
func (s *Store) SaveStep(ctx context.Context, h dedup.Hold, st dedup.SavedStep) error {
	keeper, ok := s.durable.(dedup.StepStore)
	if !ok {
		if keeper, ok = s.fast.(dedup.StepStore); !ok {
			return errNoSteps
		}
		return s.held(ctx, h, func() error { return keeper.SaveStep(ctx, h, st) })
	}
	f, err := s.record(ctx, h)
	switch {
	case err != nil:
		return err
	case f.State != dedup.Acquired:
		return dedup.ErrLeaseLost
	}
	if err := keeper.SaveStep(ctx, h, st); !errors.Is(err, dedup.ErrLeaseLost) {
		return err
	}
	if err := s.copyClaim(ctx, f); err != nil {
		return err
	}
	return keeper.SaveStep(ctx, h, st)
}

var errNoSteps = fmt.Errorf("tieredstore: %w: neither tier is a dedup.StepStore", dedup.ErrNoAbility)

// copyClaim puts a copy of a claim into the durable tier, for steps to be kept under. It is nobody's claim there; the fast
// tier says whose the key is.
func (s *Store) copyClaim(ctx context.Context, f dedup.Record) error {
	d, err := look(ctx, s.durable, f.Key)
	switch {
	case err != nil:
		return err
	case d.State.Settled() || d.Fence > f.Fence:
		return dedup.ErrLeaseLost
	}
	if err := s.durable.Adopt(ctx, f, d.Fence); err != nil {
		return err
	}
	s.claims.change(holdOf(&f), func(c *claim) { c.steps = true })
	return nil
}

// Steps returns the steps of a key. If this process holds the key, their memory is that of its claim from then on.
func (s *Store) Steps(ctx context.Context, k dedup.Key) ([]dedup.SavedStep, error) {
	keeper, ok := s.durable.(dedup.StepStore)
	if !ok {
		if keeper, ok = s.fast.(dedup.StepStore); !ok {
			return nil, errNoSteps
		}
		return keeper.Steps(ctx, k)
	}
	if c, held := s.claims.of(k); held && !c.steps && c.record.Attempt > 1 {
		if f, err := look(ctx, s.fast, k); err == nil && f.State == dedup.Acquired && owned(&f, holdOf(&c.record)) {
			if err := s.copyIfKept(ctx, keeper, f); err != nil {
				return nil, err
			}
		}
	}
	return keeper.Steps(ctx, k)
}

// copyIfKept copies a claim if there are steps to be kept under it.
func (s *Store) copyIfKept(ctx context.Context, keeper dedup.StepStore, f dedup.Record) error {
	steps, err := keeper.Steps(ctx, f.Key)
	if err != nil || len(steps) == 0 {
		return err
	}
	if err := s.copyClaim(ctx, f); !errors.Is(err, dedup.ErrLeaseLost) {
		return err
	}
	return nil // it is settled, and nobody will take it over
}

// Watch tells of changes, as far as the tiers do: the fast one, where everybody's calls come by, or else the durable one.
// If neither is a [dedup.Watcher] the error wraps [dedup.ErrNoAbility].
func (s *Store) Watch(ctx context.Context, k dedup.Key) (<-chan struct{}, error) {
	for _, t := range []tier{s.fast, s.durable} {
		if w, ok := t.(dedup.Watcher); ok {
			return w.Watch(ctx, k)
		}
	}
	return nil, fmt.Errorf("tieredstore: %w: neither tier is a dedup.Watcher", dedup.ErrNoAbility)
}
