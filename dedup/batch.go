package dedup

import (
	"context"
	"errors"
	"time"
)

// Request asks for a claim on one key of a batch.
type Request struct {
	Key         Key
	Fingerprint Fingerprint
}

// Begun is one answer of [Deduper.BeginMany]; its fields are what [Deduper.Begin] returns.
type Begun struct {
	Guard   *Guard
	Outcome Outcome
	Err     error
}

// BeginMany claims many keys, in one round trip where the store is a [Batcher]; answer i belongs to request i. Each
// request has the promises and the errors of [Deduper.Begin]: one key's failure does not touch the others, and only those
// whose answers were lost are sent again, with their nonces, on their own.
//
// What was sent is waited for although ctx ends meanwhile, for at most the StoreTimeout each time, so that no claim is
// left over of which the caller knows nothing; the contexts of its guards have ended then.
func (d *Deduper) BeginMany(ctx context.Context, requests []Request, opts ...BeginOption) []Begun {
	begun, claims, of := make([]Begun, len(requests)), make([]Claim, 0, len(requests)), make([]int, 0, len(requests))
	c := d.newClaim(opts)
	sent := time.Now()
	for i, r := range requests {
		if begun[i].Err = r.Key.Validate(); begun[i].Err == nil {
			c.Key, c.Fingerprint, c.Nonce = r.Key, r.Fingerprint, processNonces.next(sent)
			claims, of = append(claims, c), append(of, i)
		}
	}
	for try := 1; len(claims) > 0; try++ {
		if err := ctx.Err(); err != nil {
			for _, i := range of {
				if begun[i].Err == nil {
					begun[i].Err = err
				}
			}
			return begun
		}
		again := 0
		for n, a := range d.acquireMany(context.WithoutCancel(ctx), claims) {
			i := of[n]
			begun[i] = Begun{Outcome: Outcome{Verdict: a.Verdict, Record: a.Record}, Err: a.Err}
			switch se := (*StoreError)(nil); {
			case a.Err == nil && a.Verdict == Granted:
				begun[i].Guard = newGuard(ctx, d, &claims[n], &a.Record, sent)
			case a.Err == nil:
			case errors.As(a.Err, &se) && se.Indeterminate && try < acquireTries:
				begun[i].Outcome = Outcome{}
				claims[again], of[again] = claims[n], i
				again++
			default:
				begun[i].Outcome = Outcome{}
			}
		}
		claims, of = claims[:again], of[:again]
	}
	return begun
}

func (d *Deduper) acquireMany(ctx context.Context, claims []Claim) []Acquisition {
	if b, ok := d.store.(Batcher); ok {
		ctx, cancel := context.WithTimeout(ctx, d.cfg.StoreTimeout)
		defer cancel()
		return b.AcquireMany(ctx, claims)
	}
	out := make([]Acquisition, len(claims))
	for i, c := range claims {
		out[i].Verdict, out[i].Record, out[i].Err = d.acquire(ctx, c, time.Now())
	}
	return out
}

// Ending asks for the end of one claim of a batch.
type Ending struct {
	Guard      *Guard
	Settlement Settlement
}

// SettleMany ends many claims for good, in one round trip where the store is a [Batcher]; error i belongs to ending i.
// The guards must be this Deduper's. Like [Guard.Settle] it goes on when ctx is cancelled, but it sends every settlement
// once only, so that one of them does not hold up the others:
//
//   - nil: the store knows, and the claim has ended;
//   - the error wraps [ErrLeaseLost]: the claim was somebody else's, and has ended here;
//   - any other: the store did not say, and the claim goes on with its heartbeat. Call [Guard.Settle], which tries until
//     it is settled or lost.
func (d *Deduper) SettleMany(ctx context.Context, endings []Ending) []error {
	errs, held, of := make([]error, len(endings)), make([]HeldSettlement, 0, len(endings)), make([]int, 0, len(endings))
	for i, e := range endings {
		if errs[i] = e.Guard.Err(); errs[i] == nil {
			held, of = append(held, HeldSettlement{Hold: e.Guard.Hold(), Settlement: e.Settlement}), append(of, i)
		}
	}
	if len(held) > 0 {
		for n, err := range d.settleMany(context.WithoutCancel(ctx), held) {
			i := of[n]
			if errs[i] = err; errors.Is(err, ErrLeaseLost) {
				errs[i] = endings[i].Guard.refused()
			}
		}
	}
	// All are told to stop before any of them is waited for.
	for i, e := range endings {
		if errs[i] == nil || errors.Is(errs[i], ErrLeaseLost) {
			e.Guard.abandon()
		}
	}
	for i, e := range endings {
		if errs[i] == nil || errors.Is(errs[i], ErrLeaseLost) {
			e.Guard.beats.Wait()
		}
	}
	return errs
}

func (d *Deduper) settleMany(ctx context.Context, held []HeldSettlement) []error {
	if b, ok := d.store.(Batcher); ok {
		ctx, cancel := context.WithTimeout(ctx, d.cfg.StoreTimeout)
		defer cancel()
		return b.SettleMany(ctx, held)
	}
	errs := make([]error, len(held))
	for i, h := range held {
		func() {
			ctx, cancel := context.WithTimeout(ctx, d.cfg.StoreTimeout)
			defer cancel()
			errs[i] = d.store.Settle(ctx, h.Hold, h.Settlement)
		}()
	}
	return errs
}

// TryRelease ends the claim so that it can be retried, like [Guard.Release], but asks the store only once: for claims
// whose handler has not run, which are no loss if their leases run out instead. Whatever it returns, the claim has ended
// here.
func (g *Guard) TryRelease(ctx context.Context, r Release) error {
	defer g.Abandon()
	if err := g.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.d.cfg.StoreTimeout)
	defer cancel()
	err := g.d.store.Release(ctx, g.Hold(), r)
	if errors.Is(err, ErrLeaseLost) {
		return g.refused()
	}
	return err
}

// OnLost makes the guard call f, from a goroutine of its own that every method which ends the claim waits for, when the
// claim is lost; at once if it is lost already. It may be called once.
func (g *Guard) OnLost(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onLost = f
	if g.err != nil {
		g.tell()
	}
}

// tell calls what wants to know of a lost claim. The caller holds mu.
func (g *Guard) tell() {
	if f := g.onLost; f != nil {
		g.beats.Add(1)
		go func() {
			defer g.beats.Done()
			f()
		}()
	}
}
