package tieredstore

import (
	"context"
	"errors"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

const (
	maxRounds   = 8               // of an Acquire that the tiers' difference sends back to its beginning
	returnLimit = 2 * time.Second // for giving back a claim that was not passed on
)

var errUnsteady = errors.New("tieredstore: the record changed again and again meanwhile; try again")

// Acquire claims a key in the fast tier, and passes on the claim once the durable tier has said that the key is not settled.
func (s *Store) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	for range maxRounds {
		sent := time.Now()
		v, r, err := s.fast.Acquire(ctx, c)
		switch {
		case err != nil:
			return s.withoutFast(ctx, c, err)
		case decided(v):
			return v, r, nil
		}
		d, err := look(ctx, s.durable, c.Key)
		v, r, done, err := s.decide(ctx, c, granted{v, r, sent}, dedup.Found{Record: d, Err: err}, func() (m marker, err error) {
			m.epoch, m.wait, err = s.loss.look(ctx, c.Lease)
			return m, err
		})
		if err != nil || done {
			return v, r, err
		}
	}
	return 0, dedup.Record{}, &dedup.StoreError{Op: "acquire", Key: c.Key, Err: errUnsteady}
}

// decided says whether the fast tier's verdict is enough: nothing runs, and nothing is buried, by these.
func decided(v dedup.Verdict) bool {
	return v == dedup.Duplicate || v == dedup.Busy || v == dedup.Conflict
}

// withoutFast answers for a settled key while the fast tier does not: what is settled stays so.
func (s *Store) withoutFast(ctx context.Context, c dedup.Claim, cause error) (dedup.Verdict, dedup.Record, error) {
	if !failed(ctx, cause) {
		return 0, dedup.Record{}, cause
	}
	d, err := s.durable.Get(ctx, c.Key)
	a := settledOnly(c, dedup.Found{Record: d, Err: err}, cause)
	return a.Verdict, a.Record, a.Err
}

// settledOnly answers by the durable tier's record if that is settled, else with the cause.
func settledOnly(c dedup.Claim, d dedup.Found, cause error) dedup.Acquisition {
	if d.Err != nil || !d.Record.State.Settled() {
		return dedup.Acquisition{Err: cause}
	}
	v, _ := transition.Acquire(&d.Record, c, d.Record.ReadAt, 0)
	return dedup.Acquisition{Verdict: v, Record: d.Record}
}

// granted is what the fast tier has answered: granted, or dead. It was asked when sent.
type granted struct {
	verdict dedup.Verdict
	record  dedup.Record
	sent    time.Time
}

// marker is what a look at the marker has shown; see loss.look.
type marker struct {
	epoch dedup.Fence
	wait  time.Duration
}

// decide answers by what the two tiers know. It is not done if the fast tier has to be asked again.
func (s *Store) decide(ctx context.Context, c dedup.Claim, g granted, found dedup.Found, look func() (marker, error)) (dedup.Verdict, dedup.Record, bool, error) {
	v, r, d := g.verdict, g.record, found.Record
	switch {
	case found.Err != nil:
		s.giveBack(ctx, v, &r, 0)
		return 0, dedup.Record{}, true, durableError("acquire", c.Key, found.Err)
	case d.State.Settled():
		return s.settled(ctx, c, &r, d)
	case d.State != dedup.Absent && newer(&d, &r):
		if err := s.fast.Adopt(ctx, reopened(d), r.Fence); err != nil && !errors.Is(err, dedup.ErrLeaseLost) {
			return 0, dedup.Record{}, true, err
		}
		return 0, dedup.Record{}, false, nil
	case v != dedup.Granted: // it died at a limit just now, or the one who found that did not get here
		err := s.durable.Adopt(ctx, r, d.Fence)
		if errors.Is(err, dedup.ErrLeaseLost) {
			return 0, dedup.Record{}, false, nil
		}
		return v, r, true, durableError("acquire", c.Key, err)
	}
	m, err := look()
	if err != nil {
		s.giveBack(ctx, v, &r, 0)
		return 0, dedup.Record{}, true, durableError("acquire", c.Key, err)
	}
	if m.wait > 0 { // somebody may still hold a claim that the fast tier has lost
		s.giveBack(ctx, v, &r, m.wait)
		r.State, r.LeaseUntil, r.NotBefore = dedup.Failed, time.Time{}, r.ReadAt.Add(m.wait)
		return dedup.Busy, r, true, nil
	}
	s.claims.put(claim{record: r.Clone(), lease: c.Lease, sent: g.sent, epoch: m.epoch})
	return v, r, true, nil
}

// settled answers by the durable tier's record and warms the fast tier with it.
func (s *Store) settled(ctx context.Context, c dedup.Claim, r *dedup.Record, d dedup.Record) (dedup.Verdict, dedup.Record, bool, error) {
	if r.Fence != d.Fence || r.State != d.State || r.Nonce != d.Nonce {
		if errors.Is(s.fast.Adopt(ctx, d, r.Fence), dedup.ErrLeaseLost) {
			return 0, dedup.Record{}, false, nil // somebody has changed it meanwhile
		} // any other error: the answer is certain all the same
	}
	v, _ := transition.Acquire(&d, c, d.ReadAt, 0)
	return v, d, true, nil
}

// newer says whether the durable tier's unsettled record knows what the fast one has forgotten: a replay, the fingerprint,
// or a fence that must not come again.
func newer(d, r *dedup.Record) bool {
	return d.Fence >= r.Fence && !owned(d, holdOf(r)) || d.Generation > r.Generation || !d.Fingerprint.Matches(r.Fingerprint)
}

// reopened returns an unsettled record of the durable tier as one that may be tried at once. The claim that it may be a copy
// of is gone, or a newer one would not have been granted.
func reopened(d dedup.Record) dedup.Record {
	if d.State == dedup.Acquired {
		d.State, d.LeaseUntil, d.NotBefore = dedup.Failed, time.Time{}, d.ReadAt
	}
	return d
}

// giveBack releases a claim that is not passed on to the caller. If that fails too it ends with its lease.
func (s *Store) giveBack(ctx context.Context, v dedup.Verdict, r *dedup.Record, delay time.Duration) {
	if v != dedup.Granted {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), returnLimit)
	defer cancel()
	_ = s.fast.Release(ctx, holdOf(r), dedup.Release{Uncounted: true, Delay: delay})
}
