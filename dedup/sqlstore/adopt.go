package sqlstore

import (
	"context"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var _ dedup.Adopter = (*Store)(nil)

// Adopt takes over a record of another store, as the durable tier of a tiered store does. Errors as of Extend.
func (s *Store) Adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	_, err := s.change(ctx, "adopt", r.Key, func(mine *dedup.Record, now time.Time, _ dedup.Fence) (bool, error) {
		return transition.Adopt(mine, r, over, now)
	})
	return err
}
