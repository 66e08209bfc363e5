package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/breaker"
)

// claim claims whatever has arrived, again and again, until the flow stops. There is no timer: the next batch gathers
// while this one is under way.
func (f *Flow) claim() {
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.claiming = false
		f.toRun.Broadcast()
	}()
	for batch := f.next(); batch != nil; batch = f.next() {
		f.claimBatch(batch)
	}
}

// next waits for deliveries that may be claimed: no more than the workers and their claims ahead. It returns nil when the
// flow stops.
func (f *Flow) next() []arrival {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if f.stopping {
			return nil
		}
		n := min(f.waiting.len(), f.workers+f.ahead()-f.running-f.ready.len(), maxBatch)
		if n > 0 {
			return f.waiting.take(n)
		}
		f.toClaim.Wait()
	}
}

// claimBatch finds out what each delivery is: what has to run becomes ready, everything else is answered.
func (f *Flow) claimBatch(batch []arrival) {
	p := f.p
	attempts, requests := make([]*Attempt, 0, len(batch)), make([]dedup.Request, 0, len(batch))
	for _, w := range batch {
		if a := f.screen(w); a != nil {
			attempts = append(attempts, a)
			requests = append(requests, dedup.Request{Key: dedup.Key{Scope: p.scope, ID: a.entry.id}, Fingerprint: a.entry.fingerprint})
		}
	}
	begun := p.beginMany(f.ctx, requests)
	ready := attempts[:0]
	for i, a := range attempts {
		switch b := begun[i]; {
		case b.Guard != nil:
			a.granted(b.Guard)
			ready = append(ready, a)
		case p.untracked(f.ctx, b.Err):
			a.down = b.Err
			ready = append(ready, a)
		default:
			f.decline(a, b)
		}
	}
	if len(ready) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopping {
		f.putBackAll(ready, Interrupted, ErrShutdown)
		return
	}
	f.ready.push(ready...)
	f.wake(f.ready.len())
}

// screen turns a delivery away, or returns the attempt at it.
func (f *Flow) screen(w arrival) *Attempt {
	s := f.p.screen(w.delivery)
	if !s.decided() {
		return &Attempt{p: f.p, delivery: w.delivery, message: w.delivery.Message(), entry: s.entry, arrived: w.at}
	}
	slow := !s.quick() || s.known && confirms(w.delivery)
	f.answer(!slow, func() { f.p.turnAway(f.answers, w.delivery, s) })
	return nil
}

// decline answers a delivery whose claim was not granted: a duplicate, most of all.
func (f *Flow) decline(a *Attempt, b dedup.Begun) {
	quick := b.Err != nil || b.Outcome.Verdict != dedup.LetterOwed && b.Outcome.Verdict != dedup.Conflict
	f.answer(quick && !confirms(a.delivery), func() { f.p.conclude(f.ctx, a.entry, f.p.decline(f.ctx, a.delivery, b)) })
}

// confirms says whether an ack would wait for the broker.
func confirms(del Delivery) bool {
	c, ok := del.(Confirmer)
	return ok && c.Confirms()
}

// answer answers a delivery that does not run: at once, or in a goroutine of its own if that can take its time.
func (f *Flow) answer(quick bool, send func()) {
	if quick {
		send()
		f.leave()
		return
	}
	f.atWork.Go(func() {
		defer f.leave()
		send()
	})
}

// leave ends the stay of a delivery.
func (f *Flow) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held--
	f.seat()
}

// beginMany asks for the verdicts of many keys. The breaker sees a call that was answered for any of them as a success.
func (p *Pipeline) beginMany(ctx context.Context, requests []dedup.Request) []dedup.Begun {
	if len(requests) == 0 {
		return nil
	}
	call, err := p.breaker.Allow()
	if err != nil {
		begun := make([]dedup.Begun, len(requests))
		for i, r := range requests {
			begun[i].Err = &dedup.StoreError{Op: "acquire", Key: r.Key, Err: err}
		}
		return begun
	}
	begun := p.d.BeginMany(ctx, requests, dedup.WithLetters())
	var failure error
	for _, b := range begun {
		if !storeFailed(b.Err) {
			call.End(nil)
			return begun
		}
		failure = b.Err
	}
	call.End(failure)
	for range min(len(begun), breaker.Failures) - 1 { // as many failures as there were
		if call, err := p.breaker.Allow(); err == nil {
			call.End(failure)
		}
	}
	return begun
}

func storeFailed(err error) bool {
	if err == nil {
		return false
	}
	se := (*dedup.StoreError)(nil)
	return errors.As(err, &se) || errors.Is(err, context.DeadlineExceeded)
}

// watchAges gives back, from time to time, what has waited for too long and has no worker in sight: the deadline of the
// lease, and that of the broker, run on what waits.
func (f *Flow) watchAges() {
	t := time.NewTicker(max(f.maxWait*waitParts/ageParts, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-f.ending:
			return
		case <-t.C:
			f.giveBackOld()
		}
	}
}

var errWaited = errors.New("consumer: no worker became free in time")

func (f *Flow) giveBackOld() {
	before := time.Now().Add(-f.maxWait)
	var waiting []arrival
	var ready []*Attempt
	f.mu.Lock()
	if f.running < f.workers {
		f.mu.Unlock()
		return // somebody is about to take it
	}
	for f.waiting.len() > 0 && f.waiting.first().at.Before(before) {
		waiting = append(waiting, f.waiting.pop())
	}
	for f.ready.len() > 0 && f.ready.first().arrived.Before(before) {
		ready = append(ready, f.ready.pop())
	}
	f.mu.Unlock()
	for _, w := range waiting {
		f.p.giveBack(f.ctx, w.delivery, Returned, beforeHandler, errWaited)
		f.leave()
	}
	f.putBackAll(ready, Returned, errWaited)
}

// putBackers is how many claims are put back at once.
const putBackers = 16

// putBackAll puts claims back in goroutines of the flow.
func (f *Flow) putBackAll(as []*Attempt, kind EventKind, cause error) {
	for first := range min(putBackers, len(as)) {
		f.atWork.Go(func() {
			for i := first; i < len(as); i += putBackers {
				f.putBack(as[i], kind, cause)
				f.leave()
			}
		})
	}
}

// putBack ends a claim whose handler has not begun, uncounted, and gives the message back. If the store does not answer
// the lease runs out by itself; nothing is sent then.
func (f *Flow) putBack(a *Attempt, kind EventKind, cause error) {
	p := f.p
	if a.guard == nil {
		p.giveBack(f.ctx, a.delivery, kind, beforeHandler, cause)
		p.conclude(f.ctx, a.entry, fate{delay: beforeHandler})
		return
	}
	rel := dedup.Release{Cause: dedup.CauseOf("", cause), Uncounted: true, MaxInterrupted: p.d.Config().MaxInterrupted}
	if err := a.guard.TryRelease(f.ctx, rel); err != nil {
		a.giveUp(err, cause)
	} else {
		p.giveBack(f.ctx, a.delivery, kind, beforeHandler, cause)
	}
	p.conclude(f.ctx, a.entry, fate{delay: parkedDelay})
}
