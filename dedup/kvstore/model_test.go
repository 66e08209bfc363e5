package kvstore

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// model is one key as the pure rules see it. Fences are compared by what they are equal to: pairs[i] is the fence that
// the store gave where the rules were given i.
type model struct {
	rec   dedup.Record
	pairs []dedup.Fence
}

func (m *model) next() dedup.Fence { return dedup.Fence(len(m.pairs)) }

// granted takes note of a new fence and checks that fences grow.
func (m *model) granted(t *rapid.T, f dedup.Fence) {
	if last := m.pairs[len(m.pairs)-1]; f <= last {
		t.Fatalf("fence %d after %d", f, last)
	}
	m.pairs = append(m.pairs, f)
}

// TestRandomCallsFollowTheRules holds the store against the rules with random calls. Leases and delays are either over at
// once or endless, so that no clock has to be shared.
func TestRandomCallsFollowTheRules(t *testing.T) {
	s := open(t, connect(t))
	ctx := testContext(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		key := dedup.Key{Scope: "s", ID: fmt.Sprint(run)}
		m := &model{pairs: []dedup.Fence{0}}
		nonce := rapid.SampledFrom([]dedup.Nonce{"a", "b", "c"})
		span := rapid.SampledFrom([]time.Duration{time.Nanosecond, time.Hour})
		fingerprints := rapid.SampledFrom([]dedup.Fingerprint{{}, {1}, {2}})
		anyFence := func(t *rapid.T) int { return rapid.IntRange(0, len(m.pairs)-1).Draw(t, "fence") }
		hold := func(t *rapid.T) (mine, theirs dedup.Hold) {
			i, n := len(m.pairs)-1, m.rec.Nonce
			if rapid.IntRange(0, 3).Draw(t, "stale") == 0 {
				i, n = anyFence(t), nonce.Draw(t, "nonce")
			}
			return dedup.Hold{Key: key, Fence: dedup.Fence(i), Nonce: n}, dedup.Hold{Key: key, Fence: m.pairs[i], Nonce: n}
		}
		same := func(want, got error) {
			if !errors.Is(got, want) || (want == nil) != (got == nil) {
				t.Fatalf("the store says %v, the rules %v", got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				c := dedup.Claim{
					Key: key, Nonce: nonce.Draw(t, "nonce"), Fingerprint: fingerprints.Draw(t, "fingerprints"), Lease: span.Draw(t, "lease"),
					Retention: time.Hour, DeadRetention: 2 * time.Hour, MaxAttempts: rapid.IntRange(0, 3).Draw(t, "max"),
					MaxAbandoned: rapid.IntRange(0, 2).Draw(t, "abandoned"), Letters: rapid.Bool().Draw(t, "letters"),
				}
				want, _ := transition.Acquire(&m.rec, c, time.Now(), m.next())
				v, r, err := s.Acquire(ctx, c)
				same(nil, err)
				if v != want {
					t.Fatalf("verdict %v, want %v", v, want)
				}
				if m.rec.Fence == m.next() {
					m.granted(t, r.Fence)
				}
			},
			"extend": func(t *rapid.T) {
				mine, theirs := hold(t)
				d := span.Draw(t, "lease")
				_, want := transition.Extend(&m.rec, mine, d, time.Now())
				same(want, s.Extend(ctx, theirs, d))
			},
			"settle": func(t *rapid.T) {
				mine, theirs := hold(t)
				se := dedup.Settlement{
					State:  rapid.SampledFrom([]dedup.State{dedup.Consumed, dedup.DeadOwed, dedup.DeadSent}).Draw(t, "state"),
					Result: []byte("result\n\x00"), Cause: dedup.Cause{Class: dedup.Permanent, Message: "why"}, Retention: time.Hour,
				}
				_, want := transition.Settle(&m.rec, mine, se, time.Now())
				same(want, s.Settle(ctx, theirs, se))
			},
			"release": func(t *rapid.T) {
				mine, theirs := hold(t)
				rel := dedup.Release{Delay: span.Draw(t, "delay") - time.Nanosecond, Uncounted: rapid.Bool().Draw(t, "uncounted"), MaxInterrupted: 2}
				_, want := transition.Release(&m.rec, mine, rel, time.Now())
				same(want, s.Release(ctx, theirs, rel))
			},
			"letterSent": func(t *rapid.T) {
				i := anyFence(t)
				_, want := transition.LetterSent(&m.rec, dedup.Fence(i), time.Now())
				same(want, s.LetterSent(ctx, key, m.pairs[i]))
			},
			"reopen": func(t *rapid.T) {
				i := anyFence(t)
				q := dedup.ReopenRequest{Key: key, Fence: dedup.Fence(i), Generation: 1, Fingerprint: fingerprints.Draw(t, "fingerprints"), Rebind: rapid.Bool().Draw(t, "rebind"), Retention: time.Hour}
				want, _ := transition.Reopen(&m.rec, q, time.Now(), m.next())
				q.Fence = m.pairs[i]
				o, err := s.Reopen(ctx, q)
				same(nil, err)
				if o != want {
					t.Fatalf("%v, want %v", o, want)
				}
				if m.rec.Fence == m.next() {
					r, err := s.Get(ctx, key)
					same(nil, err)
					m.granted(t, r.Fence)
				}
			},
			"forget": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
					return
				}
				var want error
				if m.rec.State == dedup.Absent {
					want = dedup.ErrNotFound
				}
				same(want, s.Forget(ctx, key, true))
				m.rec = dedup.Record{}
			},
			"": func(t *rapid.T) {
				got, err := s.Get(ctx, key)
				if m.rec.State == dedup.Absent {
					same(dedup.ErrNotFound, err)
					return
				}
				same(nil, err)
				require.Equal(t, m.pairs[m.rec.Fence], got.Fence)
				require.Equal(t, withoutTimes(m.rec), withoutTimes(got))
			},
		})
	})
}

func withoutTimes(r dedup.Record) string {
	return fmt.Sprint(r.Key, r.State, r.Nonce, r.Attempt, r.Abandoned, r.Interrupted, r.Generation, r.Fingerprint, string(r.Result),
		r.Cause, r.Retention, r.FailedAt.IsZero(), r.LeaseUntil.IsZero(), r.NotBefore.IsZero())
}
