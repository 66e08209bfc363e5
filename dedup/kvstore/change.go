package kvstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/idemq/idemq/dedup"
)

const (
	// callLimit bounds a call whose context has no deadline.
	callLimit = 5 * time.Second
	// maxPause is the longest pause before a change that lost against another is tried again. Each such conflict means
	// that somebody else got on, so pauses need not grow.
	maxPause = 10 * time.Millisecond
)

// action is what becomes of an entry after a rule has looked at it.
type action uint8

const (
	leave   action = iota // answer without further ado: a wrong answer does no harm
	confirm               // the answer may lead to an acknowledgement: it must not come from a stale read
	replace               // write the changed record
)

// rule applies a function of package transition to r. It may be called several times and must start afresh each time.
// Its error is passed on to the caller.
type rule func(r *dedup.Record, now time.Time) (action, error)

// change reads, applies the rule and writes, until no other change comes in between. A repeated call whose first copy was
// applied finds its own nonce and fence in the record, which the rules take for success.
func (s *Store) change(ctx context.Context, op string, k dedup.Key, apply rule) (dedup.Record, error) {
	return s.changeSteps(ctx, op, k, func(r *dedup.Record, _ *[]byte, now time.Time) (action, error) { return apply(r, now) })
}

// stepsRule is a rule that may also put others in the place of the record's steps, which are in their stored form.
type stepsRule func(r *dedup.Record, steps *[]byte, now time.Time) (action, error)

// changeSteps is change for a rule about steps.
func (s *Store) changeSteps(ctx context.Context, op string, k dedup.Key, apply stepsRule) (dedup.Record, error) {
	if err := k.Validate(); err != nil {
		return dedup.Record{}, &dedup.StoreError{Op: op, Key: k, Err: err}
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	for {
		r, err := s.try(ctx, op, k, apply)
		if !errors.Is(err, errConflict) {
			return r, err
		}
		if err := pause(ctx); err != nil {
			return dedup.Record{}, readError(op, k, err)
		}
	}
}

func (s *Store) try(ctx context.Context, op string, k dedup.Key, apply stepsRule) (dedup.Record, error) {
	e, at, err := s.load(ctx, op, k)
	if err != nil {
		return dedup.Record{}, err
	}
	r, err := e.record(at.time)
	if err != nil {
		return dedup.Record{}, err
	}
	if r.State == dedup.Absent {
		e.steps = nil // of a record that has expired
	}
	before, steps := r, e.steps
	what, answer := apply(&r, &steps, at.time)
	switch {
	case what == replace:
		return s.write(ctx, op, k, e.revision, &r, steps, at.time)
	case what == confirm && at.replicated && before.State == dedup.Absent:
		err = s.writeMarker(ctx, op, k, e.revision)
	case what == confirm && at.replicated:
		// The bytes stay the same but for the fence, which must not become the new revision.
		_, err = s.write(ctx, op, k, e.revision, &before, e.steps, at.time)
	}
	if err != nil {
		return dedup.Record{}, err
	}
	return r, answer
}

// limit gives a call that has no deadline one.
func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callLimit)
}

func pause(ctx context.Context) error {
	t := time.NewTimer(rand.N(maxPause))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
