package dedup

import (
	"context"
	"iter"
	"time"
)

// Claim is the request to work on a key.
type Claim struct {
	Key         Key
	Nonce       Nonce
	Fingerprint Fingerprint
	// Lease is how long the claim holds unless extended. It must be positive.
	Lease time.Duration
	// Retention is how long the record is remembered after its last change while it is not settled. A store adds the
	// lease, and the delay of a retry, so that neither can outlive the record.
	Retention time.Duration
	// DeadRetention is how long the record is remembered if this very Acquire finds it at a limit and makes it dead.
	DeadRetention time.Duration
	// MaxAttempts is the number of attempts after which the next Acquire makes the key dead. 0 is no limit.
	MaxAttempts int
	// MaxAbandoned is the number of abandonments (a lease ran out and was not settled) at which the Acquire that finds
	// the last one makes the key dead. 1 is the policy "let a person decide"; 0 is no limit.
	MaxAbandoned int
	// Letters says that dead letters are published, so that a key that reaches a limit owes one.
	Letters bool
}

// Hold is the proof of ownership that comes with every change.
type Hold struct {
	Key   Key
	Fence Fence
	Nonce Nonce
}

// Settlement ends a claim for good.
type Settlement struct {
	// State is Consumed, DeadOwed, or DeadSent where no letters are configured.
	State State
	// Result is kept with a consumed key and comes with every later Duplicate.
	Result []byte
	// Cause says why the key is dead.
	Cause Cause
	// Retention is how long the settled record is remembered. A record that was replayed (Generation above 1) is not
	// remembered for less than what was left of its memory.
	Retention time.Duration
}

// Release ends a claim so that it can be retried.
type Release struct {
	Cause Cause
	// Delay is the time until the next try is due, by the store's clock.
	Delay time.Duration
	// Uncounted gives the attempt back (the handler ended because of a shutdown) and counts an interruption instead.
	Uncounted bool
	// MaxInterrupted is the number of interruptions beyond which Uncounted counts all the same. 0 is no limit.
	MaxInterrupted int
}

// Store keeps records. All methods are atomic per key, safe for concurrent use, and idempotent under the same nonce: a
// call whose answer was lost can be repeated. The rules are those of package transition; package storetest checks them.
//
// Every error is [ErrLeaseLost], [ErrUnreadable] (wrapped), a context's error, or a [*StoreError].
type Store interface {
	// Acquire claims a key. The record is the one that the verdict is about, as it is after the call.
	Acquire(ctx context.Context, c Claim) (Verdict, Record, error)
	// Extend restarts the lease of a claim, also after its end if nobody took over.
	Extend(ctx context.Context, h Hold, lease time.Duration) error
	// Settle ends a claim for good.
	Settle(ctx context.Context, h Hold, s Settlement) error
	// Release ends a claim so that it can be retried.
	Release(ctx context.Context, h Hold, r Release) error
	// LetterSent says that the dead letter of the claim with this fence is published and confirmed. Anybody may call it.
	LetterSent(ctx context.Context, k Key, f Fence) error
}

// Acquisition is one answer of [Batcher.AcquireMany].
type Acquisition struct {
	Verdict Verdict
	Record  Record
	Err     error
}

// HeldSettlement is one request of [Batcher.SettleMany].
type HeldSettlement struct {
	Hold       Hold
	Settlement Settlement
}

// Batcher is a [Store] that does many operations in one round trip. One record's failure does not touch the others.
type Batcher interface {
	// AcquireMany claims every key; answer i belongs to claim i. Equal keys in one call are treated one after another.
	AcquireMany(ctx context.Context, claims []Claim) []Acquisition
	// SettleMany settles every claim; error i belongs to request i.
	SettleMany(ctx context.Context, settlements []HeldSettlement) []error
}

// Filter selects records for [Inspector.List]. Its zero value selects all.
type Filter struct {
	// Scope selects one scope; empty selects all.
	Scope string
	// States selects some states; empty selects all.
	States []State
}

// Selects says whether a record passes the filter.
func (f Filter) Selects(r *Record) bool {
	if f.Scope != "" && f.Scope != r.Key.Scope {
		return false
	}
	for _, s := range f.States {
		if s == r.State {
			return true
		}
	}
	return len(f.States) == 0
}

// Inspector is a [Store] that an operator can look into.
type Inspector interface {
	// Get returns the record, or [ErrNotFound].
	Get(ctx context.Context, k Key) (Record, error)
	// List returns the records in no particular order. It is not a snapshot: what changes meanwhile may be seen or not.
	// An unreadable record comes as a Record with its key alone and an error that wraps [ErrUnreadable]; the listing
	// goes on. Any other error ends it.
	List(ctx context.Context, f Filter) iter.Seq2[Record, error]
	// Forget removes the record: [ErrNotFound] if there is none, [ErrLeaseRunning] if a lease runs and force is not set.
	// It also removes an unreadable one.
	Forget(ctx context.Context, k Key, force bool) error
	// Reopen makes a dead key ready for a replay; see [ReopenRequest].
	Reopen(ctx context.Context, r ReopenRequest) (Reopening, error)
}

// ReopenRequest asks for a replay of the dead letter that carries Fence.
type ReopenRequest struct {
	Key         Key
	Fence       Fence // of the letter
	Generation  int   // of the letter
	Fingerprint Fingerprint
	// Rebind puts Fingerprint in the place of the record's own, because the payload was edited on purpose.
	Rebind bool
	// Retention is how long the reopened record is remembered if nobody acquires it.
	Retention time.Duration
}

// Reopening is the answer to a [ReopenRequest].
type Reopening uint8

// The answers. Only Reopened and AlreadyOpen let the replay go on.
const (
	// Reopened: the key was dead by this letter, or absent; it is failed now, due at once, with a new fence.
	Reopened Reopening = iota + 1
	// AlreadyOpen: somebody reopened it by this letter before; publishing again does no harm.
	AlreadyOpen
	// Resolved: a later fate is known (consumed, or dead again with a later letter); do not publish.
	Resolved
	// NotSettled: the death that this letter tells of is not finished; stop, and try again later.
	NotSettled
)

var reopeningNames = [...]string{"none", "reopened", "already-open", "resolved", "not-settled"}

// String returns the answer's name.
func (r Reopening) String() string {
	if int(r) < len(reopeningNames) {
		return reopeningNames[r]
	}
	return "unknown"
}

// Describer is a [Store] that can say where it keeps its records, without credentials: "redis://127.0.0.1:6379/0".
type Describer interface {
	Describe() string
}
