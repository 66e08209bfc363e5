package linear

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

const before = 3 // calls that are shown of what can be explained

// excerpt shows where the longest explanation ends: its last calls, what the record may be then, and the calls of which
// none can be the next.
func excerpt(m porcupine.Model, explained [][]porcupine.Operation, h []porcupine.Operation) string {
	var longest []porcupine.Operation
	for _, o := range explained {
		if len(o) > len(longest) {
			longest = o
		}
	}
	var b strings.Builder
	state, done := m.Init(), map[string]int{}
	for i, o := range longest {
		_, state = m.Step(state, o.Input, o.Output)
		done[line(o)]++
		if i >= len(longest)-before {
			fmt.Fprintf(&b, "\tafter %s\n", line(o))
		}
	}
	fmt.Fprintf(&b, "\tthe record may be: %s\n", m.DescribeState(state))
	var open []porcupine.Operation
	for _, o := range h {
		if done[line(o)]--; done[line(o)] < 0 {
			open = append(open, o)
		}
	}
	slices.SortFunc(open, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	ended := int64(math.MaxInt64) // what begins after the first end cannot come next
	for _, o := range open {
		ended = min(ended, o.Return)
	}
	for _, o := range open {
		if o.Call <= ended {
			fmt.Fprintf(&b, "\tbut then not %s\n", line(o))
		}
	}
	return b.String()
}
