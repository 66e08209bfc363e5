package memstore

import (
	"bytes"
	"context"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var _ dedup.StepStore = (*Store)(nil)

// SaveStep keeps a step under a claim.
func (s *Store) SaveStep(ctx context.Context, h dedup.Hold, st dedup.SavedStep) error {
	st.Data = bytes.Clone(st.Data)
	return s.held(ctx, h.Key, func(r *dedup.Record, _ time.Time) (bool, error) {
		if err := transition.SaveStep(r, h); err != nil {
			return false, err
		}
		sh := s.shardOf(h.Key)
		if sh.steps == nil { // most programs have none
			sh.steps = map[dedup.Key][]dedup.SavedStep{}
		}
		sh.steps[h.Key] = transition.KeepStep(sh.steps[h.Key], st)
		return false, nil
	})
}

// Steps returns the steps of a key in the order in which they were saved first.
func (s *Store) Steps(ctx context.Context, k dedup.Key) (out []dedup.SavedStep, err error) {
	err = s.held(ctx, k, func(*dedup.Record, time.Time) (bool, error) {
		for _, st := range s.shardOf(k).steps[k] {
			out = append(out, dedup.SavedStep{Name: st.Name, Data: bytes.Clone(st.Data)})
		}
		return false, nil
	})
	return out, err
}
