package kvstore

import (
	"context"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var _ dedup.Adopter = (*Store)(nil)

// Adopt takes over a record of another store, as the durable tier of a tiered store does. It keeps the record's fence,
// while those of Acquire and Reopen are revisions, which are smaller; a bucket is used in the one way or in the other.
// Errors as of Extend.
func (s *Store) Adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	return s.held(ctx, "adopt", r.Key, func(mine *dedup.Record, now time.Time) (bool, error) {
		return transition.Adopt(mine, r, over, now)
	})
}
