package consumer

import (
	"context"
	"errors"
	"sync"

	"github.com/idemq/idemq/dedup"
)

// settles are the successes that the store does not know of yet. Their claims are kept alive by their heartbeats.
type settles struct {
	mu     sync.Mutex
	some   sync.Cond // the sender waits for it
	room   sync.Cond // workers wait for it
	queue  []*Attempt
	open   int // added and not answered for
	max    int
	closed bool
}

func (s *settles) init(limit int) {
	s.max = limit
	s.some.L, s.room.L = &s.mu, &s.mu
}

// add waits until there is room: what the store does not know of is bounded.
func (s *settles) add(a *Attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.open >= s.max {
		s.room.Wait()
	}
	s.open++
	s.queue = append(s.queue, a)
	s.some.Signal()
}

// next returns what has gathered, and nil when there will be no more.
func (s *settles) next(into []*Attempt) []*Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.closed {
		s.some.Wait()
	}
	n := min(len(s.queue), maxBatch)
	into = append(into[:0], s.queue[:n]...)
	left := copy(s.queue, s.queue[n:])
	clear(s.queue[left:])
	s.queue = s.queue[:left]
	return into
}

func (s *settles) answered(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open -= n
	s.room.Broadcast()
}

func (s *settles) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *settles) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.some.Broadcast()
}

// settle is the one sender of settlements. It ends when nothing is added any more and all are answered for.
func (f *Flow) settle() {
	var late sync.WaitGroup
	defer late.Wait()
	settlement := dedup.Settlement{State: dedup.Consumed, Retention: f.p.d.Config().Retention}
	var endings []dedup.Ending
	for batch := f.settles.next(nil); len(batch) > 0; batch = f.settles.next(batch) {
		endings = endings[:0]
		for _, a := range batch {
			endings = append(endings, dedup.Ending{Guard: a.guard, Settlement: settlement})
		}
		answered := 0
		for i, err := range f.p.d.SettleMany(f.answers, endings) {
			a := batch[i]
			if ended := err == nil || errors.Is(err, dedup.ErrLeaseLost); ended && !confirms(a.delivery) {
				a.settled(f.answers, err)
				answered++
				continue
			}
			late.Go(func() { // each on its own: one must not hold up the others
				defer f.settles.answered(1)
				if err != nil && !errors.Is(err, dedup.ErrLeaseLost) {
					err = a.guard.Settle(f.ctx, settlement)
				}
				a.settled(f.answers, err)
			})
		}
		f.settles.answered(answered)
	}
}

// settled answers for a message whose settlement has come to an end: it is acknowledged only if the store knows.
func (a *Attempt) settled(ctx context.Context, err error) {
	if err != nil {
		a.giveUp(err, nil)
		a.p.conclude(ctx, a.entry, fate{delay: parkedDelay})
		return
	}
	a.consumed()
	a.emit(Executed, nil)
	a.p.ack(ctx, a.delivery)
	a.p.conclude(ctx, a.entry, fate{ack: true})
}
