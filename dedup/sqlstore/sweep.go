package sqlstore

import (
	"context"
	"fmt"

	"github.com/idemq/idemq/dedup"
)

// sweepShare is how many expired records go for each fresh one, so that sweeping outruns growing.
const sweepShare = 4

// Sweep removes up to limit records that have expired, and their steps, in one statement, and returns how many. Expired
// records count as absent at once; they are removed within the hour after. Several processes may sweep at once, and on
// Postgres share the work. Claims sweep by themselves (see [Config]); a program that does not want that calls Sweep until
// it returns less than the limit, every few minutes, with a limit of some hundreds that keeps each statement short.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if limit < 1 {
		return 0, fmt.Errorf("sqlstore: %w: the limit of Sweep is %d; give at least 1", dedup.ErrConfig, limit)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.exec(ctx, s.st.sweep, []any{limit})
	if err != nil {
		return 0, fmt.Errorf("sqlstore: sweep: %w", err)
	}
	return int(n), nil
}

// sweepNow counts fresh claims and sweeps when it is time. A failure is of no consequence to the claim, and the next
// sweep, or Sweep, meets it again.
func (s *Store) sweepNow(ctx context.Context, fresh int) {
	if s.sweepAfter < 0 || fresh == 0 {
		return
	}
	n := s.fresh.Add(int64(fresh))
	if n < s.sweepAfter || !s.fresh.CompareAndSwap(n, 0) {
		return
	}
	_, _ = s.Sweep(ctx, int(n)*sweepShare)
}
