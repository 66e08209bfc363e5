package tieredstore

import (
	"context"
	"errors"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// Extend restarts the lease, in the fast tier. A claim that the fast tier has lost together with everything else is put back.
func (s *Store) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	sent := time.Now()
	if err := s.held(ctx, h, func() error { return s.fast.Extend(ctx, h, lease) }); err != nil {
		return err
	}
	s.claims.change(h, func(c *claim) { c.sent, c.lease = sent, lease })
	if c, ok := s.claims.get(h); ok && c.steps {
		_ = s.durable.Extend(ctx, h, lease) // the steps must not be forgotten earlier; the next heartbeat tries again
	}
	return nil
}

// Release ends the claim so that it can be retried, in the fast tier.
func (s *Store) Release(ctx context.Context, h dedup.Hold, r dedup.Release) error {
	over, err := s.endings.begin(ctx, h.Key)
	if err != nil {
		return err
	}
	defer over()
	if err := s.held(ctx, h, func() error { return s.fast.Release(ctx, h, r) }); err != nil {
		return err
	}
	if c, ok := s.claims.get(h); ok && c.steps {
		_ = s.durable.Release(ctx, h, r) // likewise; what they outlive a little is their own memory
	}
	s.claims.drop(h.Key)
	return nil
}

// held calls op, and once more if the claim could be put back.
func (s *Store) held(ctx context.Context, h dedup.Hold, op func() error) error {
	err := op()
	if !errors.Is(err, dedup.ErrLeaseLost) {
		return err
	}
	back, err := s.putBack(ctx, h)
	switch {
	case err != nil:
		return err
	case !back:
		s.lost(h)
		return dedup.ErrLeaseLost
	}
	return op()
}

func (s *Store) lost(h dedup.Hold) {
	if _, ok := s.claims.get(h); ok {
		s.claims.drop(h.Key)
	}
}

// putBack puts a claim of this process into a fast tier that has lost everything since it was granted. While the quarantine
// runs it takes the place of what stands there unsettled: nothing was passed on to anybody meanwhile.
func (s *Store) putBack(ctx context.Context, h dedup.Hold) (bool, error) {
	c, ok := s.claims.get(h)
	if !ok || !c.runs() {
		return false, nil
	}
	epoch, wait, err := s.loss.look(ctx, c.lease)
	if err != nil {
		return false, err
	}
	if wait == 0 && epoch == c.epoch {
		return false, nil // nothing was lost: it was forgotten, or has expired, or was taken over
	}
	f, err := look(ctx, s.fast, h.Key)
	if err != nil {
		return false, err
	}
	d, err := look(ctx, s.durable, h.Key)
	if err != nil {
		return false, durableError("extend", h.Key, err)
	}
	if f.State.Settled() || f.State != dedup.Absent && wait == 0 || d.State.Settled() {
		return false, nil
	}
	err = s.fast.Adopt(ctx, c.record, f.Fence)
	if errors.Is(err, dedup.ErrLeaseLost) {
		return false, nil
	}
	if err == nil && wait == 0 {
		s.claims.change(h, func(c *claim) { c.epoch = epoch })
	}
	return err == nil, err
}

// Settle ends the claim for good: in the durable tier, and then in the fast one. Once the durable tier has it the key is
// settled, whatever becomes of the fast one; the first who is there wins, and anybody else gets [dedup.ErrLeaseLost].
func (s *Store) Settle(ctx context.Context, h dedup.Hold, st dedup.Settlement) error {
	over, err := s.endings.begin(ctx, h.Key)
	if err != nil {
		return err
	}
	defer over()
	f, err := s.record(ctx, h)
	if err != nil {
		if f, err = s.remembered(ctx, h, err); err != nil {
			return err
		}
	}
	r := f
	changed, err := transition.Settle(&r, h, st, f.ReadAt)
	if err != nil {
		return err
	}
	if changed {
		if err := s.commit(ctx, h, r); err != nil {
			return err
		}
		_ = s.fast.Adopt(ctx, r, h.Fence) // it reads the durable tier before it grants anything, and is warm then
	}
	s.lost(h)
	return nil
}

// remembered stands in for a fast tier that did not answer: while the lease of a claim of this process runs nobody can have
// taken over, and the durable tier is enough. Otherwise the error is the cause.
func (s *Store) remembered(ctx context.Context, h dedup.Hold, cause error) (dedup.Record, error) {
	c, known := s.claims.get(h)
	if !failed(ctx, cause) || !known || !c.runs() {
		return dedup.Record{}, cause
	}
	return transition.AsOf(c.record, c.record.ReadAt.Add(time.Since(c.sent))), nil
}

// record returns the fast tier's record of a claim, put back if need be.
func (s *Store) record(ctx context.Context, h dedup.Hold) (f dedup.Record, err error) {
	err = s.held(ctx, h, func() error {
		if f, err = look(ctx, s.fast, h.Key); err == nil && !owned(&f, h) {
			err = dedup.ErrLeaseLost
		}
		return err
	})
	return f, err
}

// commit puts a settled record into the durable tier, unless somebody else has settled the key.
func (s *Store) commit(ctx context.Context, h dedup.Hold, r dedup.Record) error {
	err := s.durable.Adopt(ctx, r, 0)
	for range maxRounds {
		if !errors.Is(err, dedup.ErrLeaseLost) {
			return err
		}
		d, derr := look(ctx, s.durable, h.Key)
		switch {
		case derr != nil:
			return derr
		case d.State == dedup.DeadSent && r.State == dedup.DeadOwed && owned(&d, h): // repeated, and the letter is out
			return nil
		case d.State.Settled() || d.Fence > h.Fence:
			_ = s.fast.Adopt(ctx, d, h.Fence)
			return dedup.ErrLeaseLost
		}
		err = s.durable.Adopt(ctx, r, d.Fence) // over what was reopened for this run, or a copy of the claim
	}
	return &dedup.StoreError{Op: "settle", Key: h.Key, Err: errUnsteady}
}

// LetterSent finishes a death, in the durable tier first.
func (s *Store) LetterSent(ctx context.Context, k dedup.Key, f dedup.Fence) error {
	err := s.durable.LetterSent(ctx, k, f)
	if errors.Is(err, dedup.ErrLeaseLost) {
		if _, ferr := look(ctx, s.fast, k); ferr != nil {
			return ferr
		}
	}
	if err == nil {
		_ = s.fast.LetterSent(ctx, k, f) // a death is read in the durable tier each time
	}
	return err
}
