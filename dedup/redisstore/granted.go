package redisstore

import (
	"strconv"
	"sync"

	"github.com/idemq/idemq/dedup"
)

// granted remembers what the records of claims say that this process has made, so that whoever settles one can tell the
// server what it will find: a record that is compared as a whole need not be taken apart there, which costs three times as
// much as everything else in a settlement. It is a hint and never a proof: the server compares every byte, and what differs
// (an extended lease, a saved step, another owner) is settled by the rules, field by field.
//
// It has only claims of keys that were not known, whose records follow from the request and the server's time.
type granted struct {
	mu     sync.Mutex
	claims map[dedup.Nonce]newClaim
}

// minFence has 16 digits like all that follow from a clock since 2001.
const minFence = 1_000_000_000_000_000

// newClaim is what the record of a fresh claim depends on, beside the nonce.
type newClaim struct {
	fence            dedup.Fence // which is the time of the grant, too
	fp               dedup.Fingerprint
	lease, retention int64 // milliseconds
}

// maxGranted bounds the memory, to about 4 MB. Beyond it all hints are dropped: that needs no order among them, and only
// costs the server some time.
const maxGranted = 1 << 15

func (g *granted) add(r *dedup.Record, c *dedup.Claim) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Fence < minFence {
		return
	}
	if len(g.claims) >= maxGranted {
		clear(g.claims)
	}
	if g.claims == nil {
		g.claims = map[dedup.Nonce]newClaim{}
	}
	g.claims[c.Nonce] = newClaim{fence: r.Fence, fp: c.Fingerprint, lease: millis(c.Lease), retention: millis(c.Retention)}
}

// take returns what is known of a claim, and forgets it: one call at a time may count on it, since the first of two with the
// same key changes what the second would find.
func (g *granted) take(h *dedup.Hold) (newClaim, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, ok := g.claims[h.Nonce]
	if !ok || c.fence != h.Fence {
		return newClaim{}, false
	}
	delete(g.claims, h.Nonce)
	return c, true
}

// appendText appends the part of the record from the fence to the fingerprint.
func (c *newClaim) appendText(b []byte, n dedup.Nonce) []byte {
	b = strconv.AppendUint(b, uint64(c.fence), 10)
	b = append(b, ' ')
	b = append(append(b, n...), firstCounts...)
	return appendFingerprint(b, c.fp)
}
