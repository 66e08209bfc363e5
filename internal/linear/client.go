package linear

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// pool is what the clients know of a key, together: so that one can come with another's hold, and with one that is gone.
type pool struct {
	key dedup.Key

	mu    sync.Mutex
	holds []dedup.Hold
	last  dedup.Record
}

// learn keeps what an answer tells.
func (p *pool) learn(c call, a answer) {
	if a.err != nil || c.kind != acquire && c.kind != get {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = a.record
	if a.verdict == dedup.Granted || a.verdict == dedup.LetterOwed {
		p.holds = append(p.holds, dedup.Hold{Key: p.key, Fence: a.record.Fence, Nonce: a.record.Nonce})
	}
}

// hold is mostly the newest one, else any.
func (p *pool) hold(random *rand.Rand) dedup.Hold {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.holds)
	switch {
	case n == 0:
		return dedup.Hold{Key: p.key, Fence: 1, Nonce: "nobody"}
	case random.IntN(4) > 0:
		return p.holds[n-1]
	default:
		return p.holds[random.IntN(n)]
	}
}

func (p *pool) seen() dedup.Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// client chooses calls.
type client struct {
	id     int
	random *rand.Rand
	faults bool
	nonces int
}

// weights of the kinds: enough claims and endings that keys go through their whole life.
var weights = []struct {
	kind kind
	n    int
}{
	{acquire, 40}, {settle, 12}, {release, 14}, {extend, 10}, {get, 10}, {letterSent, 6}, {reopen, 5}, {forget, 3},
}

func (c *client) kind() kind {
	n := c.random.IntN(100)
	for _, w := range weights {
		if n -= w.n; n < 0 {
			if c.faults && (w.kind == reopen || w.kind == forget) {
				break
			}
			return w.kind
		}
	}
	return acquire
}

func (c *client) choose(p *pool) call {
	out := call{kind: c.kind(), key: p.key, hold: p.hold(c.random), endless: c.faults || c.random.IntN(2) == 0, force: c.random.IntN(2) == 0}
	switch out.kind { //nolint:exhaustive // the others have all they need
	case acquire:
		out.claim = c.claim(p, out.hold)
	case settle:
		states := []dedup.State{dedup.Consumed, dedup.DeadOwed, dedup.DeadSent}
		out.settle = dedup.Settlement{State: states[c.random.IntN(3)], Retention: time.Hour}
		if out.settle.State == dedup.Consumed {
			out.settle.Result = fmt.Appendf(nil, "result %d", c.random.IntN(1000))
		} else {
			out.settle.Cause = dedup.Cause{Class: dedup.Permanent, Message: "why"}
		}
	case release:
		out.release = dedup.Release{Uncounted: c.random.IntN(3) == 0, MaxInterrupted: 2, Cause: dedup.Cause{Message: "again"}}
		if !c.faults && c.random.IntN(8) == 0 {
			out.release.Delay = endless
		}
	case reopen:
		last := p.seen()
		out.reopen = dedup.ReopenRequest{
			Key: p.key, Fence: last.Fence, Generation: max(1, last.Generation), Fingerprint: last.Fingerprint, Retention: time.Hour,
		}
	}
	return out
}

// claim is mostly a new one; sometimes the same call again, as after a lost answer.
func (c *client) claim(p *pool, of dedup.Hold) dedup.Claim {
	c.nonces++
	out := dedup.Claim{
		Key: p.key, Nonce: dedup.Nonce(fmt.Sprintf("n%d-%d", c.id, c.nonces)), Lease: endless, Retention: time.Hour, DeadRetention: time.Hour,
		Letters: c.random.IntN(2) == 0, Fingerprint: dedup.Fingerprint{1},
	}
	if c.random.IntN(6) == 0 {
		out.Nonce = of.Nonce
	}
	if !c.faults && c.random.IntN(2) == 0 {
		out.Lease = brief
	}
	if c.random.IntN(2) == 0 {
		out.MaxAttempts = 2 + c.random.IntN(3)
	}
	if c.random.IntN(16) == 0 {
		out.Fingerprint = dedup.Fingerprint{2}
	}
	return out
}
