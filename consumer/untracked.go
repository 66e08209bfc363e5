package consumer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// runUntracked runs the handler although the store could not be asked (policy StoreOpen). It is exempt from I3, I5 and
// I7, and counted, so that an operator can see how many effects may have come twice.
func (p *Pipeline) runUntracked(ctx context.Context, del Delivery, e *entry, down error) fate {
	a := &Attempt{p: p, delivery: del, message: del.Message(), entry: e, started: time.Now()}
	p.log(slog.LevelWarn, a.message, "running untracked: the store could not be asked", down)
	stop := a.keepAlive(p.d.Config().Lease / 3)
	defer stop()
	err := a.run(dedup.WithUntracked(ctx, dedup.Key{Scope: p.scope, ID: a.message.Key}))
	stop()
	_ = a.finish(ctx, err)
	a.emit(Untracked, down)
	return a.outcome()
}

// endUntracked answers for the message by the handler's word alone.
func (a *Attempt) endUntracked(ctx context.Context, err error) {
	var permanent *permanentError
	var retry *retryError
	switch {
	case err == nil:
		a.p.ack(ctx, a.delivery)
		a.fate = fate{ack: true}
		return
	case errors.As(err, &permanent):
		a.p.terminate(ctx, a.delivery, a.p.letter(a.message, dedup.Permanent, err))
		return
	}
	delay := a.p.cfg.Backoff.delay(max(1, a.message.Deliveries))
	if errors.As(err, &retry) {
		delay = retry.after
	}
	a.p.giveBack(ctx, a.delivery, Retried, delay, err)
	a.fate = fate{delay: delay}
}

// keepAlive renews the broker's deadline until the returned function is called.
func (a *Attempt) keepAlive(every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				_ = a.renew(ctx)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}
