package transition_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var (
	now  = time.Date(2026, 8, 15, 12, 0, 0, 0, time.UTC)
	key  = dedup.Key{Scope: "s", ID: "k"}
	own  = dedup.Hold{Key: key, Fence: 7, Nonce: "owner"}
	next = dedup.Fence(9)
)

// record returns one of fence 7 and nonce "owner", changed by what is given.
func record(s dedup.State, change ...func(*dedup.Record)) dedup.Record {
	if s == dedup.Absent {
		return dedup.Record{}
	}
	r := dedup.Record{
		Key: key, State: s, Fence: own.Fence, Nonce: own.Nonce, Attempt: 2, Generation: 1, Fingerprint: dedup.Fingerprint{1},
		Retention: time.Hour, ExpiresAt: now.Add(time.Hour), CreatedAt: now.Add(-time.Hour),
	}
	switch s { //nolint:exhaustive // only these states have times
	case dedup.Acquired:
		r.LeaseUntil = now.Add(time.Second)
	case dedup.Failed:
		r.NotBefore = now
	}
	for _, f := range change {
		f(&r)
	}
	return r
}

func leaseOver(r *dedup.Record) { r.LeaseUntil = now }
func notDue(r *dedup.Record)    { r.NotBefore = now.Add(time.Second) }
func unbound(r *dedup.Record)   { r.Fingerprint = dedup.Fingerprint{} }

func by(n dedup.Nonce, change ...func(*dedup.Claim)) dedup.Claim {
	c := dedup.Claim{
		Key: key, Nonce: n, Fingerprint: dedup.Fingerprint{1}, Lease: time.Second, Retention: time.Hour, DeadRetention: 2 * time.Hour,
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func limits(attempts, abandoned int, letters bool) func(*dedup.Claim) {
	return func(c *dedup.Claim) { c.MaxAttempts, c.MaxAbandoned, c.Letters = attempts, abandoned, letters }
}
func otherPayload(c *dedup.Claim) { c.Fingerprint = dedup.Fingerprint{2} }
func noPayload(c *dedup.Claim)    { c.Fingerprint = dedup.Fingerprint{} }

func TestAcquire(t *testing.T) {
	t.Parallel()
	all := limits(1, 1, true)
	for name, tc := range map[string]struct {
		r       dedup.Record
		c       dedup.Claim
		verdict dedup.Verdict
		to      dedup.State // and a new fence; Absent: nothing changes
	}{
		"absent":                             {record(dedup.Absent), by("new", all), dedup.Granted, dedup.Acquired},
		"busy":                               {record(dedup.Acquired), by("new", all), dedup.Busy, 0},
		"repeated":                           {record(dedup.Acquired), by("owner", all), dedup.Granted, 0},
		"lease over":                         {record(dedup.Acquired, leaseOver), by("new"), dedup.Granted, dedup.Acquired},
		"own lease over":                     {record(dedup.Acquired, leaseOver), by("owner"), dedup.Granted, dedup.Acquired},
		"lease over, below limits":           {record(dedup.Acquired, leaseOver), by("new", limits(3, 2, true)), dedup.Granted, dedup.Acquired},
		"lease over, attempts":               {record(dedup.Acquired, leaseOver), by("new", limits(2, 0, true)), dedup.LetterOwed, dedup.DeadOwed},
		"lease over, attempts, no letters":   {record(dedup.Acquired, leaseOver), by("new", limits(2, 0, false)), dedup.Dead, dedup.DeadSent},
		"lease over, abandoned":              {record(dedup.Acquired, leaseOver), by("new", limits(0, 1, true)), dedup.LetterOwed, dedup.DeadOwed},
		"lease over, abandoned, no letters":  {record(dedup.Acquired, leaseOver), by("new", limits(0, 1, false)), dedup.Dead, dedup.DeadSent},
		"due":                                {record(dedup.Failed), by("new"), dedup.Granted, dedup.Acquired},
		"due, below the limit":               {record(dedup.Failed), by("new", limits(3, 1, true)), dedup.Granted, dedup.Acquired},
		"due, attempts":                      {record(dedup.Failed), by("new", limits(2, 0, true)), dedup.LetterOwed, dedup.DeadOwed},
		"due, attempts, no letters":          {record(dedup.Failed), by("new", limits(2, 0, false)), dedup.Dead, dedup.DeadSent},
		"spent nonce":                        {record(dedup.Failed), by("owner", all), dedup.Busy, 0},
		"not due":                            {record(dedup.Failed, notDue), by("new", all), dedup.Busy, 0},
		"consumed":                           {record(dedup.Consumed), by("new", all), dedup.Duplicate, 0},
		"consumed, owner":                    {record(dedup.Consumed), by("owner", all), dedup.Duplicate, 0},
		"owed":                               {record(dedup.DeadOwed), by("new", all), dedup.LetterOwed, 0},
		"owed, caller without letters":       {record(dedup.DeadOwed), by("new"), dedup.LetterOwed, 0},
		"dead":                               {record(dedup.DeadSent), by("new", all), dedup.Dead, 0},
		"conflict: running":                  {record(dedup.Acquired), by("new", otherPayload), dedup.Conflict, 0},
		"conflict: repeated":                 {record(dedup.Acquired), by("owner", otherPayload), dedup.Conflict, 0},
		"conflict: lease over":               {record(dedup.Acquired, leaseOver), by("new", otherPayload, all), dedup.Conflict, 0},
		"conflict: due":                      {record(dedup.Failed), by("new", otherPayload, all), dedup.Conflict, 0},
		"conflict: not due":                  {record(dedup.Failed, notDue), by("new", otherPayload), dedup.Conflict, 0},
		"conflict: consumed":                 {record(dedup.Consumed), by("new", otherPayload), dedup.Conflict, 0},
		"conflict: owed":                     {record(dedup.DeadOwed), by("new", otherPayload), dedup.Conflict, 0},
		"conflict: dead":                     {record(dedup.DeadSent), by("new", otherPayload), dedup.Conflict, 0},
		"no fingerprint in the claim":        {record(dedup.Consumed), by("new", noPayload), dedup.Duplicate, 0},
		"no fingerprint in the record":       {record(dedup.Consumed, unbound), by("new", otherPayload), dedup.Duplicate, 0},
		"no fingerprint is bound by a claim": {record(dedup.Failed, unbound), by("new"), dedup.Granted, dedup.Acquired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.r.Clone()
			v, changed := transition.Acquire(&r, tc.c, now, next)
			require.Equal(t, tc.verdict.String(), v.String())
			require.Equal(t, tc.to != dedup.Absent, changed)
			if !changed {
				require.Equal(t, tc.r, r)
				return
			}
			assert.Equal(t, tc.to.String(), r.State.String())
			assert.Equal(t, []any{key, next, tc.c.Nonce, now}, []any{r.Key, r.Fence, r.Nonce, r.UpdatedAt})
			attempts, abandoned := tc.r.Attempt, tc.r.Abandoned
			if tc.to == dedup.Acquired {
				attempts++
				assert.Equal(t, dedup.Fingerprint{1}, r.Fingerprint)
				assert.Equal(t, now.Add(time.Second), r.LeaseUntil)
			} else {
				assert.True(t, r.LeaseUntil.IsZero() && r.NotBefore.IsZero())
				assert.Equal(t, now.Add(2*time.Hour), r.ExpiresAt, "DeadRetention")
			}
			if tc.r.State == dedup.Acquired {
				abandoned++
			}
			assert.Equal(t, []any{attempts, abandoned}, []any{r.Attempt, r.Abandoned})
		})
	}
}

// holders are the changes that need a hold, with the states in which they are a repetition.
var holders = map[string]struct {
	do      func(*dedup.Record, dedup.Hold) (bool, error)
	to      dedup.State
	repeats []dedup.State
}{
	"extend": {
		func(r *dedup.Record, h dedup.Hold) (bool, error) { return transition.Extend(r, h, time.Hour, now) },
		dedup.Acquired, nil,
	},
	"release": {
		func(r *dedup.Record, h dedup.Hold) (bool, error) {
			return transition.Release(r, h, dedup.Release{Delay: time.Second}, now)
		},
		dedup.Failed, []dedup.State{dedup.Failed},
	},
	"consume":   {settle(dedup.Consumed), dedup.Consumed, []dedup.State{dedup.Consumed}},
	"kill":      {settle(dedup.DeadOwed), dedup.DeadOwed, []dedup.State{dedup.DeadOwed, dedup.DeadSent}},
	"kill sent": {settle(dedup.DeadSent), dedup.DeadSent, []dedup.State{dedup.DeadSent}},
}

func settle(s dedup.State) func(*dedup.Record, dedup.Hold) (bool, error) {
	return func(r *dedup.Record, h dedup.Hold) (bool, error) {
		return transition.Settle(r, h, dedup.Settlement{State: s, Retention: time.Minute}, now)
	}
}

func TestWhoMayChangeARecord(t *testing.T) {
	t.Parallel()
	for name, op := range holders {
		for state := dedup.Absent; state <= dedup.DeadSent; state++ {
			before := record(state, leaseOver)
			for why, h := range map[string]dedup.Hold{
				"an older fence": {Key: key, Fence: 6, Nonce: "owner"}, "a later fence": {Key: key, Fence: 8, Nonce: "owner"},
				"another nonce": {Key: key, Fence: 7, Nonce: "other"}, "no nonce": {Key: key, Fence: 7}, "nothing": {Key: key},
			} {
				r := before.Clone()
				changed, err := op.do(&r, h)
				require.ErrorIs(t, err, dedup.ErrLeaseLost, "%s of %s with %s", name, state, why)
				require.False(t, changed)
				require.Equal(t, before, r, "%s of %s with %s", name, state, why)
			}
			r := before.Clone()
			changed, err := op.do(&r, own)
			switch repeated := contains(op.repeats, state); {
			case state == dedup.Acquired:
				require.NoError(t, err, name)
				require.True(t, changed)
				require.Equal(t, op.to.String(), r.State.String(), name)
				require.Equal(t, []any{own.Fence, own.Nonce}, []any{r.Fence, r.Nonce})
			case repeated:
				require.NoError(t, err, "%s repeated in %s", name, state)
				fallthrough
			default:
				require.Equal(t, repeated, err == nil, "%s of %s", name, state)
				require.False(t, changed)
				require.Equal(t, before, r, "%s of %s", name, state)
			}
		}
	}
}

// A reopened record has no nonce, and an empty one in a hold must not match it.
func TestAReopenedRecordIsNobodys(t *testing.T) {
	t.Parallel()
	r := record(dedup.DeadSent)
	o, changed := transition.Reopen(&r, dedup.ReopenRequest{Key: key, Fence: 7, Generation: 1}, now, next)
	require.Equal(t, dedup.Reopened, o)
	require.True(t, changed)
	for name, op := range holders {
		for _, n := range []dedup.Nonce{"", "owner"} {
			_, err := op.do(&r, dedup.Hold{Key: key, Fence: next, Nonce: n})
			require.ErrorIs(t, err, dedup.ErrLeaseLost, name)
		}
	}
}

func contains(all []dedup.State, one dedup.State) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

func TestReopen(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r      dedup.Record
		letter dedup.Fence
		want   dedup.Reopening
	}{
		"absent": {record(dedup.Absent), 7, dedup.Reopened}, "dead": {record(dedup.DeadSent), 7, dedup.Reopened},
		"dead again": {record(dedup.DeadSent), 6, dedup.Resolved}, "dead before": {record(dedup.DeadSent), 8, dedup.NotSettled},
		"consumed": {record(dedup.Consumed), 6, dedup.Resolved}, "consumed by it": {record(dedup.Consumed), 7, dedup.Resolved},
		"consumed before": {record(dedup.Consumed), 8, dedup.Resolved},
		"failed":          {record(dedup.Failed), 6, dedup.AlreadyOpen}, "failed with it": {record(dedup.Failed), 7, dedup.NotSettled},
		"acquired": {record(dedup.Acquired), 6, dedup.AlreadyOpen}, "acquired with it": {record(dedup.Acquired), 7, dedup.NotSettled},
		"owed": {record(dedup.DeadOwed), 6, dedup.AlreadyOpen}, "owed with it": {record(dedup.DeadOwed), 7, dedup.NotSettled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.r.Clone()
			q := dedup.ReopenRequest{Key: key, Fence: tc.letter, Generation: 1, Fingerprint: dedup.Fingerprint{1}, Retention: time.Hour}
			got, changed := transition.Reopen(&r, q, now, next)
			require.Equal(t, tc.want.String(), got.String())
			require.Equal(t, tc.want == dedup.Reopened, changed)
			if !changed {
				require.Equal(t, tc.r, r)
				return
			}
			require.Equal(t, []any{dedup.Failed, next, 0, 2, dedup.Nonce("")}, []any{r.State, r.Fence, r.Attempt, r.Generation, r.Nonce})
		})
	}
}
