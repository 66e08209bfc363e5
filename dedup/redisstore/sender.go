package redisstore

import (
	"context"
	"runtime"
	"time"

	"github.com/idemq/idemq/dedup"
)

// send makes round trips until the lane's queue is empty.
func (l *lane) send() {
	var b gathered
	for {
		// Whoever has just got an answer, or is just about to call, comes into this round trip rather than the next.
		runtime.Gosched()
		runtime.Gosched()
		l.mu.Lock()
		b.ops = l.take(b.ops[:0])
		if len(b.ops) == 0 {
			l.busy = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		b.roundTrip(l.store)
	}
}

// gathered is the calls of one round trip. Its slices are used again for the next.
type gathered struct {
	ops    []*op
	claims []*dedup.Claim
	holds  []*dedup.HeldSettlement
	calls  []call
	owner  [][]*op // of each call
}

// roundTrip sends the calls in one pipeline and tells everybody the answer. Where one server holds all keys, one script does
// all claims with the same settings, and one all settlements. On a Cluster each has its own, since the keys of a script must
// share a slot. The rest are scripts of one key in either case.
func (b *gathered) roundTrip(s *Store) {
	b.calls, b.owner = b.calls[:0], b.owner[:0]
	claims, settlements, others := b.sort()
	for size := s.scriptKeys(); len(claims) > 0; {
		n := 0
		// Those with the settings of the first come to the front.
		for i, o := range claims {
			if n < size && sameSettings(claims[0].claim, o.claim) {
				claims[n], claims[i] = claims[i], claims[n]
				n++
			}
		}
		b.claims = b.claims[:0]
		for _, o := range claims[:n] {
			b.claims = append(b.claims, o.claim)
		}
		b.add(s.acquireCall(b.claims), claims[:n])
		claims = claims[n:]
	}
	settlements = b.compare(s, settlements)
	for size := s.scriptKeys(); len(settlements) > 0; {
		n := min(size, len(settlements))
		b.holds = b.holds[:0]
		for _, o := range settlements[:n] {
			b.holds = append(b.holds, o.settling)
		}
		b.add(s.settleCall(b.holds), settlements[:n])
		settlements = settlements[n:]
	}
	for i, o := range others {
		b.add(o.call, others[i:i+1])
	}

	ctx, cancel := b.context()
	defer cancel()
	replies := s.runCalls(ctx, b.calls)
	for i, ops := range b.owner {
		for n, o := range ops {
			o.rep, o.at = replies[i], n
			o.done <- struct{}{}
		}
	}
	clear(b.ops)
	clear(b.claims)
	clear(b.holds)
	clear(b.calls)
}

// compare adds the settlements that need no script, and returns the others.
func (b *gathered) compare(s *Store, settlements []*op) []*op {
	n := 0
	for i, o := range settlements {
		if c, ok := s.compareCall(o.settling); ok {
			settlements[n], settlements[i] = settlements[i], settlements[n]
			b.add(c, settlements[n:n+1])
			n++
		}
	}
	return settlements[n:]
}

func (b *gathered) add(c call, ops []*op) {
	b.calls, b.owner = append(b.calls, c), append(b.owner, ops)
}

// sort puts claims first, then settlements, then the rest.
func (b *gathered) sort() (claims, settlements, others []*op) {
	c, st := 0, 0
	for i, o := range b.ops {
		if o.claim != nil {
			b.ops[i] = b.ops[c+st]
			b.ops[c+st] = b.ops[c]
			b.ops[c] = o
			c++
		} else if o.settling != nil {
			b.ops[i] = b.ops[c+st]
			b.ops[c+st] = o
			st++
		}
	}
	return b.ops[:c], b.ops[c : c+st], b.ops[c+st:]
}

// context is that of the round trip: it lasts as long as the last caller has time. Each caller leaves with its own.
func (b *gathered) context() (context.Context, context.CancelFunc) {
	var last time.Time
	for _, o := range b.ops {
		if o.deadline.IsZero() {
			return context.Background(), func() {}
		}
		if o.deadline.After(last) {
			last = o.deadline
		}
	}
	return context.WithDeadline(context.Background(), last)
}
