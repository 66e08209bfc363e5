package tieredstore

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// choose returns which record counts: what is settled in the durable tier is; a claim or a failure in the fast tier counts
// unless the durable tier has a later one.
func choose(f, d dedup.Record) dedup.Record {
	switch {
	case f.State == dedup.Absent:
		return d
	case d.State == dedup.Absent, f.Fence == d.Fence && f.State.Settled(), f.Fence >= d.Fence && !d.State.Settled():
		return f
	}
	return d
}

// Get returns the record that counts, or [dedup.ErrNotFound]. One that is settled in the fast tier is answered from there.
func (s *Store) Get(ctx context.Context, k dedup.Key) (dedup.Record, error) {
	f, err := look(ctx, s.fast, k)
	if err != nil || f.State.Settled() {
		return f, err
	}
	d, err := look(ctx, s.durable, k)
	if err != nil {
		return dedup.Record{}, err
	}
	r := choose(f, d)
	if r.State == dedup.Absent {
		return r, dedup.ErrNotFound
	}
	return r, nil
}

// List returns the records of both tiers that the filter selects, each once. It asks both tiers about every record, so it
// takes several round trips for each.
func (s *Store) List(ctx context.Context, f dedup.Filter) iter.Seq2[dedup.Record, error] {
	return func(yield func(dedup.Record, error) bool) {
		if s.list(ctx, s.fast, f, func(dedup.Key) (bool, error) { return true, nil }, yield) {
			s.list(ctx, s.durable, f, func(k dedup.Key) (bool, error) { // the others were seen in the fast tier
				_, err := s.fast.Get(ctx, k)
				if errors.Is(err, dedup.ErrNotFound) {
					return true, nil
				}
				if errors.Is(err, dedup.ErrUnreadable) {
					return false, nil
				}
				return false, err
			}, yield)
		}
	}
}

// list shows what counts for each key of one tier, if it is wanted. It returns false at the end of the listing.
func (s *Store) list(ctx context.Context, t tier, f dedup.Filter, wanted func(dedup.Key) (bool, error), yield func(dedup.Record, error) bool) bool {
	for r, err := range t.List(ctx, dedup.Filter{Scope: f.Scope}) { // in the other tier its state may be another
		if r.Key == markerKey {
			continue
		}
		if err != nil && !errors.Is(err, dedup.ErrUnreadable) {
			yield(dedup.Record{}, err)
			return false
		}
		show, werr := wanted(r.Key)
		if werr != nil {
			yield(dedup.Record{}, werr)
			return false
		}
		if !show {
			continue
		}
		if err == nil && !r.State.Settled() {
			if r, err = s.Get(ctx, r.Key); errors.Is(err, dedup.ErrNotFound) {
				continue // it expired meanwhile
			}
		}
		if err == nil && !f.Selects(&r) {
			continue
		}
		if !yield(r, err) {
			return false
		}
	}
	return true
}

// Forget removes the record from the durable tier, and then from the fast one. If it fails in between it is to be repeated:
// the fast tier still knows the key.
func (s *Store) Forget(ctx context.Context, k dedup.Key, force bool) error {
	f, err := look(ctx, s.fast, k)
	switch {
	case errors.Is(err, dedup.ErrUnreadable): // nobody can hold it
	case err != nil:
		return err
	case f.LeaseLeft() > 0 && !force:
		return dedup.ErrLeaseRunning
	}
	gone := s.durable.Forget(ctx, k, true) // a copy of a claim is no claim
	if gone != nil && !errors.Is(gone, dedup.ErrNotFound) {
		return gone
	}
	s.claims.drop(k)
	err = s.fast.Forget(ctx, k, force)
	if errors.Is(err, dedup.ErrNotFound) {
		return gone
	}
	return err
}

// Reopen makes a dead key ready for a replay. The fast tier prepares it, since fences are its own, and it has succeeded when
// the durable tier has it: until then that one says that the key is dead, and nothing runs.
func (s *Store) Reopen(ctx context.Context, q dedup.ReopenRequest) (dedup.Reopening, error) {
	for range maxRounds {
		f, err := look(ctx, s.fast, q.Key)
		if err != nil {
			return 0, err
		}
		d, err := look(ctx, s.durable, q.Key)
		if err != nil {
			return 0, err
		}
		if r := choose(f, d); r.Fence != f.Fence || r.State != f.State { // the fast tier has forgotten something
			if err := s.fast.Adopt(ctx, reopened(r), f.Fence); err != nil && !errors.Is(err, dedup.ErrLeaseLost) {
				return 0, err
			}
			continue
		}
		answer, err := s.fast.Reopen(ctx, q)
		if err != nil || answer != dedup.Reopened && (answer != dedup.AlreadyOpen || !q.Rebind) {
			return answer, err
		}
		r, err := look(ctx, s.fast, q.Key)
		switch {
		case err != nil:
			return 0, err
		case answer == dedup.AlreadyOpen:
			return answer, s.rebind(ctx, q, r, d)
		case r.State != dedup.Failed || r.Generation != q.Generation+1:
			continue // somebody has asked for the key meanwhile, and the durable tier has told them that it is dead
		}
		r.Nonce = dedup.Nonce(rand.Text()) // two replayers may have read the same record; only one of them has reopened the key
		err = s.durable.Adopt(ctx, r, d.Fence)
		if !errors.Is(err, dedup.ErrLeaseLost) {
			open, _ := transition.Reopen(&d, q, r.UpdatedAt, r.Fence) // by the tier that decides it may have been open already
			return open, err
		}
	}
	return 0, &dedup.StoreError{Op: "reopen", Key: q.Key, Err: errUnsteady}
}

// rebind tells the durable tier of another fingerprint of a key that is open already.
func (s *Store) rebind(ctx context.Context, q dedup.ReopenRequest, r, d dedup.Record) error {
	if r.State != dedup.Failed || d.State == dedup.Absent || d.State.Settled() || d.Fingerprint == r.Fingerprint {
		return nil
	}
	if d.State == dedup.Acquired { // a copy of a claim that has been released since
		if err := s.durable.Release(ctx, holdOf(&d), dedup.Release{}); err != nil && !errors.Is(err, dedup.ErrLeaseLost) {
			return err
		}
	}
	_, err := s.durable.Reopen(ctx, q)
	return err
}
