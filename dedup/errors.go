package dedup

import (
	"errors"
	"fmt"
)

// Sentinel errors, for errors.Is.
var (
	// ErrInvalidKey: a key or scope that cannot be stored.
	ErrInvalidKey = errors.New("dedup: invalid idempotency key")
	// ErrLeaseLost: the caller does not own the claim any more (or never did). Nothing was changed. Whoever gets it must
	// not acknowledge, reject or otherwise answer for the message.
	ErrLeaseLost = errors.New("dedup: lease lost")
	// ErrUnreadable: the stored bytes are not a record of a version that this build knows. Forget the key, or use a
	// newer build.
	ErrUnreadable = errors.New("dedup: the stored record is unreadable")
	// ErrNotFound: nothing is remembered of the key.
	ErrNotFound = errors.New("dedup: no record")
	// ErrUnsettled: nobody is at work on the key any more, and nothing has come of it; it may be tried again.
	ErrUnsettled = errors.New("dedup: no outcome, and nobody is at work on it")
	// ErrLeaseRunning: Forget was refused, because somebody holds the lease.
	ErrLeaseRunning = errors.New("dedup: a lease is running on this key; wait for its end, or force it")
	// ErrStepChanged: a handler calls other steps, or in another order, than in an earlier attempt of the same key.
	ErrStepChanged = errors.New("dedup: the steps have changed between two attempts of one key")
	// ErrStepMisuse: a step that cannot be run like this: no claim, a bad name, a name twice, too many steps.
	ErrStepMisuse = errors.New("dedup: this step cannot be run")
	// ErrStepResult: a step is done, and its result cannot be kept, or cannot be read any more. It is not run again.
	ErrStepResult = errors.New("dedup: the result of a step cannot be used")
	// ErrNoAbility: the store cannot do what is asked for; the message names what can.
	ErrNoAbility = errors.New("dedup: the store is not able to do this")
	// ErrConfig: a setting that cannot work. The message names it.
	ErrConfig = errors.New("dedup: invalid configuration")
)

// StoreError is a store's failure to answer. Stores return it for everything that is not one of the sentinel errors;
// find it with errors.As.
type StoreError struct {
	// Op is the operation: "acquire", "extend", "settle", "release", …
	Op string
	// Key is the record's key.
	Key Key
	// Indeterminate says that the operation may have been applied although its answer was lost. It can be repeated with
	// the same fence and nonce.
	Indeterminate bool
	// Err is what the client library said.
	Err error
}

// Error names the operation, the key and the cause.
func (e *StoreError) Error() string {
	s := "failed"
	if e.Indeterminate {
		s = "was sent, but its answer was lost"
	}
	return fmt.Sprintf("dedup: %s of %s %s: %v", e.Op, e.Key, s, e.Err)
}

// Unwrap returns the client library's error.
func (e *StoreError) Unwrap() error { return e.Err }

// UnreadableError returns an error for a record of key whose bytes mean nothing to this build. It wraps
// [ErrUnreadable] and says what to do.
func UnreadableError(key Key, why string) error {
	return fmt.Errorf("%w: %s: %s; a newer version can read it if it wrote it, otherwise forget the key", ErrUnreadable, key, why)
}
