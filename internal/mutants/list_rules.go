package main

import "slices"

// mutants are all of them.
func mutants() []mutant { return slices.Concat(rules, stores, consumers) }

const rulesFile = "dedup/transition/transition.go"

// rules breaks the state machine, and expects its own tests or the conformance suite to notice.
var rules = []mutant{
	{
		name: "rules: a holder's fence is not compared", file: rulesFile,
		old: `r.Fence == h.Fence && r.Nonce == h.Nonce`, new: `r.Nonce == h.Nonce`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a holder's nonce is not compared", file: rulesFile,
		old: `h.Nonce != "" && r.Fence == h.Fence && r.Nonce == h.Nonce`, new: `r.Fence == h.Fence`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a lease is over only after its end", file: rulesFile,
		old: `if r.LeaseUntil.After(now) {`, new: `if !r.LeaseUntil.Before(now) {`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a running lease is taken over", file: rulesFile,
		old: `			return dedup.Busy, false
		}
		r.Abandoned++`, new: `		}
		r.Abandoned++`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a spent nonce is granted again", file: rulesFile,
		old: `r.NotBefore.After(now) || r.Nonce == c.Nonce`, new: `r.NotBefore.After(now)`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a retry does not wait until it is due", file: rulesFile,
		old: `r.NotBefore.After(now) || r.Nonce == c.Nonce`, new: `r.Nonce == c.Nonce`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: one abandonment more than allowed", file: rulesFile,
		old: `r.Abandoned >= c.MaxAbandoned`, new: `r.Abandoned > c.MaxAbandoned`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: one attempt more than allowed", file: rulesFile,
		old: `r.Attempt >= c.MaxAttempts`, new: `r.Attempt > c.MaxAttempts`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: the payload is not compared", file: rulesFile,
		old: `!r.Fingerprint.Matches(c.Fingerprint)`, new: `false`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a settlement after the letter is refused", file: rulesFile,
		old: ` || (r.State == dedup.DeadSent && s.State == dedup.DeadOwed)`, new: ``, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a settled key is settled again", file: rulesFile,
		old: `	if r.State != dedup.Acquired {
		return false, dedup.ErrLeaseLost
	}
	settle(r, s, now)`, new: `	settle(r, s, now)`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: anybody's letter finishes a death", file: rulesFile,
		old: `r.Fence != f || (`, new: `(`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: any letter opens a dead key", file: rulesFile,
		old: `r.State == dedup.DeadSent && r.Fence == q.Fence`, new: `r.State == dedup.DeadSent`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a replayed key's memory gets shorter", file: rulesFile,
		old: `if keep && r.ExpiresAt`, new: `if false && r.ExpiresAt`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: a record is forgotten with its lease", file: rulesFile,
		old: `touch(r, now, c.Retention+c.Lease, true)`, new: `touch(r, now, c.Lease, true)`, tests: "./dedup/transition ./dedup/memstore",
	},
	{
		name: "rules: fences stand still with the clock", file: rulesFile,
		old: `max(previous+1, `, new: `max(previous, `, tests: "./dedup/transition ./dedup/memstore",
	},
}
