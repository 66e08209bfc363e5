// Package transition is the state machine of a record: what each call of a [dedup.Store] does to it, as pure functions
// without a clock and without input or output. Stores that read, change and write back in one atomic step (memstore,
// kvstore) use it as it is; redisstore has the same rules in Lua, and package storetest holds both to them.
//
// A function that changes nothing says so, and its record must not be written. A record's Fingerprint is set by the first
// granted Acquire that has one, and from then on changed by Reopen alone.
package transition

import (
	"time"

	"github.com/idemq/idemq/dedup"
)

// Acquire answers a claim at the store's time now. The record r is changed in place; its zero value stands for an absent
// key. The fence is taken as given, so the caller passes one larger than every earlier one of the key (see [NextFence]).
func Acquire(r *dedup.Record, c dedup.Claim, now time.Time, fence dedup.Fence) (v dedup.Verdict, changed bool) {
	if r.State != dedup.Absent && !r.Fingerprint.Matches(c.Fingerprint) {
		return dedup.Conflict, false
	}
	switch r.State {
	case dedup.Consumed:
		return dedup.Duplicate, false
	case dedup.DeadSent:
		return dedup.Dead, false
	case dedup.DeadOwed:
		return dedup.LetterOwed, false
	case dedup.Acquired:
		if r.LeaseUntil.After(now) {
			if r.Nonce == c.Nonce {
				return dedup.Granted, false
			}
			return dedup.Busy, false
		}
		r.Abandoned++
		if r.FailedAt.IsZero() {
			r.FailedAt = r.LeaseUntil
		}
		if c.MaxAbandoned > 0 && r.Abandoned >= c.MaxAbandoned {
			return die(r, c, now, fence, dedup.Cause{Class: dedup.Abandoned, Message: abandonedMessage}), true
		}
		if limitReached(r, c) {
			return die(r, c, now, fence, dedup.Cause{Class: dedup.Exhausted, Message: abandonedMessage}), true
		}
	case dedup.Failed:
		// A nonce that has released its claim is spent: the call is a late copy, and granting it would leave a lease that
		// nobody holds.
		if r.NotBefore.After(now) || r.Nonce == c.Nonce {
			return dedup.Busy, false
		}
		if limitReached(r, c) {
			return die(r, c, now, fence, dedup.Cause{Class: dedup.Exhausted, Message: r.Cause.Message}), true
		}
	case dedup.Absent:
		*r = dedup.Record{Key: c.Key, Generation: 1, Fingerprint: c.Fingerprint, CreatedAt: now}
	}
	if r.Fingerprint.IsZero() {
		r.Fingerprint = c.Fingerprint
	}
	r.State, r.Fence, r.Nonce = dedup.Acquired, fence, c.Nonce
	r.Attempt++
	r.LeaseUntil, r.NotBefore = now.Add(c.Lease), time.Time{}
	r.Retention = c.Retention
	touch(r, now, c.Retention+c.Lease, true)
	return dedup.Granted, true
}

const abandonedMessage = "the lease of the last try ran out: its owner vanished or lost its connection"

func limitReached(r *dedup.Record, c dedup.Claim) bool {
	return c.MaxAttempts > 0 && r.Attempt >= c.MaxAttempts
}

// die makes the record dead on behalf of an acquirer, which then owns the death: new fence, its nonce.
func die(r *dedup.Record, c dedup.Claim, now time.Time, fence dedup.Fence, cause dedup.Cause) dedup.Verdict {
	r.Fence, r.Nonce = fence, c.Nonce
	s, v := dedup.DeadSent, dedup.Dead
	if c.Letters {
		s, v = dedup.DeadOwed, dedup.LetterOwed
	}
	settle(r, dedup.Settlement{State: s, Cause: cause, Retention: c.DeadRetention}, now)
	return v
}

// owns says whether the record is h's, whatever its state. A reopened record has no nonce and is nobody's.
func owns(r *dedup.Record, h dedup.Hold) bool {
	return r.State != dedup.Absent && h.Nonce != "" && r.Fence == h.Fence && r.Nonce == h.Nonce
}

// Extend restarts the lease, also after its end if nobody took over.
func Extend(r *dedup.Record, h dedup.Hold, lease time.Duration, now time.Time) (changed bool, err error) {
	if !owns(r, h) || r.State != dedup.Acquired {
		return false, dedup.ErrLeaseLost
	}
	r.LeaseUntil = now.Add(lease)
	touch(r, now, r.Retention+lease, true)
	return true, nil
}

// Settle ends the claim for good. Repeated in its own end state it succeeds and changes nothing; DeadSent counts as the
// end of a Settle(DeadOwed) too, since LetterSent may have come in between.
func Settle(r *dedup.Record, h dedup.Hold, s dedup.Settlement, now time.Time) (changed bool, err error) {
	if !owns(r, h) || !s.State.Settled() {
		return false, dedup.ErrLeaseLost
	}
	if r.State == s.State || (r.State == dedup.DeadSent && s.State == dedup.DeadOwed) {
		return false, nil
	}
	if r.State != dedup.Acquired {
		return false, dedup.ErrLeaseLost
	}
	settle(r, s, now)
	return true, nil
}

func settle(r *dedup.Record, s dedup.Settlement, now time.Time) {
	replayed := r.Generation > 1
	r.State, r.Cause = s.State, s.Cause
	r.Result = nil
	if s.State == dedup.Consumed {
		r.Result, r.Cause = s.Result, dedup.Cause{}
	} else if r.FailedAt.IsZero() {
		r.FailedAt = now
	}
	r.LeaseUntil, r.NotBefore = time.Time{}, time.Time{}
	r.Retention = s.Retention
	touch(r, now, s.Retention, replayed)
}

// Release ends the claim so that it can be retried. Repeated, it succeeds and changes nothing.
func Release(r *dedup.Record, h dedup.Hold, rel dedup.Release, now time.Time) (changed bool, err error) {
	if !owns(r, h) {
		return false, dedup.ErrLeaseLost
	}
	if r.State == dedup.Failed {
		return false, nil
	}
	if r.State != dedup.Acquired {
		return false, dedup.ErrLeaseLost
	}
	r.State, r.Cause = dedup.Failed, rel.Cause
	if rel.Uncounted {
		if r.Interrupted++; rel.MaxInterrupted == 0 || r.Interrupted <= rel.MaxInterrupted {
			r.Attempt = max(0, r.Attempt-1)
		}
	} else if r.FailedAt.IsZero() {
		r.FailedAt = now
	}
	r.LeaseUntil, r.NotBefore = time.Time{}, now.Add(max(0, rel.Delay))
	touch(r, now, r.Retention+max(0, rel.Delay), true)
	return true, nil
}

// LetterSent finishes a death. Repeated, it succeeds and changes nothing.
func LetterSent(r *dedup.Record, f dedup.Fence, now time.Time) (changed bool, err error) {
	if r.Fence != f || (r.State != dedup.DeadOwed && r.State != dedup.DeadSent) {
		return false, dedup.ErrLeaseLost
	}
	if r.State == dedup.DeadSent {
		return false, nil
	}
	r.State = dedup.DeadSent
	touch(r, now, r.Retention, true)
	return true, nil
}

// Reopen makes a dead or forgotten key ready for the replay of one letter. It compares the letter's fence and never the
// generation, because a generation alone lets an old letter open a later death.
func Reopen(r *dedup.Record, q dedup.ReopenRequest, now time.Time, fence dedup.Fence) (dedup.Reopening, bool) {
	switch {
	case r.State == dedup.Absent, r.State == dedup.DeadSent && r.Fence == q.Fence:
		created, fp := r.CreatedAt, r.Fingerprint
		if r.State == dedup.Absent {
			created, fp = now, q.Fingerprint
		}
		if q.Rebind {
			fp = q.Fingerprint
		}
		*r = dedup.Record{
			Key: q.Key, State: dedup.Failed, Fence: fence, Generation: q.Generation + 1, Fingerprint: fp,
			NotBefore: now, Retention: q.Retention, CreatedAt: created, ExpiresAt: r.ExpiresAt,
		}
		touch(r, now, q.Retention, true)
		return dedup.Reopened, true
	case (r.State == dedup.Failed || r.State == dedup.Acquired || r.State == dedup.DeadOwed) && r.Fence != q.Fence:
		if r.State == dedup.Failed && q.Rebind && r.Fingerprint != q.Fingerprint {
			r.Fingerprint = q.Fingerprint
			touch(r, now, r.Retention, true)
			return dedup.AlreadyOpen, true
		}
		return dedup.AlreadyOpen, false
	case r.State == dedup.Consumed, r.State == dedup.DeadSent && r.Fence > q.Fence:
		return dedup.Resolved, false
	default:
		return dedup.NotSettled, false
	}
}

// NextFence is the rule for stores whose fences come from a clock: larger than the previous one, and not smaller than
// the time in microseconds, so that it grows over expiry and Forget too while the clock does not go back.
func NextFence(previous dedup.Fence, now time.Time) dedup.Fence {
	return max(previous+1, dedup.Fence(max(0, now.UnixMicro())))
}

// touch sets the time of the last change and when the record is forgotten. With keep the memory never gets shorter: a
// reopened key must be remembered as long as its dead letter can be replayed.
func touch(r *dedup.Record, now time.Time, memory time.Duration, keep bool) {
	until := now.Add(memory)
	if keep && r.ExpiresAt.After(until) {
		until = r.ExpiresAt
	}
	r.UpdatedAt, r.ExpiresAt = now, until
}
