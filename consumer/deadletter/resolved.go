package deadletter

import (
	"context"
	"errors"
	"fmt"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// ErrUnknownFate says that the store remembers nothing of the key, so that nobody can tell what became of the letter.
var ErrUnknownFate = errors.New("deadletter: the store has no record of the key (any more): what became of the letter cannot be told")

// Resolved says whether the fate of an entry is known: its key is consumed, or dead with a later letter. For a letter
// without a key of its own it is the key that its mark names, or the one that NewKey gives. An entry of a listing will
// do. If the store cannot tell, that is an error and not a no: [ErrUnknownFate], or the store's own.
func (r *Replayer) Resolved(ctx context.Context, e Entry) (bool, error) {
	if e.Letter == nil {
		return false, fmt.Errorf("deadletter: sequence %d: %w", e.Sequence, consumer.ErrNotLetter)
	}
	key := dedup.Key{Scope: e.Letter.Scope, ID: e.Letter.Key}
	own := e.Letter.Class.HasRecord()
	switch {
	case own:
	case e.Mark != nil:
		key.ID = e.Mark.Key
	default:
		key.ID = derivedKey(&e)
	}
	if err := key.Validate(); err != nil {
		return false, fmt.Errorf("deadletter: sequence %d: %w", e.Sequence, err)
	}
	rec, err := r.store.Get(ctx, key)
	switch {
	case errors.Is(err, dedup.ErrNotFound) && !own && e.Mark == nil:
		return false, nil // it was never replayed
	case errors.Is(err, dedup.ErrNotFound):
		return false, fmt.Errorf("%w (sequence %d, key %q)", ErrUnknownFate, e.Sequence, key.ID)
	case err != nil:
		return false, fmt.Errorf("deadletter: sequence %d: %w", e.Sequence, err)
	case rec.State == dedup.Consumed:
		return true, nil
	default:
		return rec.State == dedup.DeadSent && (!own || rec.Fence > e.Letter.Fence), nil
	}
}
