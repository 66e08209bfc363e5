package redisstore

import (
	"context"

	"github.com/idemq/idemq/dedup"
)

var _ dedup.StepStore = (*Store)(nil)

// SaveStep keeps a step under a claim.
func (s *Store) SaveStep(ctx context.Context, h dedup.Hold, st dedup.SavedStep) error {
	s.granted.take(&h) // its record changes
	return s.one(ctx, "save-step", saveStepScript, h.Key, fence(h.Fence), string(h.Nonce), st.Name, st.Data)
}

// Steps returns the steps of a key in the order in which they were saved first.
func (s *Store) Steps(ctx context.Context, k dedup.Key) ([]dedup.SavedStep, error) {
	r := s.run(ctx, stepsScript, call{keys: []string{s.name(k)}})[0]
	if r.err != nil {
		return nil, s.failure(ctx, "steps", k, r.err)
	}
	raw, ok := r.value.(string)
	if !ok {
		return nil, unreadable(k)
	}
	return dedup.DecodeSteps(k, []byte(raw))
}
