package dedup

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// acquireTries is how often an Acquire whose answer was lost is sent in all, with the same nonce.
const acquireTries = 3

// Deduper begins claims on keys of one store. It is safe for concurrent use and has no goroutine of its own.
type Deduper struct {
	store  Store
	cfg    Config
	alarms alarms
}

// New returns a Deduper on s. The error wraps [ErrConfig] and names the setting that cannot work.
func New(s Store, cfg Config) (*Deduper, error) {
	if s == nil {
		return nil, fmt.Errorf("%w: the store is nil", ErrConfig)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if _, ok := s.(TxSettler); cfg.SettleInTx && !ok {
		return nil, fmt.Errorf("%w: SettleInTx needs a store that is a TxSettler, such as sqlstore; %T is none", ErrConfig, s)
	}
	d := &Deduper{store: s, cfg: cfg}
	d.alarms.init(cfg.Lease)
	return d, nil
}

// Config returns the settings with the defaults filled in.
func (d *Deduper) Config() Config { return d.cfg }

// Store returns the store.
func (d *Deduper) Store() Store { return d.store }

// Outcome is what a claim came to.
type Outcome struct {
	// Verdict says it in a word. A duplicate is a verdict, not an error.
	Verdict Verdict
	// Record is the record that the verdict is about, as the store answered.
	Record Record
}

// Result is what the handler that consumed the key left.
func (o Outcome) Result() []byte { return o.Record.Result }

// Wait is how long a Busy key is busy at most, unless its lease is extended.
func (o Outcome) Wait() time.Duration { return o.Record.Wait() }

// BeginOption is an option of one call of [Deduper.Begin].
type BeginOption struct{ letters bool }

// WithLetters says that the caller publishes dead letters: a key that dies then owes one until LetterSent.
func WithLetters() BeginOption { return BeginOption{letters: true} }

// newClaim returns a claim without key, nonce and fingerprint.
func (d *Deduper) newClaim(opts []BeginOption) Claim {
	c := Claim{
		Lease: d.cfg.Lease, Retention: d.cfg.Retention, DeadRetention: d.cfg.DeadRetention,
		MaxAttempts: max(0, d.cfg.MaxAttempts), MaxAbandoned: d.cfg.MaxAbandoned,
	}
	for _, o := range opts {
		c.Letters = c.Letters || o.letters
	}
	return c
}

// Begin claims a key. The guard is nil unless the verdict is Granted; then the caller must end it with Consume, Kill,
// Settle, Release or Abandon. An Acquire whose answer was lost is repeated with the same nonce, so that it is never
// granted twice (I8); the guard trusts its lease from before the first of these calls.
//
// The error is one of the store's (see [Store]) or wraps [ErrInvalidKey]; nothing is known of the key then, and the
// handler must not run.
func (d *Deduper) Begin(ctx context.Context, k Key, fp Fingerprint, opts ...BeginOption) (*Guard, Outcome, error) {
	if err := k.Validate(); err != nil {
		return nil, Outcome{}, err
	}
	sent := time.Now()
	c := d.newClaim(opts)
	c.Key, c.Nonce, c.Fingerprint = k, processNonces.next(sent), fp
	now := sent
	for try := 1; ; try++ {
		v, r, err := d.acquire(ctx, c, now)
		if err == nil {
			out := Outcome{Verdict: v, Record: r}
			if v != Granted {
				return nil, out, nil
			}
			return newGuard(ctx, d, &c, &r, sent), out, nil
		}
		if se := (*StoreError)(nil); !errors.As(err, &se) || !se.Indeterminate || try == acquireTries || ctx.Err() != nil {
			return nil, Outcome{}, err
		}
		now = time.Now()
	}
}

func (d *Deduper) acquire(ctx context.Context, c Claim, now time.Time) (Verdict, Record, error) {
	limited := withLimit(ctx, now, d.cfg.StoreTimeout)
	defer limited.end(nil)
	return d.store.Acquire(limited, c)
}

// LetterSent tells the store that the dead letter of the claim with this fence is published and confirmed. It can be
// repeated. The error is [ErrLeaseLost] if the record has gone on since, or one of the store's.
func (d *Deduper) LetterSent(ctx context.Context, k Key, f Fence) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.StoreTimeout)
	defer cancel()
	return d.store.LetterSent(ctx, k, f)
}

// Do runs fn at most once at a time for a key, and not again after it has succeeded while the store remembers. What fn
// returns is kept and comes with every later Duplicate. The lease is extended while fn runs; fn's context is cancelled
// with cause [ErrLeaseLost] if it is lost. If fn fails or panics, the claim is released and the error returned (a panic
// goes on); the next call tries again, until MaxAttempts make the key dead.
//
// fn may settle in a transaction of its own; see [SettleTx]. If it has committed that, the key is consumed even if it
// returns an error. If it should have done so (Config.SettleInTx) and has not, the key is dead.
//
// fn has run successfully in this call only if the verdict is Granted and the error is nil. Busy, Duplicate and Dead
// are verdicts with a nil error. An error that wraps [ErrLeaseLost], or a [*StoreError], after fn has run says that its
// effect may be repeated by somebody else.
func (d *Deduper) Do(ctx context.Context, k Key, fn func(context.Context) ([]byte, error)) (out Outcome, err error) {
	g, out, err := d.Begin(ctx, k, Fingerprint{})
	if err != nil || g == nil {
		return out, err
	}
	g.Start(nil)
	returned := false
	defer func() {
		if !returned { // fn panicked, or ended its goroutine
			_ = g.Release(ctx, Release{Cause: Cause{Message: "the function panicked"}})
		}
	}()
	result, err := fn(g.Context())
	returned = true
	if err == nil {
		if err = g.Consume(ctx, result); err == nil {
			out.Record.State, out.Record.Result = Consumed, result
		}
		switch {
		case errors.Is(err, ErrNotSettledInTx): // its effect may be committed: it must not run again by itself
			return out, errors.Join(err, g.Kill(ctx, CauseOf(Permanent, err)))
		case !errors.Is(err, ErrNotCommitted):
			return out, err
		}
	} else if yes, _ := g.Committed(ctx); yes { // the effect is done, whatever fn says
		g.Abandon()
		out.Record.State = Consumed
		return out, err
	}
	if lost := g.Err(); lost != nil {
		g.Abandon()
		return out, errors.Join(err, lost)
	}
	uncounted := ctx.Err() != nil // the caller went away: no fault of the key's
	if rerr := g.Release(ctx, Release{Cause: CauseOf("", err), Uncounted: uncounted, MaxInterrupted: d.cfg.MaxInterrupted}); rerr != nil {
		return out, errors.Join(err, rerr)
	}
	return out, err
}

// CauseOf returns the cause that a record keeps of err: its text, cut to [MaxCauseLength] bytes.
func CauseOf(class Class, err error) Cause {
	msg := err.Error()
	return Cause{Class: class, Message: msg[:min(len(msg), MaxCauseLength)]}
}
