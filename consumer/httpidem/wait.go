package httpidem

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

const (
	firstPoll = 10 * time.Millisecond
	lastPoll  = time.Second
)

// flight is a run of this process, on which duplicates wait.
type flight struct {
	key  dedup.Key
	fp   dedup.Fingerprint
	done chan struct{}
	// answer is what the handler answered, whether it was kept or not; nil if there is none. It is written before done is
	// closed, and never changed after.
	answer []byte
}

// flights are the runs of this process. Only a middleware whose duplicates wait keeps them.
type flights struct {
	mu   sync.Mutex
	runs map[dedup.Key]*flight
}

func (f *flights) begin(k dedup.Key, fp dedup.Fingerprint) *flight {
	run := &flight{key: k, fp: fp, done: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runs[k] = run
	return run
}

// end wakes who waits, with the answer, nil for none. Only the first call has an effect; calls must not overlap.
func (f *flights) end(run *flight, answer []byte) {
	select {
	case <-run.done:
		return
	default:
	}
	f.mu.Lock()
	if f.runs[run.key] == run { // a run that has lost its lease may have a successor
		delete(f.runs, run.key)
	}
	f.mu.Unlock()
	run.answer = answer
	close(run.done)
}

func (f *flights) find(k dedup.Key, fp dedup.Fingerprint) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if run := f.runs[k]; run != nil && run.fp.Matches(fp) {
		return run
	}
	return nil
}

// wait answers a duplicate of a busy key once the one at work has ended.
func (x *exchange) wait(busy dedup.Outcome) {
	ctx, cancel := context.WithTimeout(x.r.Context(), x.m.cfg.OnBusy.wait)
	defer cancel()
	var pause time.Duration // before the key is claimed again
	for ctx.Err() == nil {
		if run := x.m.flights.find(x.key, x.fp); run != nil {
			select {
			case <-run.done:
				x.joined(run)
				return
			case <-ctx.Done():
				continue
			}
		}
		out, err := x.m.d.Await(ctx, x.key)
		switch {
		case err == nil && out.Record.Fingerprint.Matches(x.fp):
			x.conclude(nil, out)
			return
		case errors.Is(err, errors.ErrUnsupported) && pause == 0:
			pause = firstPoll // the store cannot be waited on, so it is asked
		}
		// Nothing has come of it, or the store is down: whatever it is, the next claim finds out.
		if !rest(ctx, pause) {
			continue
		}
		pause = min(max(2*pause, firstPoll), lastPoll)
		var ended bool
		if busy, ended = x.claim(); ended {
			return
		}
	}
	if x.r.Context().Err() == nil { // otherwise nobody is there to be answered
		x.busy(busy.Wait())
	}
}

// joined answers with what a run of this process has answered.
func (x *exchange) joined(run *flight) {
	if run.answer != nil {
		x.replay(run.answer)
	} else {
		x.busy(0)
	}
}

// rest waits for d, more or less, and says whether the context goes on.
func rest(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // spreads load, protects nothing
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
