package linear

import (
	"fmt"
	"time"

	"github.com/idemq/idemq/dedup"
)

// row is what the checker knows of a record: all that an answer depends on. It can be compared.
type row struct {
	state                                       dedup.State
	fence                                       dedup.Fence
	lost                                        bool        // the fence was in an answer that was lost
	last                                        dedup.Fence // the largest one known to have been given, also to a record that was forgotten
	nonce                                       dedup.Nonce
	attempt, abandoned, interrupted, generation int
	failed                                      bool // in this generation
	fingerprint                                 dedup.Fingerprint
	class                                       dedup.Class
	result                                      string
	running                                     bool // its lease
	brief                                       bool // the lease, which may end at any time
	waiting                                     bool // for the next try to be due
}

// epoch is when everything happens for the rules.
var epoch = time.UnixMicro(1 << 40)

// endless is a lease or delay that does not end within a history; brief is a lease that ends at any time from its begin,
// since stores round it up to the next step of their clock.
const (
	endless = time.Hour
	brief   = time.Nanosecond
)

// record is the row as the rules want it.
func (r row) record() dedup.Record {
	if r.state == dedup.Absent {
		return dedup.Record{}
	}
	out := dedup.Record{
		State: r.state, Fence: r.fence, Nonce: r.nonce, Attempt: r.attempt, Abandoned: r.abandoned, Interrupted: r.interrupted,
		Generation: r.generation, Fingerprint: r.fingerprint, Result: []byte(r.result), Cause: dedup.Cause{Class: r.class},
		LeaseUntil: epoch, NotBefore: epoch, ExpiresAt: epoch.Add(endless),
	}
	if r.failed {
		out.FailedAt = epoch
	}
	if r.running {
		out.LeaseUntil = epoch.Add(endless)
	}
	if r.brief {
		out.LeaseUntil = epoch.Add(brief)
	}
	if r.waiting {
		out.NotBefore = epoch.Add(endless)
	}
	return out
}

// after is the row that the rules have made a record of.
func (r row) after(rec dedup.Record) row {
	return row{
		state: rec.State, fence: rec.Fence, lost: r.lost, last: r.last, nonce: rec.Nonce, attempt: rec.Attempt, abandoned: rec.Abandoned,
		interrupted: rec.Interrupted, generation: rec.Generation, failed: !rec.FailedAt.IsZero(), fingerprint: rec.Fingerprint,
		class: rec.Cause.Class, result: string(rec.Result),
		running: rec.State == dedup.Acquired && rec.LeaseUntil.After(epoch),
		brief:   rec.State == dedup.Acquired && rec.LeaseUntil.Sub(epoch) == brief,
		waiting: rec.State == dedup.Failed && rec.NotBefore.After(epoch),
	}
}

// shows says whether a store that holds the row can answer with the record, and what is known of the row afterwards.
func (r row) shows(seen dedup.Record) (row, bool) {
	if r.lost && seen.Fence > r.last {
		r.fence, r.last, r.lost = seen.Fence, seen.Fence, false
	}
	same := !r.lost && r.state == seen.State && r.fence == seen.Fence && r.nonce == seen.Nonce && r.attempt == seen.Attempt &&
		r.abandoned == seen.Abandoned && r.interrupted == seen.Interrupted && r.generation == seen.Generation &&
		r.fingerprint == seen.Fingerprint && r.class == seen.Cause.Class && r.result == string(seen.Result)
	return r, same
}

// granted is the row after a change that gave it a new fence; 0 is one that nobody has seen.
func (r row) granted(f dedup.Fence) row {
	r.fence, r.lost = f, f == 0
	r.last = max(r.last, f)
	return r
}

func (r row) String() string {
	if r.state == dedup.Absent {
		return fmt.Sprintf("absent (last fence %d)", r.last)
	}
	s := fmt.Sprintf("%s fence %d by %q, attempt %d, abandoned %d, interrupted %d, generation %d", r.state, r.fence, r.nonce, r.attempt,
		r.abandoned, r.interrupted, r.generation)
	for name, on := range map[string]bool{"lease runs": r.running && !r.brief, "lease may be over": r.brief, "not due": r.waiting, "fence unknown": r.lost} {
		if on {
			s += ", " + name
		}
	}
	return s
}
