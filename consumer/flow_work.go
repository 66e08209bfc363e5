package consumer

import (
	"context"
	"time"
)

// work is a worker. A handler that ends its goroutine ends its worker, which is replaced.
func (f *Flow) work() {
	f.mu.Lock()
	defer f.mu.Unlock()
	busy := false
	defer func() {
		if busy {
			f.mu.Lock()
			f.ended(-1)
			f.atWork.Go(f.work)
		}
	}()
	for f.awaitWork() {
		f.running++
		busy = true
		begun := time.Now()
		if f.process != nil {
			w := f.waiting.pop()
			f.wake(f.waiting.len())
			f.mu.Unlock()
			f.process(f.ctx, w.delivery)
		} else {
			a := f.ready.pop()
			f.wake(f.ready.len())
			f.mu.Unlock()
			f.serve(a)
		}
		f.mu.Lock()
		busy = false
		f.ended(time.Since(begun))
	}
}

// awaitWork waits for something to do, and returns false when there will be nothing more. The caller holds mu.
func (f *Flow) awaitWork() bool {
	for {
		switch {
		case f.process != nil && f.waiting.len() > 0, f.process == nil && f.ready.len() > 0:
			return true
		case f.stopping && !f.claiming:
			return false
		}
		f.idle++
		f.toRun.Wait()
		f.idle--
		f.waking = false
	}
}

// wake wakes a worker if there is something for it. One is woken at a time, and wakes the next: where handlers are quick
// those that are awake are done before many more would be. The caller holds mu.
func (f *Flow) wake(left int) {
	if left > 0 && f.idle > 0 && !f.waking {
		f.waking = true
		f.toRun.Signal()
	}
}

// ended is the end of a worker's time at a message, if that time is known. The caller holds mu.
func (f *Flow) ended(after time.Duration) {
	f.running--
	f.held--
	if after >= 0 {
		f.cycle = average(f.cycle, after)
	}
	if f.waiting.len() > 0 {
		f.toClaim.Signal()
	}
	f.seat()
}

// serve runs the handler of a claim, whose lease has most of its time before it, and leaves a success to the settlements.
func (f *Flow) serve(a *Attempt) {
	p := f.p
	if a.guard == nil {
		p.conclude(f.ctx, a.entry, p.runUntracked(f.ctx, a.delivery, a.entry, a.down))
		return
	}
	if lost := a.guard.Err(); lost != nil {
		a.giveUp(lost, nil)
		p.conclude(f.ctx, a.entry, fate{delay: parkedDelay})
		return
	}
	if time.Since(a.arrived) > f.maxWait/2 {
		if err := a.renewFirst(); err != nil {
			f.putBack(a, Returned, err)
			return
		}
	}
	err := a.handle()
	if err == nil && a.defers() {
		f.settles.add(a)
		return
	}
	ctx := context.WithoutCancel(a.guard.Context())
	_ = a.finish(ctx, a.interrupted(a.guard.Context(), err)) // what went wrong is counted and logged there
	p.conclude(ctx, a.entry, a.outcome())
}
