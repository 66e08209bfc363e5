package tieredstore

import (
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

const (
	sweepSteps = 3 // claims that a new one looks at; more than one, so that sweeping outruns growing
	staleAfter = 4 // leases without a sign of life, after which a claim is no longer anybody's
)

// claim is one that this process was granted. It is remembered so that it can be put back into a fast tier that has lost it,
// and so that it can be settled while the fast tier is down.
type claim struct {
	record dedup.Record
	lease  time.Duration
	sent   time.Time   // before the latest call that was known to restart the lease
	epoch  dedup.Fence // of the marker when it was granted
	steps  bool        // the durable tier has a copy of the claim, with steps
}

// runs says whether the lease still runs, reckoned as its holder does.
func (c *claim) runs() bool { return time.Since(c.sent) < c.lease }

// claims are those of this process, by key.
type claims struct {
	mu sync.Mutex
	m  map[dedup.Key]claim
}

func (s *claims) put(c claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[dedup.Key]claim{}
	}
	n := 0
	for k, o := range s.m { // who abandons a claim does not tell
		if time.Since(o.sent) > staleAfter*o.lease {
			delete(s.m, k)
		}
		if n++; n == sweepSteps {
			break
		}
	}
	s.m[c.record.Key] = c
}

// get returns the claim of a hold, if this process was granted it.
func (s *claims) get(h dedup.Hold) (claim, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.m[h.Key]
	return c, ok && owned(&c.record, h)
}

// change changes the claim of a hold.
func (s *claims) change(h dedup.Hold, f func(c *claim)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.m[h.Key]; ok && owned(&c.record, h) {
		f(&c)
		s.m[h.Key] = c
	}
}

// of returns the claim of a key.
func (s *claims) of(k dedup.Key) (claim, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.m[k]
	return c, ok
}

func (s *claims) drop(k dedup.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, k)
}
