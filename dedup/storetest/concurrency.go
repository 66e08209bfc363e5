package storetest

import (
	"fmt"
	"sync"

	"github.com/idemq/idemq/dedup"
)

const (
	workers        = 32
	concurrentSays = "All methods are atomic per key: of any number of Acquires at once one is granted, and the handler of one key never " +
		"runs twice at once while leases are honoured. I1, I2."
)

// race runs f in many goroutines at once. f must not end the test.
func race(f func(i int)) {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range workers {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			f(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

// contend acquires a key from many goroutines and demands the verdicts.
func (e *env) contend(c dedup.Claim, nonce func(int) dedup.Nonce, want map[dedup.Verdict]int) []dedup.Record {
	e.t.Helper()
	answers := make([]dedup.Acquisition, workers)
	race(func(i int) {
		c := c
		c.Nonce = nonce(i)
		answers[i].Verdict, answers[i].Record, answers[i].Err = e.store.Acquire(e.ctx, c)
	})
	got := map[dedup.Verdict]int{}
	var records []dedup.Record
	for i, a := range answers {
		e.ok(a.Err, "Acquire")
		got[a.Verdict]++
		e.check(a.Record.Fence == answers[0].Record.Fence, "fence %d and fence %d from one race", a.Record.Fence, answers[0].Record.Fence)
		if a.Verdict == dedup.Granted {
			e.check(a.Record.Nonce == nonce(i), "granted to %q, who is told of %q", nonce(i), a.Record.Nonce)
			records = append(records, a.Record)
		}
	}
	e.check(fmt.Sprint(got) == fmt.Sprint(want), "the verdicts are %v, not %v", got, want)
	return records
}

func each(i int) dedup.Nonce { return dedup.Nonce(fmt.Sprintf("w%d", i)) }

var concurrencyRules = []rule{
	{"concurrent-acquire", concurrentSays, func(e *env) {
		one := map[dedup.Verdict]int{dedup.Granted: 1, dedup.Busy: workers - 1}
		for round := range 4 {
			c := e.brief(fmt.Sprint("k", round), "")
			c.Lease = e.long
			won := e.contend(c, each, one)[0]
			e.release(won, dedup.Release{Cause: retryCause})
			// The winner's nonce is spent now, so the second race has other nonces.
			won = e.contend(c, func(i int) dedup.Nonce { return "again-" + each(i) }, one)[0]
			e.is(won, dedup.Acquired, 2)
			e.settle(won, e.consumed(nil))
			e.contend(c, each, map[dedup.Verdict]int{dedup.Duplicate: workers})
		}
	}},
	{"concurrent-takeover", concurrentSays + " A lease that is over is taken over once.", func(e *env) {
		old := e.acquire(e.brief("1", "old"), dedup.Granted)
		e.pass()
		won := e.contend(e.claim("1", ""), each, map[dedup.Verdict]int{dedup.Granted: 1, dedup.Busy: workers - 1})[0]
		e.is(won, dedup.Acquired, 2)
		e.check(won.Abandoned == 1, "abandoned %d times, not once", won.Abandoned)
		e.stale(old)
	}},
	{"concurrent-same-nonce", "I8: an Acquire that is repeated, also at the same time, is one grant.", func(e *env) {
		for _, r := range e.contend(e.claim("1", ""), func(int) dedup.Nonce { return "a" }, map[dedup.Verdict]int{dedup.Granted: workers}) {
			e.is(r, dedup.Acquired, 1)
		}
	}},
	{"concurrent-limit", limitSays + " One key, one fate.", func(e *env) {
		e.release(e.acquire(e.claim("1", "a"), dedup.Granted), dedup.Release{})
		c := e.claim("1", "")
		c.MaxAttempts = 1
		e.contend(c, each, map[dedup.Verdict]int{dedup.LetterOwed: workers})
	}},
	{"concurrent-settle", "All methods are atomic per key: of a Settle and a Release at once one succeeds, and the record is as that one says. I2, I3.",
		func(e *env) {
			for round := range 8 {
				r := e.acquire(e.claim(fmt.Sprint("k", round), "a"), dedup.Granted)
				settled, errs := round%2, make([]error, workers)
				race(func(i int) {
					if i%2 == settled {
						errs[i] = e.store.Settle(e.ctx, hold(r), e.consumed([]byte("x")))
					} else {
						errs[i] = e.store.Release(e.ctx, hold(r), dedup.Release{Cause: retryCause, Delay: e.long})
					}
				})
				v, got, err := e.store.Acquire(e.ctx, e.claim(r.Key.ID, "b"))
				e.ok(err, "Acquire")
				e.check(v == dedup.Duplicate && got.State == dedup.Consumed || v == dedup.Busy && got.State == dedup.Failed, "%v of %+v", v, got)
				for i, err := range errs {
					if (i%2 == settled) == (v == dedup.Duplicate) {
						e.ok(err, "the one that won, repeated")
					} else {
						e.lost(err, "the one that lost")
					}
				}
			}
		}},
	{"concurrent-reopen", "Replay of one entry, every step repeatable, by any number of replayers. I11: replaying twice runs once.", func(e *env) {
		i := e.inspector()
		r := e.letter("1")
		answers, errs := make([]dedup.Reopening, workers), make([]error, workers)
		race(func(n int) { answers[n], errs[n] = i.Reopen(e.ctx, e.request(r)) })
		opened := 0
		for n, a := range answers {
			e.ok(errs[n], "Reopen")
			e.check(a == dedup.Reopened || a == dedup.AlreadyOpen, "a replayer is told %v", a)
			if a == dedup.Reopened {
				opened++
			}
		}
		e.check(opened == 1, "reopened %d times", opened)
		got, _ := e.get(r.Key)
		e.check(got.Generation == 2, "generation %d, not 2", got.Generation)
	}},
	{"concurrent-neighbours", "All methods are safe for concurrent use; keys do not hinder one another.", func(e *env) {
		errs := make([]error, workers)
		race(func(i int) {
			errs[i] = func() error {
				c := e.claim(fmt.Sprint("k", i), "a")
				v, r, err := e.store.Acquire(e.ctx, c)
				if err != nil || v != dedup.Granted {
					return fmt.Errorf("acquire: %v, %w", v, err)
				}
				if err := e.store.Extend(e.ctx, hold(r), e.long); err != nil {
					return fmt.Errorf("extend: %w", err)
				}
				return e.store.Settle(e.ctx, hold(r), e.consumed([]byte(c.Key.ID)))
			}()
		})
		for i, err := range errs {
			e.ok(err, "a worker at a key of its own")
			id := fmt.Sprint("k", i)
			r := e.acquire(e.claim(id, "b"), dedup.Duplicate)
			e.check(string(r.Result) == id, "%s has the result of %q", id, r.Result)
		}
	}},
}
