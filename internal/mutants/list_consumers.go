package main

const core = "./consumer ./consumer/natsidem"

// consumers breaks the order of things that a consumer keeps.
var consumers = []mutant{
	{
		name: "guard: trust lasts as long as the lease", file: "dedup/guard.go",
		old: `	if monotonic >= g.d.cfg.Lease-g.d.cfg.Margin {`, new: `	if monotonic >= g.d.cfg.Lease {`, tests: "./dedup",
	},
	{
		name: "guard: a machine that was suspended is trusted", file: "dedup/guard.go",
		old: `jump > g.d.cfg.Margin {`, new: `false && jump > g.d.cfg.Margin {`, tests: "./dedup",
	},
	{
		name: "guard: trust is counted from the answer", file: "dedup/guard.go",
		old: `letters: c.Letters, trusted: sent}`, new: `letters: c.Letters, trusted: time.Now()}`, tests: "./dedup",
	},
	{
		name: "Redis: a holder's fence is not compared", file: "dedup/redisstore/scripts/record.lua",
		old: `r.fence == fence and `, new: ``, tests: "./dedup/redisstore",
	},
	{
		name: "Redis: a holder's nonce is not compared", file: "dedup/redisstore/scripts/record.lua",
		old: ` and r.nonce == nonce`, new: ``, tests: "./dedup/redisstore",
	},
	{
		name: "Redis: a record that has changed is settled", file: "dedup/redisstore/scripts/settle.lua",
		old: `if records[i] == '1 a ' .. text .. before[fence] then`, new: `if records[i] then`, tests: "./dedup/redisstore",
	},
	{
		name: "worker: acknowledged although the store does not know", file: "consumer/flow_settle.go",
		old: `	if err != nil {
		a.giveUp(err, nil)`, new: `	if false && err != nil {
		a.giveUp(err, nil)`, tests: core,
	},
	{
		name: "worker: a batch's answers belong to their neighbours", file: "consumer/flow_settle.go",
		old: `a := batch[i]`, new: `a := batch[(i+1)%len(batch)]`, tests: core,
	},
	{
		name: "worker: ended before its letter is confirmed", file: "consumer/answer.go",
		old: `	if !p.publish(ctx, del, l) {
		p.nak(ctx, del, p.cfg.LetterDelay)
		return
	}`, new: `	_ = p.publish(ctx, del, l)`, tests: core,
	},
	{
		name: "worker: buried before its letter is confirmed", file: "consumer/answer.go",
		old: `	if !p.publish(ctx, del, l) {
		p.nak(ctx, del, p.cfg.LetterDelay)
		return back
	}`, new: `	_ = p.publish(ctx, del, l)`, tests: core,
	},
	{
		name: "worker: a replay is answered from memory", file: "consumer/pipeline.go",
		old: `s.adm == first && m.ReplaySequence == 0 && p.memory`, new: `s.adm == first && p.memory`, tests: core,
	},
	{
		name: "worker: memory does not compare the payload", file: "consumer/memory.go",
		old: `ok && r.fingerprint == fp && m.fresh(r.at)`, new: `ok && m.fresh(r.at)`, tests: core,
	},
	{
		name: "worker: memory lasts for ever", file: "consumer/memory.go",
		old: `ok && r.fingerprint == fp && m.fresh(r.at)`, new: `ok && r.fingerprint == fp`, tests: core,
	},
	{
		name: "replay: published before the key is open", file: "consumer/deadletter/replayer.go",
		old: `	out.Outcome, err = p.open(ctx)
	switch {`, new: `	if _, err := p.publish(ctx); err != nil {
		return out, err
	}
	out.Outcome, err = p.open(ctx)
	switch {`, tests: "./consumer/deadletter ./consumer/natsidem", run: "Replay",
	},
	{
		name: "replay: an entry that was replayed is replayed again", file: "consumer/deadletter/replayer.go",
		old: `case now.Mark != nil:
		return nil, fmt`, new: `case false:
		return nil, fmt`, tests: "./consumer/deadletter",
	},
	{
		name: "HTTP: one client's cookie for another", file: "consumer/httpidem/stored.go",
		old: `case "", "Set-Cookie", "Set-Cookie2",`, new: `case "",`, tests: "./consumer/httpidem",
	},
	{
		name: "HTTP: the principal is no part of the scope", file: "consumer/httpidem/scope.go",
		old: `b = appendEscaped(b, principal, "")`, new: `b = appendEscaped(b, "", "")`, tests: "./consumer/httpidem",
	},
}
