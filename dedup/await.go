package dedup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	firstPoll = 10 * time.Millisecond
	lastPoll  = time.Second
	// awaitTries is how often in a row a record may fail to be read before Await gives up.
	awaitTries = 5
)

// AwaitOption is an option of one call of [Deduper.Await].
type AwaitOption func(*awaiting)

// ThroughRetries makes Await go on while nobody is at work: while nothing is known of the key, while it has failed and
// may be tried again, and after its owner has vanished. It then returns only when the key is consumed or dead, or the
// context ends. For who has published an operation and waits for what a worker makes of it.
func ThroughRetries() AwaitOption { return func(a *awaiting) { a.through = true } }

// Await waits while somebody else is at work on a key, and returns what came of it, without claiming the key:
//
//	consumed                        the verdict Duplicate, with the result
//	dead                            the verdict Dead, whether its letter is sent or still owed; Record.Cause says why
//	failed, to be tried again       ErrUnsettled, with the record: whoever comes next may run it
//	its lease is over, untaken      ErrUnsettled, likewise: its owner has vanished
//	nothing known, or forgotten     ErrNotFound
//
// With [ThroughRetries] the last three are waited through. A context that ends while it waits is returned as its error,
// with the record as it was seen last and the verdict Busy; without an end of its own Await waits as long as leases are
// extended. A record that cannot be read is tried again a few times, then its error is returned: [ErrUnreadable], or a
// [*StoreError].
//
// A store that is a [Watcher] tells when there is something to see. Any other, and one that can watch no longer, is asked
// again at growing intervals of up to a second. The store must be an [Inspector]; else the error wraps
// errors.ErrUnsupported. Await has no goroutine of its own, and is safe for concurrent use; what it costs the store is
// one read, and one more for each change and each lease that runs out meanwhile.
func (d *Deduper) Await(ctx context.Context, k Key, opts ...AwaitOption) (Outcome, error) {
	if err := k.Validate(); err != nil {
		return Outcome{}, err
	}
	inspector, ok := d.store.(Inspector)
	if !ok {
		return Outcome{}, fmt.Errorf("dedup: Await reads records, and this store is no Inspector: %w", errors.ErrUnsupported)
	}
	a := awaiting{d: d, key: k, inspector: inspector, pause: firstPoll}
	for _, o := range opts {
		o(&a)
	}
	a.watcher, _ = d.store.(Watcher)
	ctx, cancel := context.WithCancel(ctx) // ends the watch
	defer cancel()
	return a.run(ctx)
}

// awaiting is one call of Await.
type awaiting struct {
	d         *Deduper
	key       Key
	through   bool
	inspector Inspector
	watcher   Watcher // nil if the store cannot watch, or not this time

	changes <-chan struct{} // nil while nobody tells
	resting bool            // the store has just ended a watch; the next one begins after a pause
	pause   time.Duration   // the next one, if nobody tells
	failed  int             // reads in a row
	seen    Record          // at the last read that succeeded
}

func (a *awaiting) run(ctx context.Context) (Outcome, error) {
	for {
		verdict, left, err := a.look(ctx)
		switch {
		case verdict != Busy || err != nil:
			return Outcome{Verdict: verdict, Record: a.seen}, err
		case a.changes == nil && a.watch(ctx):
			continue // what happened before the watch was not told
		}
		a.wait(ctx, left)
	}
}

// look reads the record. Busy without an error means to go on waiting; left is then how long nothing but a change can end
// it, 0 if the record could not be read.
func (a *awaiting) look(ctx context.Context) (v Verdict, left time.Duration, err error) {
	if err := ctx.Err(); err != nil {
		return Busy, 0, err
	}
	getCtx, cancel := context.WithTimeout(ctx, a.d.cfg.StoreTimeout)
	r, err := a.inspector.Get(getCtx, a.key)
	cancel()
	switch {
	case err == nil:
		a.failed, a.seen = 0, r
	case errors.Is(err, ErrNotFound):
		a.failed, a.seen = 0, Record{}
		return a.idle(err)
	case ctx.Err() != nil:
		return Busy, 0, ctx.Err()
	default:
		if a.failed++; a.failed < awaitTries {
			err = nil
		}
		return Busy, 0, err
	}
	switch r.State {
	case Consumed:
		return Duplicate, 0, nil
	case DeadOwed, DeadSent:
		return Dead, 0, nil
	case Acquired:
		if left := r.LeaseLeft(); left > 0 {
			return Busy, left, nil
		}
	default:
	}
	return a.idle(fmt.Errorf("%w: %s is %s", ErrUnsettled, a.key, r.State))
}

// idle is the answer while nobody is at work. What is waited through is looked at once a lease, told or not.
func (a *awaiting) idle(why error) (Verdict, time.Duration, error) {
	if a.through {
		return Busy, a.d.cfg.Lease, nil
	}
	return Busy, 0, why
}

// watch begins to watch, and says whether it does. A store that refused is not asked again.
func (a *awaiting) watch(ctx context.Context) bool {
	if a.watcher == nil || a.resting || a.failed > 0 {
		return false
	}
	changes, err := a.watcher.Watch(ctx, a.key)
	if err != nil {
		a.watcher = nil
		return false
	}
	a.changes = changes
	return true
}

// wait returns when it is time to look: at a change, when the lease that was seen can be over, where nobody tells after a
// pause, and when the context ends.
func (a *awaiting) wait(ctx context.Context, left time.Duration) {
	pause := left
	if a.changes == nil || left == 0 {
		pause = a.pause/2 + rand.N(a.pause) //nolint:gosec // spreads load, protects nothing
		a.pause = min(2*a.pause, lastPoll)
	}
	t := time.NewTimer(max(pause, time.Millisecond)) // a lease that is just over by our clock may not be so by the store's
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
		a.resting = false
	case _, open := <-a.changes:
		if !open {
			a.changes, a.resting = nil, true
		}
	}
}
