package httpidem

import (
	"context"
	"errors"
	"net/http"

	"github.com/idemq/idemq/dedup"
)

// run runs the handler under its claim, settles or releases that, and only then answers.
func (x *exchange) run(g *dedup.Guard) {
	defer g.Abandon() // of no effect when it has ended, and the last resort if a function of the configuration panics
	g.Start(nil)
	res := &x.res
	res.begin(x.w, x.m.cfg.ResponseLimit)
	var f *flight
	if x.m.flights != nil {
		f = x.m.flights.begin(x.key, x.fp)
		defer x.m.flights.end(f, nil)
	}
	ctx := g.Context()
	if x.m.cfg.CancelWithClient {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		stop := context.AfterFunc(x.r.Context(), func() { cancel(context.Cause(x.r.Context())) })
		defer cancel(nil)
		defer stop()
	}
	returned := false
	defer func() {
		if !returned { // it panicked, or ended its goroutine; either goes on
			x.panicked(g, res)
		}
	}()
	x.next.ServeHTTP(res, x.request(ctx))
	returned = true
	x.finish(g, res, f)
}

// finish ends the claim of a handler that has returned.
func (x *exchange) finish(g *dedup.Guard, res *response, f *flight) {
	result := res.result()
	a := Answer{Status: max(res.status, http.StatusOK), Hijacked: res.hijacked}
	action := x.m.cfg.Classify(x.r, a)
	if err := x.end(g, action, result, a); err != nil {
		x.unrecorded(res, action, err)
		return
	}
	if f != nil { // before the answer is sent, since its client may be slow
		x.m.flights.end(f, result)
	}
	x.m.cfg.Observe(x.r, eventOf(action))
	res.send()
}

// panicked ends the claim of a handler that has not returned. Nothing is sent; whoever recovers answers.
func (x *exchange) panicked(g *dedup.Guard, res *response) {
	res.discard()
	a := Answer{Status: http.StatusInternalServerError, Panicked: true}
	action := x.m.cfg.Classify(x.r, a)
	result := appendHead(nil, http.StatusInternalServerError, nil, nil)
	if err := x.end(g, action, result, a); err != nil {
		x.logUnrecorded(action, err)
		x.m.cfg.Observe(x.r, Unrecorded)
		return
	}
	x.m.cfg.Observe(x.r, eventOf(action))
}

// end settles or releases the claim, also when the client has gone.
func (x *exchange) end(g *dedup.Guard, action Action, result []byte, a Answer) error {
	ctx := x.ctx
	switch action {
	case Keep:
		return g.Consume(ctx, result)
	case Kill:
		return g.Kill(ctx, dedup.Cause{Class: dedup.Permanent, Message: a.String()}) // no letters are configured, so it is dead and sent
	default:
		interrupted := x.m.cfg.CancelWithClient && x.r.Context().Err() != nil // by us: no fault of the key's
		return g.Release(ctx, dedup.Release{
			Cause: dedup.Cause{Message: a.String()}, Uncounted: action == ReleaseUncounted || interrupted,
			MaxInterrupted: x.m.d.Config().MaxInterrupted,
		})
	}
}

func eventOf(a Action) Event {
	switch a {
	case Keep:
		return Executed
	case Kill:
		return Killed
	default:
		return Released
	}
}

// unrecorded answers when nobody knows what the store knows. What was to be released will be free when the lease is over,
// so the handler's answer holds; any other must not reach the client.
func (x *exchange) unrecorded(res *response, action Action, err error) {
	x.logUnrecorded(action, err)
	if eventOf(action) == Released {
		x.m.cfg.Observe(x.r, Released)
		res.send()
		return
	}
	if res.sent() {
		x.m.cfg.Observe(x.r, Unrecorded)
		if !res.hijacked {
			panic(http.ErrAbortHandler) // the client must not take the stream for complete
		}
		return
	}
	res.discard()
	x.w.Header()[UnrecordedHeader] = []string{"true"}
	x.answer(Unrecorded, problemUnrecorded)
}

func (x *exchange) logUnrecorded(action Action, err error) {
	why := "the store did not answer"
	if errors.Is(err, dedup.ErrLeaseLost) {
		why = "the lease was lost"
	}
	x.m.cfg.Logger.Error("httpidem: the handler has ended, and that could not be recorded: "+why,
		"key", x.key.String(), "outcome", eventOf(action).String(), "error", err)
}

// runUntracked runs the handler although the store could not be asked.
func (x *exchange) runUntracked(ctx context.Context, down error) {
	x.m.cfg.Logger.Warn("httpidem: running untracked: the store could not be asked", "key", x.key.String(), "error", down)
	x.m.cfg.Observe(x.r, Untracked)
	x.w.Header()[UntrackedHeader] = []string{"true"}
	x.next.ServeHTTP(x.w, x.request(dedup.WithUntracked(ctx, x.key)))
}
