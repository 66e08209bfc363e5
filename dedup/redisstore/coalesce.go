package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Calls of many goroutines are gathered while the previous round trip is under way, and travel together in the next one.
// There is no timer: who comes alone goes alone, on its own goroutine and under its own context, as if nothing were
// gathered. Who comes while somebody is under way queues in a lane, and a sender takes the whole queue at a time. The sender
// is a goroutine that is started when the first round trip ends with calls waiting, and ends when the queue is empty, so
// that a store needs no Close.
//
// A queue needs no bound of its own and no second line in front of it: every entry is a caller who waits, and one whose
// context ends takes its entry with it. What is under way is bounded by maxKeys calls and maxBytes.

// lane is the queue in front of one server.
type lane struct {
	store *Store

	mu          sync.Mutex
	busy        bool // somebody is under way: a caller alone, or the sender
	first, last *op
}

// op is one call that waits in a lane, or is under way with others.
type op struct {
	next, prev *op
	queued     bool // guarded by the lane

	claim    *dedup.Claim          // an Acquire,
	settling *dedup.HeldSettlement // or a Settle,
	call     call                  // or a script with one key
	deadline time.Time             // of the caller; zero if there is none

	// done receives when rep and at are there.
	done chan struct{}
	rep  reply
	at   int // which answer in rep is this call's
}

// cancelGrace is how long a caller whose context is cancelled waits for an answer that is under way: with it nothing is in
// doubt, and at a server that answers it is there at once.
const cancelGrace = 250 * time.Millisecond

// errLeft: the caller's context ended while its call was under way.
var errLeft = errors.New("its context ended while it was under way")

// bytes is about what the call adds to a round trip.
func (o *op) bytes() int {
	switch {
	case o.settling != nil:
		return settleBytes(o.settling)
	case o.claim != nil:
		return 0
	}
	n := 0
	for _, a := range o.call.args {
		switch a := a.(type) {
		case string:
			n += len(a)
		case []byte:
			n += len(a)
		}
	}
	return n
}

// laneOf returns the lane for a key, nil if calls are not gathered. Each server has a lane of its own, so that a slow one
// does not hold up the others.
func (s *Store) laneOf(ctx context.Context, k dedup.Key) *lane {
	switch {
	case s.cfg.NoCoalescing:
		return nil
	case s.single:
		return &s.lane
	}
	node, err := s.node(ctx, s.name(k))
	if err != nil {
		return nil // a plain call says what is wrong
	}
	addr := node.Options().Addr
	l, ok := s.lanes.Load(addr)
	if !ok {
		l, _ = s.lanes.LoadOrStore(addr, &lane{store: s})
	}
	return l.(*lane)
}

// do brings a call to the server, alone or with others, and returns the reply and which answer in it is the call's.
func (s *Store) do(ctx context.Context, k dedup.Key, o op) (reply, int) {
	if err := ctx.Err(); err != nil {
		return reply{err: fmt.Errorf("%w: %w", errNotSent, err)}, 0
	}
	l := s.laneOf(ctx, k)
	if l == nil {
		return s.runCalls(ctx, []call{s.callOf(&o)})[0], 0
	}
	if !s.queue && l.enter() {
		defer l.handOver() // also if the client panics: the others must not wait for ever
		return s.runCalls(ctx, []call{s.callOf(&o)})[0], 0
	}
	w := waiting(o)
	w.deadline, _ = ctx.Deadline()
	l.push(w)
	return l.wait(ctx, w)
}

// enter says whether nobody is under way, so that the caller may go alone.
func (l *lane) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy {
		return false
	}
	l.busy = true
	return true
}

// spare keeps ops whose callers have their answers. One whose caller has left is still in the sender's hands, and never
// comes here.
var spare = sync.Pool{New: func() any { return &op{done: make(chan struct{}, 1)} }}

// waiting puts the op on the heap; one that goes alone stays off it.
func waiting(o op) *op {
	w := spare.Get().(*op)
	o.done = w.done
	*w = o
	return w
}

// answer is what the sender has left in the op, which is not used any more.
func (o *op) answer() (reply, int) {
	rep, at := o.rep, o.at
	*o = op{done: o.done}
	spare.Put(o)
	return rep, at
}

// callOf is the script for a call that goes alone.
func (s *Store) callOf(o *op) call {
	switch {
	case o.claim != nil:
		return s.acquireCall([]*dedup.Claim{o.claim})
	case o.settling != nil:
		if c, ok := s.compareCall(o.settling); ok {
			return c
		}
		return s.settleCall([]*dedup.HeldSettlement{o.settling})
	}
	return o.call
}

// handOver ends the round trip of a caller who went alone.
func (l *lane) handOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.busy = false
		return
	}
	go l.send()
}

// wait returns the answer, or leaves with the caller's context.
func (l *lane) wait(ctx context.Context, o *op) (reply, int) {
	select {
	case <-o.done:
		return o.answer()
	case <-ctx.Done():
	}
	l.mu.Lock()
	queued := o.queued
	if queued {
		l.remove(o)
	}
	l.mu.Unlock()
	err := ctx.Err()
	if queued {
		return reply{err: fmt.Errorf("%w: %w", errNotSent, err)}, 0
	}
	if !errors.Is(err, context.Canceled) {
		return reply{err: fmt.Errorf("%w: %w", errLeft, err)}, 0 // there is no time left to wait in
	}
	timer := time.NewTimer(cancelGrace)
	defer timer.Stop()
	select {
	case <-o.done:
		return o.answer()
	case <-timer.C:
		// It may be applied yet. A claim that is granted then is not released behind the caller's back: the caller may ask
		// again with the same nonce, and would lose the claim that it is told of. So the error is indeterminate, and the
		// same nonce finds the claim, or its lease ends.
		return reply{err: fmt.Errorf("%w: %w", errLeft, err)}, 0
	}
}

// push queues a call, and starts the sender if there is nobody who would.
func (l *lane) push(o *op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.busy {
		l.busy = true
		go l.send()
	}
	o.queued = true
	if o.prev = l.last; o.prev == nil {
		l.first = o
	} else {
		o.prev.next = o
	}
	l.last = o
}

func (l *lane) remove(o *op) {
	if o.prev == nil {
		l.first = o.next
	} else {
		o.prev.next = o.next
	}
	if o.next == nil {
		l.last = o.prev
	} else {
		o.next.prev = o.prev
	}
	o.next, o.prev, o.queued = nil, nil, false
}

// take returns the calls for the next round trip, in the order in which they came. From here on a caller may leave while
// its call is under way, so what it could change then is copied.
func (l *lane) take(into []*op) []*op {
	size := 0
	for o := l.first; o != nil && len(into) < maxKeys; o = l.first {
		if size += o.bytes(); size > maxBytes && len(into) > 0 {
			break
		}
		l.remove(o)
		o.own()
		into = append(into, o)
	}
	return into
}

// own makes the op share no memory with its caller.
func (o *op) own() {
	if o.settling != nil {
		o.settling.Settlement.Result = bytes.Clone(o.settling.Settlement.Result)
	}
	for i, a := range o.call.args {
		if b, ok := a.([]byte); ok {
			o.call.args[i] = bytes.Clone(b)
		}
	}
}
