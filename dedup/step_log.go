package dedup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// stepGrace is how long a step waits for those that it must not overtake. Branches that run in parallel do not begin at
// the same moment on every attempt; only what does not come at all was taken out or renamed.
const stepGrace = 5 * time.Second

// stepLog is what is known of the steps of a key while a claim is held.
type stepLog struct {
	loading sync.Mutex
	loaded  bool

	mu      sync.Mutex
	kept    map[string]*keptStep // in the store
	began   []string             // in this attempt, in this order
	done    []string             // finished in this attempt
	changed chan struct{}        // closed when one begins or is finished; nil if nobody waits
}

// stepLog returns the log of the claim, which is made for the first step: most handlers have none.
func (g *Guard) stepLog() *stepLog {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.steps == nil {
		g.steps = &stepLog{}
	}
	return g.steps
}

// load reads what earlier attempts have kept, once.
func (l *stepLog) load(ctx context.Context, g *Guard, s StepStore) error {
	l.loading.Lock()
	defer l.loading.Unlock()
	if l.loaded {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.d.cfg.StoreTimeout)
	defer cancel()
	saved, err := s.Steps(ctx, g.record.Key)
	if err != nil {
		return err
	}
	kept := make(map[string]*keptStep, len(saved))
	for _, one := range saved {
		k, err := decodeStep(one.Data)
		if err != nil {
			return fmt.Errorf("%w: step %s of %s: %w", ErrStepResult, printable(one.Name), g.record.Key, err)
		}
		kept[one.Name] = k
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept, l.loaded = kept, true
	return nil
}

// begin notes that a step begins, waits until the order allows it, and hands out what is kept of it.
func (l *stepLog) begin(ctx context.Context, r *stepRun) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kept[r.name]
	switch {
	case slices.Contains(l.began, r.name):
		return fmt.Errorf("%w: %s was called before in this attempt; give every step a name of its own, and retry inside of the step", ErrStepMisuse, r.name)
	case k == nil && len(l.kept) >= MaxSteps:
		return fmt.Errorf("%w: %s would be number %d of its key, more than %d; split the work over several messages", ErrStepMisuse, r.name, len(l.kept)+1, MaxSteps)
	}
	l.began = append(l.began, r.name)
	l.tell()
	if err := l.await(ctx, r, k); err != nil {
		return err
	}
	r.kept, r.after = k, slices.Clone(l.done)
	if k != nil {
		l.done = append(l.done, r.name)
		l.tell()
	}
	return nil
}

// await waits while the order does not allow the step to begin. The caller holds mu.
func (l *stepLog) await(ctx context.Context, r *stepRun, k *keptStep) error {
	var late <-chan time.Time
	for {
		missing := l.missing(r.name, k)
		if len(missing) == 0 {
			return nil
		}
		if late == nil {
			t := time.NewTimer(stepGrace)
			defer t.Stop()
			late = t.C
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		over := false
		select {
		case <-changed:
		case <-late:
			over = true
		case <-ctx.Done():
		case <-r.guard.lost:
		}
		l.mu.Lock()
		switch err := r.guard.Err(); {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case over:
			if missing = l.missing(r.name, k); len(missing) > 0 {
				return changedError(r.name, k != nil, missing)
			}
			return nil
		}
	}
}

// missing returns the steps that must come first. One that is kept comes after those that were finished when it first
// began. A new one comes after all that are kept, but for those that it ran beside, or was tried before, in an attempt
// that did not keep it. The caller holds mu.
func (l *stepLog) missing(name string, k *keptStep) (out []string) {
	if k != nil {
		for _, n := range k.After {
			if !slices.Contains(l.done, n) {
				out = append(out, n)
			}
		}
		return out
	}
	for _, n := range slices.Sorted(maps.Keys(l.kept)) {
		if !slices.Contains(l.began, n) && !l.kept[n].knew(name) {
			out = append(out, n)
		}
	}
	return out
}

func changedError(name string, kept bool, missing []string) error {
	list := strings.Join(missing, ", ")
	if kept {
		return fmt.Errorf("%w: %s first ran after %s, and is called before now; "+
			"call the steps in one order, or give the new order to new keys only", ErrStepChanged, name, list)
	}
	return fmt.Errorf("%w: %s is new, and %s, finished in an earlier attempt, was not called before it; if it was renamed, it would run twice. "+
		"Call the steps of earlier attempts under their old names and in their old order, until no unfinished key has them", ErrStepChanged, name, list)
}

// form returns what is to be kept of a step that is done, but for its result.
func (l *stepLog) form(r *stepRun) *keptStep {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &keptStep{After: r.after}
	for _, n := range l.began {
		if n != r.name && !slices.Contains(r.after, n) {
			k.Beside = append(k.Beside, n)
		}
	}
	return k
}

// size returns how many bytes all steps take with this one.
func (l *stepLog) size(name string, k *keptStep) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(name) + len(k.encode())
	for other, o := range l.kept {
		if other != name {
			n += len(other) + o.size
		}
	}
	return n
}

// finish notes that a step is done and kept.
func (l *stepLog) finish(r *stepRun) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.kept.size = len(r.kept.encode())
	l.kept[r.name] = r.kept
	l.done = append(l.done, r.name)
	l.tell()
}

// tell wakes who waits. The caller holds mu.
func (l *stepLog) tell() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}
