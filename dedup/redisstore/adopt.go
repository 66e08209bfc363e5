package redisstore

import (
	"context"

	"github.com/idemq/idemq/dedup"
)

var _ dedup.Adopter = (*Store)(nil)

// Adopt takes over a record of another store, as the fast tier of a tiered store does.
func (s *Store) Adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	if err := invalidClass(r.Cause.Class); err != nil {
		return s.failure(ctx, "adopt", r.Key, err)
	}
	memory := r.ExpiresIn()
	if r.ExpiresAt.IsZero() {
		memory = r.Retention
	}
	return s.one(ctx, "adopt", adoptScript, r.Key, fence(over), dedup.EncodeRecord(&r), millis(r.LeaseLeft()), millis(r.Wait()), millis(memory))
}
