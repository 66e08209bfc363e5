package consumer

import (
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// memory is what this process has settled lately: a duplicate that comes soon is answered without the store. Only consumed
// keys are in it, since a dead one may be reopened by another process, and none for long, since Forget does not reach it.
//
// It keeps two generations. What is added goes into the younger one; when that is full, or old, it becomes the elder, and
// what was in the elder is forgotten. So it is bounded without a clock hand on every entry.
type memory struct {
	mu             sync.RWMutex
	limit          int           // keys of one generation
	keep           time.Duration // how long an entry counts
	younger, elder map[string]remembered
	since          time.Time // when the younger one began
}

type remembered struct {
	fingerprint dedup.Fingerprint
	at          time.Time
}

// maxRemembered is how long an entry counts at most.
const maxRemembered = time.Minute

func newMemory(size int, retention time.Duration) *memory {
	if size <= 0 {
		return nil
	}
	return &memory{limit: (size + 1) / 2, keep: min(maxRemembered, retention), younger: map[string]remembered{}, elder: map[string]remembered{}}
}

// add notes that a key was consumed with this payload, by a settlement that was sent not before at.
func (m *memory) add(id string, fp dedup.Fingerprint, at time.Time) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.younger) >= m.limit || at.Sub(m.since) >= m.keep {
		m.elder, m.younger, m.since = m.younger, m.elder, at
		clear(m.younger) // its room is used again
	}
	m.younger[id] = remembered{fingerprint: fp, at: at}
}

// consumed says whether the key is known to be consumed with this very payload. Another payload is the store's to judge.
func (m *memory) consumed(id string, fp dedup.Fingerprint) bool {
	if m == nil {
		return false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	r, ok := m.younger[id]
	if !ok {
		r, ok = m.elder[id]
	}
	return ok && r.fingerprint == fp && m.fresh(r.at)
}

// fresh looks at both clocks, since the monotonic one stands still while the machine is suspended.
func (m *memory) fresh(at time.Time) bool {
	now := time.Now()
	return now.Sub(at) < m.keep && now.Round(0).Sub(at.Round(0)).Abs() < m.keep
}
