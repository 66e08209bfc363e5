package idemtest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/idemq/idemq/consumer"
)

// onceEach returns how often each effect comes when every message is handled once: by the run of it that had most.
func (w *world) onceEach() map[effect]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := map[string]map[effect]int{} // by the message's key
	for _, r := range w.runs {
		if most[r.key] == nil {
			most[r.key] = map[effect]int{}
		}
		for e, n := range r.effects {
			most[r.key][e] = max(most[r.key][e], n)
		}
	}
	once := map[effect]int{}
	for _, effects := range most {
		for e, n := range effects {
			once[e] += n
		}
	}
	return once
}

// judge compares what happened with what should have.
func (w *world) judge(s story, want map[effect]int) []string {
	have, _ := w.effects.snapshot()
	all := map[effect]bool{}
	for e := range have {
		all[e] = true
	}
	for e := range want {
		all[e] = true
	}
	var problems []string
	for _, e := range slices.SortedFunc(maps.Keys(all), func(a, b effect) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.what, b.what))
	}) {
		switch {
		case have[e] > want[e]:
			happened, advice := cmp.Or(w.happened, s.happened), s.advice
			if w.failedAfterEffect(e) {
				happened = "the handler had its effect and returned an error all the same, so it was tried again"
				advice = "do what can fail before the effect, and return nil once it is done; or " + keyedSink
			}
			problems = append(problems, fmt.Sprintf("%s happened %s instead of %s%s%s%s",
				e, times(have[e]), times(want[e]),
				paragraph("what happened", happened), paragraph("what to do", advice), w.history(e.key)))
		case have[e] < want[e]:
			problems = append(problems, fmt.Sprintf("%s happened %s instead of %s: it is lost%s%s%s",
				e, times(have[e]), times(want[e]),
				paragraph("what happened", "a run was disturbed before its effect, and the runs after it had none"),
				paragraph("what to do", "do not note that the operation is done before its effect is, and do not hide errors; "+
					"note and effect belong in one transaction"), w.history(e.key)))
		}
	}
	return problems
}

// failedAfterEffect says whether a run that nothing disturbed had the effect and failed.
func (w *world) failedAfterEffect(e effect) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.runs, func(r *run) bool {
		return (e.key == "" || r.key == e.key) && r.note == "" && r.err != nil && r.effects[e] > 0
	})
}

func (r *run) panicked() bool {
	var p *consumer.PanicError
	return errors.As(r.err, &p)
}

func (e effect) String() string {
	s := "the effect"
	if e.what != "" {
		s += fmt.Sprintf(" %q", e.what)
	}
	if e.key == "" {
		return s + " (recorded under keys that no message has)"
	}
	return s + fmt.Sprintf(" of key %q", e.key)
}

func times(n int) string {
	switch n {
	case 0:
		return "not at all"
	case 1:
		return "once"
	default:
		return fmt.Sprintf("%d times", n)
	}
}

const textWidth = 110

// paragraph returns a text under its title, in lines of a readable width.
func paragraph(title, text string) string {
	var b strings.Builder
	b.WriteString("\n\t" + title + ":")
	column := len(title)
	for _, word := range strings.Fields(text) {
		if column += len(word) + 1; column > textWidth {
			b.WriteString("\n\t ")
			column = len(word)
		}
		b.WriteString(" " + word)
	}
	return b.String()
}

const historyLength = 12 // runs that are shown

// history lists the runs for a key, or all for "", and the dead letters that came of them.
func (w *world) history(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	shown := 0
	runs := slices.SortedStableFunc(slices.Values(w.runs), func(a, b *run) int { return cmp.Compare(a.number, b.number) })
	for _, r := range runs {
		if key != "" && r.key != key {
			continue
		}
		if shown++; shown > historyLength {
			b.WriteString("\n\t  …")
			break
		}
		effects := 0
		for e, n := range r.effects {
			if e.key == "" || e.key == r.key {
				effects += n
			}
		}
		fmt.Fprintf(&b, "\n\t  after %v: %q on worker %d, attempt %d: effects %d, %s", r.entered.Sub(w.started).Round(time.Second),
			r.key, r.worker.number, r.attempt, effects, r.state)
		if r.note != "" {
			b.WriteString("; " + r.note)
		}
	}
	w.letters.mu.Lock()
	defer w.letters.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(w.letters.letters)) {
		if key == "" || key == k {
			fmt.Fprintf(&b, "\n\t  dead letter of %q, class %s: %.200q", k, w.letters.letters[k].Class, w.letters.letters[k].Error)
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n\truns:" + b.String()
}
