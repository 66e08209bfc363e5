package dedup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Guard is one granted claim. It trusts its lease until
//
//	time before the first send of the Acquire, or before the latest acknowledged heartbeat  +  lease − margin
//
// by the monotonic clock, and not across a jump of the wall clock, which shows that the machine was suspended:
//
//	store:    |———— lease ————————————————————|        somebody may take over from here
//	holder: send  answer                trust ends     (margin before, and counted from before the send)
//	          |———— lease − margin ———————|
//
// When trust ends the context is cancelled with cause [ErrLeaseLost], whatever the network says. A Guard is safe for
// concurrent use.
type Guard struct {
	d      *Deduper
	record Record
	ctx    lazyContext // the handler's
	beats  sync.WaitGroup

	due            time.Duration // these four belong to alarms
	before, behind *Guard
	listed         bool

	letters bool

	mu       sync.Mutex
	ended    bool
	settling bool // SettleTx was called
	beating  bool // a heartbeat is under way
	woken    bool // the first alarm has gone
	err      error
	noTx     string        // why SettleTx is forbidden
	steps    *stepLog      // nil before the first step
	lost     chan struct{} // nil until somebody asks for it
	trusted  time.Time     // the send from which the lease is trusted
	beat     time.Time     // when the next heartbeat is due; zero before Start
	alarm    *time.Timer   // for the next heartbeat or the end of trust, whatever comes first; nil before the first alarm
	renew    func(context.Context) error
	onLost   func()
	stop     context.CancelFunc // ends a heartbeat under way; nil before the first one
	beatCtx  context.Context    //nolint:containedctx // lives as long as the heartbeat, not as a call
}

func newGuard(ctx context.Context, d *Deduper, c *Claim, r *Record, sent time.Time) *Guard {
	g := &Guard{d: d, record: *r, letters: c.Letters, trusted: sent}
	g.record.Key, g.record.Nonce = c.Key, c.Nonce
	g.ctx.parent, g.ctx.guard = ctx, g
	// The first alarm is for the first heartbeat, in case there will be any.
	if !d.alarms.add(g, sent) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.alarm = time.AfterFunc(time.Until(sent.Add(d.cfg.Lease/leaseParts)), g.wake)
	}
	return g
}

// Context returns the context for the handler.
func (g *Guard) Context() context.Context { return &g.ctx }

// Record returns the record as it was granted.
func (g *Guard) Record() Record { return g.record }

// Hold returns the proof of ownership, for settling in a transaction of one's own.
func (g *Guard) Hold() Hold {
	return Hold{Key: g.record.Key, Fence: g.record.Fence, Nonce: g.record.Nonce}
}

// Lost is closed when the claim is lost.
func (g *Guard) Lost() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lost == nil {
		g.lost = make(chan struct{})
		if g.err != nil {
			close(g.lost)
		}
	}
	return g.lost
}

// Err returns nil while the claim is trusted, else an error that wraps [ErrLeaseLost] and says why. It looks at the
// clocks itself, so that a machine that was just resumed does not get a yes.
func (g *Guard) Err() error { return g.check(time.Now()) }

// check is Err at a time that is now.
func (g *Guard) check(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil && !g.ended {
		if reason := g.doubt(now); reason != nil {
			g.lose(reason)
		}
	}
	return g.err
}

// Start begins the heartbeat: every third of the lease it extends the lease in the store and calls renew, which renews
// the broker's deadline (nil if there is none). The two are one: trust goes on only if both succeeded, and a failure of
// either is tried again until trust ends. Start may be called once.
func (g *Guard) Start(renew func(context.Context) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended || g.err != nil {
		return
	}
	g.renew = renew
	g.beat = g.trusted.Add(g.d.cfg.Lease / leaseParts)
	if g.woken { // the alarm for that has gone already
		g.rearm()
	}
}

// Extend renews the lease, and the broker's deadline if Start was given a renew, at once.
func (g *Guard) Extend(ctx context.Context) error {
	if err := g.Err(); err != nil {
		return err
	}
	sent := time.Now()
	limited := withLimit(ctx, sent, g.d.cfg.StoreTimeout)
	defer limited.end(nil)
	if err := g.d.store.Extend(limited, g.Hold(), g.d.cfg.Lease); err != nil {
		return err
	}
	g.mu.Lock()
	renew := g.renew
	g.mu.Unlock()
	if renew != nil {
		if err := renew(limited); err != nil {
			return fmt.Errorf("dedup: the broker's deadline was not renewed: %w", err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil || g.ended {
		return g.err
	}
	if sent.After(g.trusted) {
		g.trusted = sent // the alarm for the earlier end will see that
	}
	return nil
}

// wake does what is due: it ends the claim when trust is over, and sends a heartbeat.
func (g *Guard) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.woken = true
	switch {
	case g.ended || g.err != nil:
		return
	case g.trustLeft() <= 0:
		g.lose(g.doubt(time.Now()))
		return
	case g.beating, g.beat.IsZero(), time.Now().Before(g.beat):
		g.rearm()
		return
	}
	g.beating = true
	g.beats.Add(1)
	defer g.beats.Done()
	if g.beatCtx == nil { // most claims end before their first heartbeat
		g.beatCtx, g.stop = context.WithCancel(context.WithoutCancel(&g.ctx))
	}
	ctx := g.beatCtx
	g.rearm() // trust can end while the heartbeat is under way
	g.mu.Unlock()
	err := g.Extend(ctx)
	g.mu.Lock()
	g.beating = false
	next := g.d.cfg.Lease / leaseParts
	switch {
	case g.ended || g.err != nil:
		return
	case errors.Is(err, ErrLeaseLost):
		g.lose(errors.New("the store says that somebody else has taken over, or that the record is gone"))
		return
	case err != nil:
		next /= 5 // soon again: there is time for several tries before trust ends
	}
	g.beat = time.Now().Add(next)
	g.rearm()
}

// rearm sets the alarm for what is due next. The caller holds mu.
func (g *Guard) rearm() {
	next := g.trustLeft()
	if !g.beating && !g.beat.IsZero() {
		next = min(next, time.Until(g.beat))
	}
	if next = max(0, next); g.alarm == nil {
		g.alarm = time.AfterFunc(next, g.wake)
	} else {
		g.alarm.Reset(next)
	}
}

func (g *Guard) trustLeft() time.Duration {
	return g.d.cfg.Lease - g.d.cfg.Margin - time.Since(g.trusted)
}

// doubt returns why the lease cannot be trusted any more, or nil. The caller holds mu.
func (g *Guard) doubt(now time.Time) error {
	monotonic, wall := elapsed(now, g.trusted)
	if monotonic >= g.d.cfg.Lease-g.d.cfg.Margin {
		return fmt.Errorf("it could not be extended within %v", g.d.cfg.Lease-g.d.cfg.Margin)
	}
	if jump := (wall - monotonic).Abs(); jump > g.d.cfg.Margin {
		return fmt.Errorf("the wall clock jumped by %v: the machine was suspended, or its clock was set", jump)
	}
	return nil
}

// elapsed returns the time from t to now by the monotonic and by the wall clock. The monotonic one stands still while the
// machine is suspended. It is a variable so that a test can suspend the machine.
var elapsed = func(now, t time.Time) (monotonic, wall time.Duration) {
	return now.Sub(t), now.Round(0).Sub(t.Round(0))
}

// lose ends the claim as lost. The caller holds mu.
func (g *Guard) lose(reason error) {
	g.err = fmt.Errorf("%w: %s: %w", ErrLeaseLost, g.record.Key, reason)
	g.halt()
	g.ctx.end(g.err)
	if g.lost != nil {
		close(g.lost)
	}
	g.tell()
	if f := g.d.cfg.OnLeaseLost; f != nil {
		g.beats.Add(1)
		go func(err error) {
			defer g.beats.Done()
			f(g.record.Key, g.record.Fence, err)
		}(g.err)
	}
}

// halt stops timers and a heartbeat under way. The caller holds mu.
func (g *Guard) halt() {
	g.d.alarms.remove(g)
	if g.alarm != nil {
		g.alarm.Stop()
	}
	if g.stop != nil {
		g.stop()
	}
}

// Abandon ends the claim without telling the store: timers and heartbeat stop, the context is cancelled, the lease runs
// out by itself. When it returns no goroutine of the guard is left. It may be called at any time and repeatedly; all
// methods that end a claim call it.
func (g *Guard) Abandon() {
	g.abandon()
	g.beats.Wait()
}

// abandon is Abandon without the wait.
func (g *Guard) abandon() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		g.ended = true
		g.halt()
		g.ctx.end(nil)
	}
}

// refused is the error when the store says that the claim is not ours any more.
func (g *Guard) refused() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil && !g.ended {
		g.lose(errors.New("the store refused the change: the claim is not ours any more"))
	}
	if g.err == nil {
		return ErrLeaseLost
	}
	return g.err
}

// Consume settles the claim as consumed; see [Guard.Settle]. Where the handler has called [SettleTx], or
// [Config].SettleInTx demands that of it, it confirms that the handler's transaction is committed instead, and the result
// is the one that was given there. It returns [ErrNotSettledInTx] or [ErrNotCommitted] if not; the claim is still held then.
func (g *Guard) Consume(ctx context.Context, result []byte) error {
	if g.d.cfg.SettleInTx || g.Settling() {
		return g.confirm(ctx)
	}
	return g.Settle(ctx, Settlement{State: Consumed, Result: result, Retention: g.d.cfg.Retention})
}

// Kill settles the claim as dead; see [Guard.Settle]. With letters the record owes one until [Deduper.LetterSent].
func (g *Guard) Kill(ctx context.Context, cause Cause) error {
	s := Settlement{State: DeadSent, Cause: cause, Retention: g.d.cfg.DeadRetention}
	if g.letters {
		s.State = DeadOwed
	}
	return g.Settle(ctx, s)
}

// Settle ends the claim for good. It goes on when ctx is cancelled, since the effect is done, and tries again while the
// lease is kept alive, for one lease at most. The error wraps [ErrLeaseLost] if the claim is somebody else's, and the
// [*StoreError] if the store never said; then the settlement is unconfirmed, and the message must not be acknowledged.
func (g *Guard) Settle(ctx context.Context, s Settlement) error {
	return g.end(ctx, func(ctx context.Context) error { return g.d.store.Settle(ctx, g.Hold(), s) })
}

// Release ends the claim so that it can be retried. It goes on when ctx is cancelled; errors are those of
// [Guard.Settle].
func (g *Guard) Release(ctx context.Context, r Release) error {
	return g.end(ctx, func(ctx context.Context) error { return g.d.store.Release(ctx, g.Hold(), r) })
}

// detached returns a context that goes on when ctx ends: ctx itself if it never does.
func detached(ctx context.Context) context.Context {
	if _, lazy := ctx.(*lazyContext); !lazy && ctx.Done() == nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
)

func (g *Guard) end(ctx context.Context, op func(context.Context) error) error {
	defer g.Abandon()
	return g.insist(ctx, op)
}

// insist calls op until the store answers, while the lease is kept alive and for one lease at most, also when ctx is
// cancelled: what it tells the store has happened.
func (g *Guard) insist(ctx context.Context, op func(context.Context) error) error {
	ctx = detached(ctx)
	now := time.Now()
	until := now.Add(g.d.cfg.Lease)
	var failed error
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if err := g.check(now); err != nil {
			return errors.Join(err, failed)
		}
		limited := withLimit(ctx, now, min(g.d.cfg.StoreTimeout, until.Sub(now)))
		err := op(limited)
		limited.end(nil)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrLeaseLost):
			return g.refused()
		}
		failed = err
		t := time.NewTimer(min(pause, time.Until(until)))
		select {
		case <-t.C:
		case <-g.Lost():
			t.Stop()
		}
		if now = time.Now(); !now.Before(until) && g.check(now) == nil {
			return failed
		}
	}
}
