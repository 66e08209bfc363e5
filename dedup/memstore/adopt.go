package memstore

import (
	"context"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var _ dedup.Adopter = (*Store)(nil)

// Adopt takes over a record of another store.
func (s *Store) Adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	return s.held(ctx, r.Key, func(mine *dedup.Record, now time.Time) (bool, error) {
		changed, err := transition.Adopt(mine, r, over, now)
		if sh := s.shardOf(r.Key); changed {
			sh.fence = max(sh.fence, r.Fence) // what comes after it must be larger
		}
		return changed, err
	})
}
