package consumer

import (
	"context"
	"errors"
	"log/slog"

	"github.com/idemq/idemq/dedup"
)

// consume settles the claim as consumed if the handler has succeeded, by its word or, if it settles in its own transaction
// (dedup.SettleTx), by what is committed. It returns the error by which a claim that is still held has to end, or the one
// that says that it is lost or unconfirmed; neither if it is consumed.
func (a *Attempt) consume(ctx context.Context, handler error) (failed, lost error) {
	if handler != nil {
		if yes, _ := a.guard.Committed(ctx); !yes {
			return handler, nil
		}
		a.p.log(slog.LevelWarn, a.message, "the handler returned an error after its transaction was committed; the key is consumed", handler)
	}
	err := a.guard.Consume(ctx, nil)
	switch {
	case errors.Is(err, dedup.ErrNotSettledInTx): // a mistake in the handler, and its effect may be done: a person has to look
		return Permanent(err), nil
	case errors.Is(err, dedup.ErrNotCommitted):
		return err, nil
	}
	return nil, err
}
