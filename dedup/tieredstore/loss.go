package tieredstore

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// markerKey is the key of the record that shows that the fast tier has not lost everything. Its states are those of any
// key: consumed while all is well; acquired while a quarantine runs, as long as its lease. Its fence names the time from one
// loss to the next.
var markerKey = dedup.Key{Scope: "idemq-tiers", ID: "marker"}

const (
	markerMemory = 10 * 365 * 24 * time.Hour
	firstLooks   = 250 // how often a process that begins looks again, while the very first one is about to write the marker
	firstPause   = 20 * time.Millisecond
)

// loss finds out whether the fast tier has lost everything.
type loss struct {
	fast, durable tier
	quarantine    time.Duration

	mu       sync.Mutex
	recorded bool // the durable tier knows that there was a marker
	seen     bool // this process has seen it
}

func newLoss(fast, durable tier, quarantine time.Duration) *loss {
	return &loss{fast: fast, durable: durable, quarantine: quarantine}
}

// look returns the fence of the marker, or for how long nothing may be granted. The lease is that of a claim.
func (l *loss) look(ctx context.Context, lease time.Duration) (epoch dedup.Fence, wait time.Duration, err error) {
	l.mu.Lock()
	recorded, seen := l.recorded, l.seen
	l.mu.Unlock()
	if l.quarantine > 0 {
		lease = l.quarantine
	}
	for n := 0; ; n++ {
		v, r, err := l.fast.Acquire(ctx, dedup.Claim{
			Key: markerKey, Nonce: dedup.Nonce(rand.Text()), Lease: lease, Retention: markerMemory, DeadRetention: markerMemory,
		})
		switch {
		case err != nil:
			return 0, 0, err
		case v == dedup.Granted:
			epoch, wait, err = l.missing(ctx, r, lease)
			if !errors.Is(err, dedup.ErrLeaseLost) || n >= firstLooks {
				return epoch, wait, err
			} // its lease was over before it was settled, and somebody else is at it
		case v != dedup.Busy:
			return r.Fence, 0, l.record(ctx, r, recorded)
		case seen || n >= firstLooks:
			return 0, max(r.Wait(), firstPause), nil
		default:
			// The very first one writes the marker to the durable tier, and then to the fast one. If the durable tier knows
			// another marker it is a quarantine.
			d, err := look(ctx, l.durable, markerKey)
			if err != nil || d.State != dedup.Absent && d.Fence != r.Fence {
				return 0, max(r.Wait(), firstPause), err
			}
		}
		if err := pause(ctx, firstPause); err != nil {
			return 0, 0, err
		}
	}
}

// missing decides what it means that there was no marker, or that its quarantine is over. The marker is held by us.
func (l *loss) missing(ctx context.Context, r dedup.Record, lease time.Duration) (dedup.Fence, time.Duration, error) {
	first := r.Attempt == 1
	known, err := l.known(ctx, r)
	if err != nil {
		return 0, 0, err
	}
	if first && known {
		return 0, lease, nil
	}
	if err := l.fast.Settle(ctx, holdOf(&r), dedup.Settlement{State: dedup.Consumed, Retention: markerMemory}); err != nil {
		return 0, 0, err
	}
	l.note()
	return r.Fence, 0, nil
}

// record makes sure that the durable tier knows that there is a marker.
func (l *loss) record(ctx context.Context, r dedup.Record, recorded bool) error {
	if !recorded {
		if _, err := l.known(ctx, r); err != nil {
			return err
		}
	}
	l.note()
	return nil
}

// known says whether the durable tier knew of a marker, and tells it.
func (l *loss) known(ctx context.Context, r dedup.Record) (bool, error) {
	r.State, r.ExpiresAt = dedup.Consumed, r.ReadAt.Add(markerMemory)
	err := l.durable.Adopt(ctx, r, 0)
	if errors.Is(err, dedup.ErrLeaseLost) {
		return true, nil
	}
	return false, err
}

func (l *loss) note() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recorded, l.seen = true, true
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
