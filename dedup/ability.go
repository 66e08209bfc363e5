package dedup

import "context"

// Watcher is a [Store] that tells when a key changes, so that who waits for an outcome need not ask again and again.
type Watcher interface {
	// Watch returns a channel that receives after every Settle, Release, LetterSent, Reopen and Forget of the key, by
	// whichever process, that is acknowledged after Watch has returned. Signals are hints: several changes may come as
	// one, and one may come without a change, so look at the record after each; look once after Watch, too, for what
	// happened before it. The channel is closed when ctx ends, and when the store can watch no longer; the caller then
	// asks by itself. Extensions of a lease are not told.
	Watch(ctx context.Context, k Key) (<-chan struct{}, error)
}

// SavedStep is the saved result of a finished part of a handler's work; see [Step].
type SavedStep struct {
	// Name is the step's name, unique within its key.
	Name string
	// Data is what the core keeps for the step. To a store it is bytes.
	Data []byte
}

// StepStore is a [Store] that keeps the results of finished steps with a record, and forgets them with it.
type StepStore interface {
	// SaveStep keeps a step under a claim. Like Settle it needs the right fence, nonce and the state acquired, else the
	// error is [ErrLeaseLost]. A step with the name of a saved one takes its place, so that a call whose answer was lost
	// can be repeated.
	SaveStep(ctx context.Context, h Hold, s SavedStep) error
	// Steps returns the steps of a key in the order in which they were saved first, whatever the state of its record;
	// none, and no error, if there are none or there is no record.
	Steps(ctx context.Context, k Key) ([]SavedStep, error)
}

// Adopter is a [Store] that takes over whole records of another store. A tiered store is built on two of them.
type Adopter interface {
	// Adopt puts r in the place of the record under its key that has the fence over; 0 stands for no record. If something
	// else is there, nothing changes and the error is [ErrLeaseLost]; if r is there already, by fence, nonce and state, the
	// call is a repeated one and succeeds. Lease, delay and memory are counted from r.ReadAt to the store's own clock;
	// other times are kept as they are. The steps of the record that is replaced stay. An unreadable record is
	// [ErrUnreadable].
	//
	// A store whose fences come from elsewhere than the clock may give smaller ones after it has adopted a record, so its
	// own Acquire and Reopen must not be used beside it.
	Adopt(ctx context.Context, r Record, over Fence) error
}

// BatchAdopter is an [Inspector] and [Adopter] that reads and takes over many records in one round trip, so that a tiered
// store works in batches, too. One record's failure does not touch the others.
type BatchAdopter interface {
	// GetMany reads every key; answer i belongs to key i.
	GetMany(ctx context.Context, keys []Key) []Found
	// AdoptMany is Adopt for every record; error i belongs to adoption i. Equal keys in one call are treated one after
	// another.
	AdoptMany(ctx context.Context, adoptions []Adoption) []error
}

// Found is one answer of [BatchAdopter.GetMany]: what [Inspector.Get] returns.
type Found struct {
	Record Record
	Err    error
}

// Adoption is one request of [BatchAdopter.AdoptMany]: the parameters of [Adopter.Adopt].
type Adoption struct {
	Record Record
	Over   Fence
}

// TxInserter is a [Store] whose database can keep the settled record of a claim that is held elsewhere: the durable tier of
// a tiered store, for [SettleTx].
type TxInserter interface {
	// InsertSettledTx executes one statement in tx that keeps the claim which was granted with this record as settled. Scope
	// and key are unique, so of several transactions only one can commit; for the others the error is
	// [ErrSettledElsewhere], and they must be rolled back. Other errors are the driver's, as they are.
	InsertSettledTx(ctx context.Context, tx Tx, granted Record, s Settlement) error
	// Committed is as in [TxSettler].
	Committed(ctx context.Context, granted Record) (bool, error)
}
