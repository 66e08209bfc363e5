package transition

import (
	"time"

	"github.com/idemq/idemq/dedup"
)

// Adopt puts the record of another store in the place of r, if r has the fence over; see [dedup.Adopter].
func Adopt(r *dedup.Record, other dedup.Record, over dedup.Fence, now time.Time) (changed bool, err error) {
	switch {
	case r.State != dedup.Absent && r.Fence == other.Fence && r.Nonce == other.Nonce && r.State == other.State:
		return false, nil
	case r.Fence != over: // an absent record has the fence 0
		return false, dedup.ErrLeaseLost
	}
	*r = AsOf(other, now)
	return true, nil
}

// AsOf returns a record with the times that lie ahead counted from now, in place of the clock that it was read by.
func AsOf(r dedup.Record, now time.Time) dedup.Record {
	out := r.Clone()
	if r.State == dedup.Acquired {
		out.LeaseUntil = now.Add(r.LeaseLeft())
	}
	if r.State == dedup.Failed {
		out.NotBefore = now.Add(r.Wait())
	}
	memory := r.ExpiresIn()
	if r.ExpiresAt.IsZero() {
		memory = r.Retention
	}
	out.ExpiresAt, out.ReadAt = now.Add(memory), now
	return out
}
