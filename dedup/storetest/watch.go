package storetest

import (
	"context"
	"time"

	"github.com/idemq/idemq/dedup"
)

const watchSays = "A channel of Watch receives after every Settle, Release, LetterSent, Reopen and Forget of the key, by whichever process, that " +
	"is acknowledged after Watch has returned: who waits for an outcome does not ask again, so a change that is not told is waited for in vain."

// signalLimit is how long a signal is waited for.
const signalLimit = 20 * time.Second

// watcher returns the store as a Watcher, or leaves the test out.
func (e *env) watcher() dedup.Watcher {
	e.t.Helper()
	w, ok := e.store.(dedup.Watcher)
	if !ok {
		e.t.Skip("the store is no dedup.Watcher")
	}
	return w
}

func (e *env) watch(ctx context.Context, k dedup.Key) <-chan struct{} {
	e.t.Helper()
	c, err := e.watcher().Watch(ctx, k)
	e.ok(err, "Watch")
	return c
}

// told demands a signal.
func (e *env) told(c <-chan struct{}, of string) {
	e.t.Helper()
	t := time.NewTimer(signalLimit)
	defer t.Stop()
	select {
	case _, open := <-c:
		e.check(open, "the channel is closed instead of telling of %s", of)
	case <-t.C:
		e.failf("nothing is told of %s within %v", of, signalLimit)
	}
}

// quiet takes the signals away that tell of nothing, or of what was before.
func (e *env) quiet(c <-chan struct{}) {
	e.t.Helper()
	select {
	case _, open := <-c:
		e.check(open, "the channel is closed while its context goes on")
	default:
	}
}

var watchRules = []rule{
	{"watch-settle", watchSays, func(e *env) {
		e.watcher()
		for _, s := range []dedup.Settlement{e.consumed([]byte("x")), e.dead(dedup.DeadOwed), e.dead(dedup.DeadSent)} {
			r := e.acquire(e.claim("settle-"+s.State.String(), "a"), dedup.Granted)
			c := e.watch(e.ctx, r.Key)
			e.quiet(c)
			e.settle(r, s)
			e.told(c, "a Settle to "+s.State.String())
		}
	}},
	{"watch-release", watchSays, func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		c := e.watch(e.ctx, r.Key)
		for i, n := range []dedup.Nonce{"b", "c", "d"} { // one channel for all that comes
			e.quiet(c)
			e.release(r, dedup.Release{Cause: retryCause})
			e.told(c, "a Release")
			if i < 2 {
				r = e.acquire(e.claim("1", n), dedup.Granted)
			}
		}
	}},
	{"watch-replay", watchSays, func(e *env) {
		e.watcher()
		i := e.inspector()
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		c := e.watch(e.ctx, r.Key)
		e.settle(r, e.dead(dedup.DeadOwed))
		e.told(c, "a Settle to dead")
		e.quiet(c)
		e.letterSent(r)
		e.told(c, "LetterSent")
		e.quiet(c)
		e.reopen(i, e.request(r), dedup.Reopened)
		e.told(c, "Reopen")
		e.quiet(c)
		e.ok(i.Forget(e.ctx, r.Key, true), "Forget")
		e.told(c, "Forget")
	}},
	{"watch-forget-running", watchSays, func(e *env) {
		e.watcher()
		i := e.inspector()
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		c := e.watch(e.ctx, r.Key)
		e.quiet(c)
		e.ok(i.Forget(e.ctx, r.Key, true), "a forced Forget")
		e.told(c, "a Forget of a running claim")
	}},
	{"watch-absent", watchSays + " A key of which nothing is known yet can be watched.", func(e *env) {
		c := e.watch(e.ctx, e.key("1"))
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.quiet(c)
		e.settle(r, e.consumed(nil))
		e.told(c, "a Settle")
	}},
	{"watch-batch", watchSays, func(e *env) {
		e.watcher()
		b := e.batcher()
		claims := []dedup.Claim{e.claim("1", "a"), e.claim("2", "a"), e.claim("3", "a")}
		var settlements []dedup.HeldSettlement
		var channels []<-chan struct{}
		for _, r := range e.acquireMany(b, claims, dedup.Granted) {
			settlements = append(settlements, dedup.HeldSettlement{Hold: hold(r), Settlement: e.consumed(nil)})
			channels = append(channels, e.watch(e.ctx, r.Key))
		}
		for i, err := range e.settleMany(b, settlements) {
			e.ok(err, "SettleMany")
			e.told(channels[i], "one of many settlements")
		}
	}},
	{"watch-many", watchSays + " Everybody who watches is told, also by a store of another process.", func(e *env) {
		e.watcher()
		const watchers = 50
		other, ok := e.h.New(e.t).(dedup.Watcher)
		e.check(ok, "New returns a dedup.Watcher once and not again")
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		var channels []<-chan struct{}
		for range watchers {
			channels = append(channels, e.watch(e.ctx, r.Key))
		}
		if i, inspects := other.(dedup.Inspector); inspects {
			if _, err := i.Get(e.ctx, r.Key); err == nil { // the two share their records
				c, err := other.Watch(e.ctx, r.Key)
				e.ok(err, "Watch of another store")
				channels = append(channels, c)
			}
		}
		for _, c := range channels {
			e.quiet(c)
		}
		e.settle(r, e.consumed(nil))
		for _, c := range channels {
			e.told(c, "a Settle")
		}
	}},
	{"watch-neighbours", "A watched key's channel tells of that key. Signals are hints, so one too many is allowed, but the end of one " +
		"watch must not end another. I12.", func(e *env) {
		ctx, cancel := context.WithCancel(e.ctx)
		defer cancel()
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		ending, staying := e.watch(ctx, r.Key), e.watch(e.ctx, r.Key)
		neighbour := e.watch(e.ctx, e.key("2"))
		cancel()
		e.closed(ending)
		e.quiet(staying)
		e.settle(r, e.consumed(nil))
		e.told(staying, "a Settle, after another watch of the key has ended")
		other := e.acquire(e.claim("2", "a"), dedup.Granted)
		e.quiet(neighbour)
		e.settle(other, e.consumed(nil))
		e.told(neighbour, "a Settle, after a watch of another key has ended")
	}},
	{"watch-ends", "The channel is closed when the context ends, and a Watch on a context that has ended fails: nobody is left waiting, and " +
		"nothing is left behind.", func(e *env) {
		ctx, cancel := context.WithCancel(e.ctx)
		c := e.watch(ctx, e.key("1"))
		cancel()
		e.closed(c)
		_, err := e.watcher().Watch(ctx, e.key("1"))
		e.check(err != nil, "Watch on a context that has ended succeeds")
	}},
}

// closed demands that the channel ends, after whatever it still tells.
func (e *env) closed(c <-chan struct{}) {
	e.t.Helper()
	t := time.NewTimer(signalLimit)
	defer t.Stop()
	for {
		select {
		case _, open := <-c:
			if !open {
				return
			}
		case <-t.C:
			e.failf("the channel is not closed within %v", signalLimit)
		}
	}
}
