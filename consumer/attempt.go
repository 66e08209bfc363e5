package consumer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Attempt is one run of a handler under a granted claim. Handlers that answer by themselves (see [NewManual]) end it
// with Consume, Retry or Kill; the first of them counts, a later one returns [ErrAnswered]. It is safe for concurrent
// use.
type Attempt struct {
	p        *Pipeline
	guard    *dedup.Guard
	delivery Delivery
	message  *Message
	entry    *entry
	arrived  time.Time     // if it waited in a flow
	down     error         // why it runs without a claim
	started  time.Time     // when the handler began
	took     time.Duration // how long it ran, if it was settled later

	earlier, later *Attempt // that run; these belong to inflight

	mu       sync.Mutex
	answered bool
	fate     fate
}

// Message returns the message.
func (a *Attempt) Message() *Message { return a.message }

// Extend renews the lease and the broker's deadline at once.
func (a *Attempt) Extend(ctx context.Context) error {
	if a.guard == nil { // untracked: there is no lease
		return a.renew(ctx)
	}
	return a.guard.Extend(ctx)
}

// Consume settles the key as consumed, and then acknowledges the message. The error wraps dedup.ErrLeaseLost or is a
// *dedup.StoreError; the message is not acknowledged then.
func (a *Attempt) Consume(ctx context.Context) error { return a.finish(ctx, nil) }

// Retry releases the claim, and then gives the message back for another try after the delay; a negative delay stands for
// the configured backoff. At the last attempt it makes a dead letter instead. Errors are those of Consume.
func (a *Attempt) Retry(ctx context.Context, delay time.Duration, cause error) error {
	if delay >= 0 {
		cause = RetryAfter(delay, cause)
	}
	return a.finish(ctx, cause)
}

// Kill makes a dead letter of class permanent, and then terminates the message. Errors are those of Consume.
func (a *Attempt) Kill(ctx context.Context, cause error) error {
	return a.finish(ctx, Permanent(cause))
}

// granted makes the attempt the holder of a claim.
func (a *Attempt) granted(g *dedup.Guard) {
	a.guard = g
	a.p.inflight.grant(a.entry)
	// A lost claim is somebody else's: its entry must not hold up other deliveries while the handler is still returning.
	g.OnLost(func() { a.p.conclude(context.WithoutCancel(g.Context()), a.entry, fate{delay: parkedDelay}) })
}

// execute runs the handler and ends the claim by what it returned.
func (a *Attempt) execute() fate {
	err := a.handle()
	ctx := a.guard.Context()
	_ = a.finish(context.WithoutCancel(ctx), a.interrupted(ctx, err)) // what went wrong is counted and logged there
	return a.outcome()
}

// handle begins the heartbeat and runs the handler.
func (a *Attempt) handle() error {
	r := a.guard.Record()
	a.message.Attempt, a.message.Fence = r.Attempt, r.Fence
	a.started = time.Now()
	a.guard.Start(a.renew)
	return a.run(a.guard.Context())
}

// defers says whether the attempt can be settled later: the handler has not answered by itself, and does not settle in its
// own transaction, whose commit has to be confirmed.
func (a *Attempt) defers() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answered || a.p.d.Config().SettleInTx || a.guard.Settling() {
		return false
	}
	a.answered, a.took = true, time.Since(a.started)
	return true
}

func (a *Attempt) outcome() fate {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fate
}

// run runs the handler. If that ends its goroutine (runtime.Goexit, as testing's FailNow does) nothing behind this call
// runs any more, so the claim and its entry are ended on the way out.
func (a *Attempt) run(ctx context.Context) error {
	a.p.inflight.run(a)
	returned := false
	defer func() {
		a.p.inflight.stopped(a)
		if !returned {
			_ = a.finish(context.WithoutCancel(ctx), errGoexit)
			a.p.conclude(ctx, a.entry, a.fate)
		}
	}()
	err := a.p.run(ctx, a)
	returned = true
	return err
}

var errGoexit = errors.New("consumer: the handler ended its goroutine instead of returning")

// interruptedError marks the error of a handler that ended because of a shutdown.
type interruptedError struct{ error }

func (e interruptedError) Unwrap() error { return e.error }

func (a *Attempt) interrupted(ctx context.Context, err error) error {
	if err != nil && (errors.Is(context.Cause(ctx), ErrShutdown) || errors.Is(err, ErrShutdown)) {
		return interruptedError{err}
	}
	return err
}

// renew is the broker's half of the joint heartbeat. Parked deliveries are kept alive too; if one of them cannot be,
// it is only delivered again.
func (a *Attempt) renew(ctx context.Context) error {
	if err := a.delivery.InProgress(ctx); err != nil {
		return err
	}
	for _, d := range a.p.inflight.parkedOn(a.entry) {
		_ = d.InProgress(ctx)
	}
	return nil
}

// renewFirst renews lease and deadline of a claim that has waited, before its handler begins.
func (a *Attempt) renewFirst() error {
	if err := a.guard.Extend(a.guard.Context()); err != nil {
		return err
	}
	return a.renew(a.guard.Context())
}

func (a *Attempt) finish(ctx context.Context, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answered {
		return ErrAnswered
	}
	a.answered = true
	a.fate = fate{delay: parkedDelay}
	if a.guard == nil {
		a.endUntracked(ctx, err)
		return nil
	}
	lost := a.end(ctx, err)
	if lost != nil {
		a.giveUp(lost, err)
	}
	return lost
}

// end settles or releases the claim, and answers for the message only when the store has acknowledged that.
func (a *Attempt) end(ctx context.Context, err error) error {
	err, lost := a.consume(ctx, err)
	switch {
	case lost != nil:
		return lost
	case err != nil:
		return a.fail(ctx, err)
	}
	a.consumed()
	a.emit(Executed, nil)
	a.p.ack(ctx, a.delivery)
	a.fate = fate{ack: true}
	return nil
}

// fail ends the claim of a handler that has failed.
func (a *Attempt) fail(ctx context.Context, err error) error {
	p, r, cfg := a.p, a.guard.Record(), a.p.d.Config()
	var permanent *permanentError
	var retry *retryError
	var interrupted interruptedError
	switch {
	case errors.As(err, &permanent):
		return a.die(ctx, dedup.Permanent, err)
	case errors.As(err, &interrupted):
		rel := dedup.Release{Cause: dedup.CauseOf("", err), Uncounted: true, MaxInterrupted: cfg.MaxInterrupted}
		return a.release(ctx, rel, Interrupted, shutdownDelay, err)
	case cfg.MaxAttempts > 0 && r.Attempt >= cfg.MaxAttempts:
		return a.die(ctx, dedup.Exhausted, err)
	}
	delay := p.cfg.Backoff.delay(r.Attempt)
	if errors.As(err, &retry) {
		delay = retry.after
	}
	return a.release(ctx, dedup.Release{Cause: dedup.CauseOf("", err), Delay: delay}, Retried, delay, err)
}

// consumed notes what the store has just acknowledged. The time is that of the handler's beginning, when the key was not
// consumed yet, so that nothing is remembered here for longer than in the store.
func (a *Attempt) consumed() { a.p.memory.add(a.entry.id, a.entry.fingerprint, a.started) }

func (a *Attempt) release(ctx context.Context, rel dedup.Release, kind EventKind, delay time.Duration, cause error) error {
	if err := a.guard.Release(ctx, rel); err != nil {
		return err
	}
	a.emit(kind, cause)
	a.p.log(slog.LevelInfo, a.message, kind.String(), cause, "attempt", a.message.Attempt, "delay", delay)
	a.fate = fate{delay: delay}
	if after := a.p.cfg.ScheduleAfter; kind == Retried && after >= 0 && delay >= after && a.schedule(ctx, delay) {
		a.emit(Scheduled, nil)
		a.p.ack(ctx, a.delivery)
		return nil
	}
	a.p.nak(ctx, a.delivery, delay)
	return nil
}

// schedule puts a long delay off to the transport: a nak would hold one of the broker's slots all the time.
func (a *Attempt) schedule(ctx context.Context, delay time.Duration) bool {
	s, ok := a.delivery.(Scheduler)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letterTimeout)
	defer cancel()
	if err := s.Schedule(ctx, a.p.successor(a.message), delay); err != nil {
		a.p.log(slog.LevelWarn, a.message, "a long delay could not be scheduled; the broker holds the message instead", err)
		return false
	}
	return true
}

func (a *Attempt) die(ctx context.Context, class dedup.Class, cause error) error {
	if err := a.guard.Kill(ctx, dedup.CauseOf(class, cause)); err != nil {
		return err
	}
	r := a.guard.Record()
	r.Cause = dedup.CauseOf(class, cause)
	a.fate = a.p.bury(ctx, a.delivery, a.p.letterOf(a.message, &r, cause))
	return nil
}

// giveUp is the end of a claim that is not ours any more, or of whose end the store never said a word: nothing is sent,
// because a stale ack or nak is accepted by the broker and does harm.
func (a *Attempt) giveUp(lost, cause error) {
	kind := LeaseLost
	if se := (*dedup.StoreError)(nil); errors.As(lost, &se) || errors.Is(lost, dedup.ErrUnreadable) {
		kind = Unconfirmed
	}
	a.emit(kind, lost)
	a.p.log(slog.LevelError, a.message, "the claim ended without a settlement; the message will be delivered again", lost,
		"kind", kind.String(), "handler_error", cause)
	if d, ok := a.delivery.(Abandoner); ok {
		d.Abandon()
	}
}

func (a *Attempt) emit(kind EventKind, err error) {
	took := a.took
	if took == 0 && !a.started.IsZero() {
		took = time.Since(a.started)
	}
	a.p.emit(Event{Kind: kind, Message: a.message, Err: err, Duration: took})
}

func stackOf(err error) string {
	if pe := (*PanicError)(nil); errors.As(err, &pe) {
		return string(pe.Stack)
	}
	return ""
}
