package linear

import (
	"errors"
	"fmt"

	"github.com/anishathalye/porcupine"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

type kind string

const (
	acquire    kind = "acquire"
	extend     kind = "extend"
	settle     kind = "settle"
	release    kind = "release"
	letterSent kind = "letter sent"
	get        kind = "get"
	forget     kind = "forget"
	reopen     kind = "reopen"
)

// call is one call of a client. Of its arguments those of its kind count.
type call struct {
	kind    kind
	key     dedup.Key
	claim   dedup.Claim
	hold    dedup.Hold
	settle  dedup.Settlement
	release dedup.Release
	reopen  dedup.ReopenRequest
	endless bool // of the lease of an Extend
	force   bool // of a Forget
}

// answer is what came back.
type answer struct {
	verdict   dedup.Verdict
	reopening dedup.Reopening
	record    dedup.Record
	err       error
}

// unknown says whether the call may have been applied all the same.
func (a answer) unknown() bool {
	var e *dedup.StoreError
	return errors.As(a.err, &e) && e.Indeterminate
}

// failed says whether the store could not answer and did nothing.
func (a answer) failed() bool {
	var e *dedup.StoreError
	return errors.As(a.err, &e) && !e.Indeterminate
}

// model is the rules of one key as porcupine wants them. A history is split by keys before.
func model() porcupine.NondeterministicModel {
	return porcupine.NondeterministicModel{
		Init: func() []any { return []any{row{}} },
		Step: func(state, in, out any) []any {
			var next []any
			for _, r := range moments(state.(row)) {
				for _, r := range step(r, in.(call), out.(answer)) {
					next = append(next, r)
				}
			}
			return next
		},
		DescribeOperation: func(in, out any) string { return describe(in.(call), out.(answer)) },
		DescribeState:     func(state any) string { return fmt.Sprint(state) },
	}
}

// moments are the record with its lease still running, and with its lease over, if nobody knows.
func moments(r row) []row {
	if !r.brief {
		return []row{r}
	}
	ended := r
	ended.running, ended.brief = false, false
	return []row{r, ended}
}

// step returns what the record may be after a call with this answer, and nothing if the answer is wrong.
func step(r row, c call, a answer) []row {
	switch {
	case a.failed():
		return []row{r}
	case a.unknown():
		after := apply(r, c)
		if after == r {
			return []row{r}
		}
		return []row{r, after}
	}
	if r.lost && c.kind != acquire && c.kind != forget {
		return explainLost(r, c, a)
	}
	switch c.kind {
	case acquire:
		return stepAcquire(r, c, a)
	case get:
		return stepGet(r, a)
	case forget:
		return stepForget(r, c, a)
	case reopen:
		return stepReopen(r, c, a)
	default:
		rec := r.record()
		_, want := held(&rec, c)
		if !errors.Is(a.err, want) || (want == nil) != (a.err == nil) {
			return nil
		}
		return []row{r.after(rec)}
	}
}

// explainLost takes the fence of a call for the record's own where nobody has seen that, if it can be.
func explainLost(r row, c call, a answer) []row {
	if c.kind == get {
		return stepGet(r, a)
	}
	out := stepAs(r, c, a, r.last+1) // another one
	if f := c.fence(); f > r.last {
		out = append(out, step(r.granted(f), c, a)...)
	}
	return out
}

// stepAs steps with a stand-in for the fence that is not known, and takes it away again.
func stepAs(r row, c call, a answer, f dedup.Fence) []row {
	for f == c.fence() {
		f++
	}
	stand := r
	stand.fence, stand.lost = f, false
	out := step(stand, c, a)
	for i := range out {
		if out[i].fence == f {
			out[i].fence, out[i].lost, out[i].last = 0, true, r.last
		}
	}
	return out
}

func (c call) fence() dedup.Fence {
	if c.kind == reopen {
		return c.reopen.Fence
	}
	return c.hold.Fence
}

// held applies a call that needs a hold.
func held(rec *dedup.Record, c call) (changed bool, err error) {
	switch c.kind {
	case extend:
		lease := brief
		if c.endless {
			lease = endless
		}
		return transition.Extend(rec, c.hold, lease, epoch)
	case settle:
		return transition.Settle(rec, c.hold, c.settle, epoch)
	case release:
		return transition.Release(rec, c.hold, c.release, epoch)
	default:
		return transition.LetterSent(rec, c.hold.Fence, epoch)
	}
}

// apply is the row after a call that was applied, whatever it answered.
func apply(r row, c call) row {
	rec := r.record()
	switch c.kind {
	case get:
	case acquire:
		if _, changed := transition.Acquire(&rec, c.claim, epoch, 0); changed {
			return r.after(rec).granted(0)
		}
	case forget:
		if c.force || !r.running {
			return row{last: r.last}
		}
	case reopen:
		if o, changed := transition.Reopen(&rec, c.reopen, epoch, 0); changed && o == dedup.Reopened {
			return r.after(rec).granted(0)
		}
	default:
		_, _ = held(&rec, c)
	}
	return r.after(rec)
}

func stepAcquire(r row, c call, a answer) []row {
	if a.err != nil {
		return nil
	}
	rec := r.record()
	verdict, changed := transition.Acquire(&rec, c.claim, epoch, a.record.Fence)
	if verdict != a.verdict {
		return nil
	}
	next := r.after(rec)
	if changed {
		if a.record.Fence <= r.last { // fences grow
			return nil
		}
		next = next.granted(a.record.Fence)
	}
	if verdict == dedup.Conflict { // says nothing of the record that is there
		return []row{next}
	}
	next, ok := next.shows(a.record)
	if !ok {
		return nil
	}
	return []row{next}
}

func stepGet(r row, a answer) []row {
	if r.state == dedup.Absent {
		if errors.Is(a.err, dedup.ErrNotFound) {
			return []row{r}
		}
		return nil
	}
	next, ok := r.shows(a.record)
	if a.err != nil || !ok {
		return nil
	}
	return []row{next}
}

func stepForget(r row, c call, a answer) []row {
	var want error
	switch {
	case r.state == dedup.Absent:
		want = dedup.ErrNotFound
	case r.running && !c.force:
		want = dedup.ErrLeaseRunning
	}
	if !errors.Is(a.err, want) || (want == nil) != (a.err == nil) {
		return nil
	}
	return []row{apply(r, c)}
}

// stepReopen cannot see the new fence.
func stepReopen(r row, c call, a answer) []row {
	rec := r.record()
	want, changed := transition.Reopen(&rec, c.reopen, epoch, 0)
	switch {
	case a.err != nil || want != a.reopening:
		return nil
	case changed && want == dedup.Reopened:
		return []row{r.after(rec).granted(0)}
	}
	return []row{r.after(rec)}
}

func describe(c call, a answer) string {
	s := string(c.kind)
	switch c.kind {
	case acquire:
		s += fmt.Sprintf(" by %q lease %v", c.claim.Nonce, c.claim.Lease)
	case extend, settle, release, letterSent:
		s += fmt.Sprintf(" by %q fence %d", c.hold.Nonce, c.hold.Fence)
	case reopen:
		s += fmt.Sprintf(" fence %d", c.reopen.Fence)
	case get, forget:
	}
	switch {
	case a.err != nil:
		return s + ": " + a.err.Error()
	case c.kind == acquire:
		return s + fmt.Sprintf(": %s, %s fence %d attempt %d", a.verdict, a.record.State, a.record.Fence, a.record.Attempt)
	case c.kind == get:
		return s + fmt.Sprintf(": %s fence %d attempt %d", a.record.State, a.record.Fence, a.record.Attempt)
	case c.kind == reopen:
		return s + ": " + a.reopening.String()
	}
	return s + ": done"
}
