package dedup

import "time"

// State is what has become of a key. The transitions between states are in package transition.
type State uint8

// The states of a record. A dead record exists in two states, because nothing may be terminated before its letter is out.
const (
	Absent   State = iota // nothing is remembered
	Acquired              // somebody holds a lease and is at it, or its lease has run out
	Failed                // the last try failed; it may be tried again, not before Record.NotBefore
	Consumed              // the handler succeeded and the store knows
	DeadOwed              // it will not be tried again; its dead letter is still to be published
	DeadSent              // it will not be tried again; its dead letter is published, or none is wanted
)

var stateNames = [...]string{"absent", "acquired", "failed", "consumed", "dead-owed", "dead"}

// String returns the name of the state as the command line and the logs use it.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// ParseState reads what [State.String] writes; ok is false for anything else.
func ParseState(name string) (s State, ok bool) {
	for i, n := range stateNames {
		if n == name {
			return State(i), true
		}
	}
	return Absent, false
}

// Settled says whether nobody works on the key any more, for good: consumed or dead.
func (s State) Settled() bool { return s == Consumed || s == DeadOwed || s == DeadSent }

// Fence is a number that grows with every acquisition of a key, so that a sink can refuse an older owner. It is at most
// 2^53, which a Lua or JSON number holds exactly; microseconds since 1970 reach that in the year 2255.
type Fence uint64

// Nonce identifies one call of Begin. A repeated Acquire with the same nonce is the same claim, and every change of a
// record needs it beside the fence. Stores compare nonces byte by byte; a nonce has 1 to 64 visible ASCII characters.
type Nonce string

// Class says why a message became a dead letter. It is part of a dead letter's subject.
type Class string

// The classes. MissingKey, Malformed and ConflictingPayload never have a record of their own.
const (
	MissingKey         Class = "missing_key" // the message carried no key
	Malformed          Class = "malformed"   // its key or its headers could not be read
	ConflictingPayload Class = "conflict"    // its key is known with another payload
	Permanent          Class = "permanent"   // the handler said that a retry cannot help
	Exhausted          Class = "exhausted"   // the attempts are used up
	Abandoned          Class = "abandoned"   // its owner vanished; a person decides
)

// HasRecord says whether a message of this class died under a key of its own, so that there is a record of that.
func (c Class) HasRecord() bool { return c != MissingKey && c != Malformed && c != ConflictingPayload }

// Cause is why the last try ended without success.
type Cause struct {
	// Class is empty while the key may be tried again.
	Class Class
	// Message is the error's text, cut to [MaxCauseLength] bytes. It is untrusted: escape it before printing.
	Message string
}

// MaxCauseLength is how much of an error's text a record keeps, in bytes. The rest is in the logs and in the dead letter.
const MaxCauseLength = 512

// Record is what a store remembers of a key. All times are the store's own clock; ReadAt is that clock at the time of
// the answer, so that durations can be taken without comparing two machines' clocks. A Record is a snapshot: changing it
// changes nothing in the store.
type Record struct {
	Key   Key
	State State
	Fence Fence
	Nonce Nonce // of the owner, or of the last one

	Attempt     int // counted from 1; 0 after Reopen, or when the only try was interrupted
	Abandoned   int // how often a lease ran out and somebody else took over
	Interrupted int // how often a shutdown gave an attempt back
	Generation  int // the number that the key's next dead letter bears, counted from 1; a replay raises it

	Fingerprint Fingerprint
	Result      []byte // what the handler left, if it was consumed
	Cause       Cause

	LeaseUntil time.Time     // if Acquired
	NotBefore  time.Time     // if Failed
	Retention  time.Duration // how long an unsettled record is remembered after its last change
	ExpiresAt  time.Time     // when the store forgets the record; zero if it cannot tell
	CreatedAt  time.Time     // first acquired
	FailedAt   time.Time     // first failure of this generation; zero if none
	UpdatedAt  time.Time     // last change
	ReadAt     time.Time     // the store's clock when it answered
}

// LeaseLeft is how long the lease still ran when the record was read, 0 if it was over or there is none.
func (r *Record) LeaseLeft() time.Duration {
	if r.State != Acquired {
		return 0
	}
	return max(0, r.LeaseUntil.Sub(r.ReadAt))
}

// Wait is how long an Acquire has to wait for a verdict other than Busy, as far as the record tells: the rest of the
// lease, or the time until the next try is due.
func (r *Record) Wait() time.Duration {
	switch r.State {
	case Acquired:
		return r.LeaseLeft()
	case Failed:
		return max(0, r.NotBefore.Sub(r.ReadAt))
	default:
		return 0
	}
}

// ExpiresIn is how long the record is still remembered, 0 if the store cannot tell.
func (r *Record) ExpiresIn() time.Duration {
	if r.ExpiresAt.IsZero() {
		return 0
	}
	return max(0, r.ExpiresAt.Sub(r.ReadAt))
}

// Clone returns a copy that shares no memory with r.
func (r *Record) Clone() Record {
	c := *r
	if r.Result != nil {
		c.Result = append([]byte{}, r.Result...)
	}
	return c
}
