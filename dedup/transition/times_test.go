package transition_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func claim(n dedup.Nonce) dedup.Claim {
	return dedup.Claim{
		Key: key, Nonce: n, Fingerprint: dedup.Fingerprint{1}, Lease: time.Minute, Retention: time.Hour, DeadRetention: 5 * time.Hour, Letters: true,
	}
}

func at(d time.Duration) time.Time { return start.Add(d) }

// The times of a whole life, to the microsecond: a lease and a memory that end too early run a message twice.
func TestTheTimesOfARecord(t *testing.T) {
	t.Parallel()
	var r dedup.Record
	v, changed := transition.Acquire(&r, claim("a"), start, 1)
	require.True(t, changed)
	require.Equal(t, dedup.Granted, v)
	require.Equal(t, dedup.Record{
		Key: key, State: dedup.Acquired, Fence: 1, Nonce: "a", Attempt: 1, Generation: 1, Fingerprint: dedup.Fingerprint{1}, Retention: time.Hour,
		LeaseUntil: at(time.Minute), ExpiresAt: at(61 * time.Minute), CreatedAt: start, UpdatedAt: start,
	}, r)
	h := dedup.Hold{Key: key, Fence: 1, Nonce: "a"}

	_, err := transition.Extend(&r, h, 2*time.Minute, at(30*time.Second))
	require.NoError(t, err)
	assert.Equal(t, at(150*time.Second), r.LeaseUntil)
	assert.Equal(t, at(time.Hour+150*time.Second), r.ExpiresAt)
	_, err = transition.Extend(&r, h, time.Second, at(31*time.Second))
	require.NoError(t, err)
	assert.Equal(t, at(32*time.Second), r.LeaseUntil)
	assert.Equal(t, at(time.Hour+150*time.Second), r.ExpiresAt, "the memory never gets shorter")

	_, err = transition.Release(&r, h, dedup.Release{Cause: dedup.Cause{Message: "m"}, Delay: 3 * time.Hour}, at(40*time.Second))
	require.NoError(t, err)
	assert.Equal(t, at(3*time.Hour+40*time.Second), r.NotBefore)
	assert.Equal(t, at(4*time.Hour+40*time.Second), r.ExpiresAt, "the delay and the retention")
	assert.Equal(t, at(40*time.Second), r.FailedAt)
	assert.Zero(t, r.LeaseUntil)

	v, _ = transition.Acquire(&r, claim("b"), r.NotBefore.Add(-time.Microsecond), 2)
	require.Equal(t, dedup.Busy, v)
	due := r.NotBefore
	v, _ = transition.Acquire(&r, claim("b"), due, 2)
	require.Equal(t, dedup.Granted, v, "due at notBefore itself")
	assert.Zero(t, r.NotBefore)

	v, _ = transition.Acquire(&r, claim("c"), r.LeaseUntil.Add(-time.Microsecond), 3)
	require.Equal(t, dedup.Busy, v)
	over := r.LeaseUntil
	c := claim("c")
	c.MaxAbandoned = 1
	v, _ = transition.Acquire(&r, c, over, 3)
	require.Equal(t, dedup.LetterOwed, v, "a lease is over at its end itself")
	assert.Equal(t, over.Add(5*time.Hour), r.ExpiresAt)
	assert.Equal(t, at(40*time.Second), r.FailedAt, "the first failure")
	assert.Zero(t, r.LeaseUntil)
}

func TestATakeoverIsAFailureAtTheEndOfTheLease(t *testing.T) {
	t.Parallel()
	var r dedup.Record
	transition.Acquire(&r, claim("a"), start, 1)
	transition.Acquire(&r, claim("b"), at(10*time.Minute), 2)
	assert.Equal(t, at(time.Minute), r.FailedAt)
	assert.Equal(t, 1, r.Abandoned)
}

func TestTheAbandonedPolicyComesBeforeTheLimitOfAttempts(t *testing.T) {
	t.Parallel()
	var r dedup.Record
	transition.Acquire(&r, claim("a"), start, 1)
	c := claim("b")
	c.MaxAttempts, c.MaxAbandoned = 1, 1
	transition.Acquire(&r, c, at(time.Hour), 2)
	assert.Equal(t, dedup.Abandoned, r.Cause.Class)
}

func TestAnAttemptIsNeverGivenBackTwice(t *testing.T) {
	t.Parallel()
	r := dedup.Record{State: dedup.Acquired, Fence: 1, Nonce: "a"}
	_, err := transition.Release(&r, dedup.Hold{Fence: 1, Nonce: "a"}, dedup.Release{Uncounted: true}, start)
	require.NoError(t, err)
	assert.Zero(t, r.Attempt, "never below 0")
}

// Whatever the record: what says that it changed nothing has changed nothing, an error changes nothing (I2), a new fence
// is the one that was given, and a hold of another fence or nonce is refused.
func TestNothingIsChangedUnsaid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nonces, fences := rapid.SampledFrom([]dedup.Nonce{"", "a", "b"}), rapid.Uint64Range(0, 3)
		prints, spans := rapid.SampledFrom([]dedup.Fingerprint{{}, {1}, {2}}), rapid.SampledFrom([]time.Duration{-time.Hour, 0, time.Hour})
		r := dedup.Record{}
		if s := dedup.State(rapid.IntRange(0, 5).Draw(t, "state")); s != dedup.Absent {
			r = dedup.Record{
				Key: key, State: s, Fence: dedup.Fence(fences.Draw(t, "fence")), Nonce: nonces.Draw(t, "nonce"), Attempt: rapid.IntRange(0, 2).Draw(t, "attempt"),
				Generation: 1, Fingerprint: prints.Draw(t, "print"), LeaseUntil: at(spans.Draw(t, "lease")), NotBefore: at(spans.Draw(t, "due")), ExpiresAt: at(2 * time.Hour),
			}
		}
		before := r
		h := dedup.Hold{Key: key, Fence: dedup.Fence(fences.Draw(t, "held fence")), Nonce: nonces.Draw(t, "held nonce")}
		owner := before.State != dedup.Absent && h.Nonce != "" && h.Fence == r.Fence && h.Nonce == r.Nonce
		var changed bool
		var err error
		next := dedup.Fence(9)
		switch op := rapid.IntRange(0, 5).Draw(t, "op"); op {
		case 0:
			c := claim("c")
			c.Nonce, c.Fingerprint, c.MaxAttempts = nonces.Draw(t, "claimant"), prints.Draw(t, "claimed"), rapid.IntRange(0, 2).Draw(t, "limit")
			var v dedup.Verdict
			v, changed = transition.Acquire(&r, c, start, next)
			require.Equal(t, changed, r.Fence == next, "a change by Acquire is a new owner")
			require.True(t, v != dedup.Granted || r.State == dedup.Acquired)
			require.Equal(t, before.State != dedup.Absent && !before.Fingerprint.Matches(c.Fingerprint), v == dedup.Conflict)
		case 1:
			q := dedup.ReopenRequest{Key: key, Fence: h.Fence, Generation: 1, Fingerprint: prints.Draw(t, "letter"), Rebind: rapid.Bool().Draw(t, "rebind"), Retention: time.Hour}
			var a dedup.Reopening
			a, changed = transition.Reopen(&r, q, start, next)
			require.Equal(t, a == dedup.Reopened, r.Fence == next)
			require.True(t, a != dedup.Reopened || before.State == dedup.Absent || before.State == dedup.DeadSent && before.Fence == q.Fence)
		case 2:
			changed, err = transition.LetterSent(&r, h.Fence, start)
			owner = (before.State == dedup.DeadOwed || before.State == dedup.DeadSent) && before.Fence == h.Fence
			require.Equal(t, owner, err == nil)
		case 3:
			changed, err = transition.Extend(&r, h, time.Minute, start)
		case 4:
			changed, err = transition.Release(&r, h, dedup.Release{Delay: time.Minute, Uncounted: rapid.Bool().Draw(t, "uncounted")}, start)
		default:
			changed, err = transition.Settle(&r, h, dedup.Settlement{State: dedup.State(rapid.IntRange(0, 6).Draw(t, "to")), Retention: time.Minute}, start)
		}
		if err != nil {
			require.ErrorIs(t, err, dedup.ErrLeaseLost)
			require.False(t, changed)
		}
		if !changed {
			require.Equal(t, before, r)
		}
		if h.Fence != before.Fence && r.Fence != next && before.State != dedup.Failed { // Rebind alone changes a failed one
			require.Equal(t, before, r, "a stale owner has changed the record")
		}
		require.True(t, owner || err != nil || r.Fence == next || r.State == before.State)
	})
}
