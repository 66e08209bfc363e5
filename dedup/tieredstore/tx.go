package tieredstore

import (
	"context"
	"fmt"

	"github.com/idemq/idemq/dedup"
)

var _ dedup.TxSettler = (*Store)(nil)

// SettleTx inserts the settled record in the caller's transaction, whose database must be the durable tier's; handlers call
// it through [dedup.SettleTx]. Two that hold a claim on the same key, because the fast tier has forgotten one, cannot both
// commit: the second gets [dedup.ErrSettledElsewhere]. Until Committed has been asked the fast tier knows nothing of it,
// and need not: it grants nothing before the durable tier has said that the key is not settled.
func (s *Store) SettleTx(ctx context.Context, tx dedup.Tx, granted dedup.Record, st dedup.Settlement) error {
	d, ok := s.durable.(dedup.TxInserter)
	if !ok {
		return fmt.Errorf("tieredstore: %w: the durable tier (%T) cannot settle in a transaction; use sqlstore", dedup.ErrConfig, s.durable)
	}
	return d.InsertSettledTx(ctx, tx, granted, st)
}

// Committed says whether the claim is consumed in the durable tier, and if so tells the fast one.
func (s *Store) Committed(ctx context.Context, granted dedup.Record) (bool, error) {
	d, ok := s.durable.(dedup.TxInserter)
	if !ok {
		return false, nil
	}
	yes, err := d.Committed(ctx, granted)
	if err != nil || !yes {
		return false, err
	}
	if r, err := s.durable.Get(ctx, granted.Key); err == nil {
		_ = s.fast.Adopt(ctx, r, granted.Fence) // it is warm then; it reads the durable tier before it grants anything
	}
	s.lost(holdOf(&granted))
	return true, nil
}
