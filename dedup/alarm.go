package dedup

import (
	"sync"
	"time"
)

// alarms wakes claims when a third of their lease has gone by. Nearly all have ended by then; so until then none has a timer
// of its own. They stand in one list in the order in which they are due, which is that of their sends, since all have the
// same lease. One timer is set for the first of them, and left alone when that one ends: a deduper that is busy sets it three
// times in a lease.
type alarms struct {
	epoch time.Time     // times are counted from here
	after time.Duration // a claim is due so long after its send
	slack time.Duration // a claim may be woken so much later

	mu          sync.Mutex
	first, last *Guard
	latest      time.Duration // when the last that was ever added is due
	set         bool          // the timer runs
}

const slackParts = 64 // the slack is this part of a lease

func (a *alarms) init(lease time.Duration) {
	a.epoch, a.after, a.slack = time.Now(), lease/leaseParts, lease/slackParts
}

// add sees to it that g is woken. It refuses a claim whose answer came so late that it would stand behind others which are
// due after it, and one from before the deduper was made, as the clock of package synctest has it; those need timers of
// their own.
func (a *alarms) add(g *Guard, sent time.Time) bool {
	due := sent.Sub(a.epoch) + a.after
	a.mu.Lock()
	defer a.mu.Unlock()
	if due+a.slack < a.latest {
		return false
	}
	a.latest = max(a.latest, due)
	g.due, g.listed = due, true
	if g.before = a.last; g.before != nil {
		g.before.behind = g
	} else {
		a.first = g
	}
	a.last = g
	if !a.set { // the latter if its clock stands still for ever, as a test's may
		a.setTimer(due)
	}
	return true
}

// remove forgets a claim. It may be called repeatedly.
func (a *alarms) remove(g *Guard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unlink(g)
}

func (a *alarms) unlink(g *Guard) {
	if !g.listed {
		return
	}
	if g.before != nil {
		g.before.behind = g.behind
	} else {
		a.first = g.behind
	}
	if g.behind != nil {
		g.behind.before = g.before
	} else {
		a.last = g.before
	}
	g.before, g.behind, g.listed = nil, nil, false
}

// setTimer sets the timer. The caller holds mu.
func (a *alarms) setTimer(due time.Duration) {
	a.set = true
	time.AfterFunc(time.Until(a.epoch.Add(due)), a.ring)
}

// ring wakes what is due.
func (a *alarms) ring() {
	now := time.Since(a.epoch)
	a.mu.Lock()
	defer a.mu.Unlock()
	for g := a.first; g != nil && g.due <= now; g = a.first {
		a.unlink(g)
		go g.wake() // ends at once if the claim has ended meanwhile, and else is waited for by whoever ends it
	}
	if a.set = a.first != nil; a.set {
		a.setTimer(a.first.due)
	}
}
