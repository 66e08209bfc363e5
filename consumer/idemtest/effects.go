package idemtest

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Effects counts what a handler does to the world. The fake of its sink reports every effect here, and nothing for a
// call that it refuses as a duplicate. It is safe for concurrent use.
type Effects struct {
	mu     sync.Mutex
	counts map[effect]int
	keys   map[string]bool // of the messages given to Run; effects under other keys are counted together
	first  time.Time       // when the first effect since the last snapshot came
}

// effect is one kind of effect under one key, or under any key that no message has: "".
type effect struct{ key, what string }

// Record counts one effect under the key that the handler runs for. If a handler has several for one message, say which:
// effects.Record(ctx, "mail"). A context that is not the handler's has no key; see [Effects.RecordKey].
func (e *Effects) Record(ctx context.Context, what ...string) {
	e.RecordKey(dedup.KeyFrom(ctx).ID, what...)
}

// RecordKey is Record for a sink that does not get the handler's context but a key. A key that no message of the test has
// (an order's number, or a random one) serves, too; all such effects are counted together.
func (e *Effects) RecordKey(key string, what ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.keys[key] {
		key = ""
	}
	if e.counts == nil {
		e.counts = map[effect]int{}
	}
	e.counts[effect{key, strings.Join(what, " ")}]++
	if e.first.IsZero() {
		e.first = time.Now()
	}
}

// snapshot returns the counts, and when the first effect since the last snapshot came.
func (e *Effects) snapshot() (map[effect]int, time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := e.first
	e.first = time.Time{}
	return maps.Clone(e.counts), first
}

// since returns what was added to the counts.
func since(before, now map[effect]int) map[effect]int {
	added := map[effect]int{}
	for e, n := range now {
		if n > before[e] {
			added[e] = n - before[e]
		}
	}
	return added
}
