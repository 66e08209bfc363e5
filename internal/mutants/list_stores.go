package main

// stores breaks what a store adds to the rules.
var stores = []mutant{
	{
		name: "memory: fences do not outlive their records", file: "dedup/memstore/store.go",
		old: `transition.NextFence(max(sh.fence, r.Fence), now)`, new: `transition.NextFence(r.Fence, now)`, tests: "./dedup/memstore",
	},
	{
		name: "KV: a write does not look what it replaces", file: "dedup/kvstore/wire.go",
		old: `	opts = append(opts, jetstream.WithExpectLastSequencePerSubject(revision))
`, new: ``, tests: "./dedup/kvstore",
	},
	{
		name: "SQL: a holder's fence is not compared", file: "dedup/sqlstore/statements.go",
		old: `AND fence = $3 AND nonce = $4 AND state`, new: `AND (fence = $3 OR true) AND nonce = $4 AND state`, tests: "./dedup/sqlstore",
	},
	{
		name: "SQL: a holder's nonce is not compared", file: "dedup/sqlstore/statements.go",
		old: `AND fence = $3 AND nonce = $4 AND state`, new: `AND fence = $3 AND (nonce = $4 OR true) AND state`, tests: "./dedup/sqlstore",
	},
	{
		name: "SQLite: the clock is read before the lock", file: "dedup/sqlstore/lock.go",
		old: `"BEGIN IMMEDIATE"`, new: `"BEGIN"`, tests: "./dedup/sqlstore", run: "Histories",
	},
	{
		name: "SQL: a statement goes by the time of its begin", file: "dedup/sqlstore/row.go",
		old: `return max(now, s.updatedAt)`, new: `return now`, tests: "./dedup/sqlstore", run: "AChangeThatIsFound",
	},
	{
		name: "tiers: the durable tier is not asked before a grant", file: "dedup/tieredstore/acquire.go",
		old: `	case d.State.Settled():
		return s.settled(ctx, c, &r, d)
`, new: ``, tests: "./dedup/tieredstore",
	},
	{
		name: "tiers: nothing waits after the fast tier has lost everything", file: "dedup/tieredstore/loss.go",
		old: `if first && known {`, new: `if false && first && known {`, tests: "./dedup/tieredstore",
	},
	{
		name: "tiers: a settlement that the durable tier refuses counts", file: "dedup/tieredstore/hold.go",
		old: `		if err := s.commit(ctx, h, r); err != nil {
			return err
		}
`, new: `		_ = s.commit(ctx, h, r)
`, tests: "./dedup/tieredstore",
	},
}
