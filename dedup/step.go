package dedup

import (
	"context"
	"errors"
	"fmt"
)

// MaxSteps is how many steps one key may have. Work with more parts is several messages.
const MaxSteps = 100

// Step runs a part of a handler's work that must not be repeated because a later part failed, and keeps its result under
// the handler's key. On every later attempt of the key, after an error, a crash or a takeover, and on a replay of its
// dead letter, the kept result is returned and fn does not run again:
//
//	receipt, err := dedup.Step(ctx, "charge-card", func(ctx context.Context) (Receipt, error) {
//		return gateway.Charge(ctx, order.Total, dedup.KeyFrom(ctx).ID)
//	})
//
// A step that fails or panics keeps nothing and runs again on the next attempt. A crash after fn has had its effect and
// before its result is kept runs it again too, so pass the key on where the far side can deduplicate. A step does not
// start without the lease, and a claim that was lost keeps nothing; the error wraps [ErrLeaseLost] then.
//
// The context must be the one that the handler was given, or be made from it. The name is 1 to 255 visible ASCII
// characters, and is used once in an attempt; put what tells them apart into the names of steps in a loop
// ("ship-" + item). Steps may run in parallel.
//
// The handler must call the same steps in the same order on every attempt, or be new enough that no key has steps of its
// older form: a step that was renamed would otherwise run twice. What counts as order is what was finished before a step
// began. If that is not so a step waits for 5 s, since parallel ones may only be late, and is then refused with
// [ErrStepChanged]. The next attempt may reach a worker with the code that fits, so this is an error as others are: the
// key is tried again and dead in the end, its steps kept for a replay.
//
// The result is kept with [Config.StepCodec], JSON unless configured, and what Step returns is decoded from what is kept,
// the first time too, so that all attempts see the same. A result that cannot be kept, because it does not encode or with
// the others exceeds [Config.MaxStepBytes], or no longer decodes, is [ErrStepResult] on every attempt, and fn is not run
// again: its effect is there. Keep a reference in place of a large result. If the result is lost for good, finish the work
// by hand, or forget the key so that all its steps run again.
//
// Results are remembered as long as the key's record: with a consumed key for its retention, with a dead one for
// DeadRetention, through a replay; Forget forgets them. The store must be a [StepStore], else the error is [ErrNoAbility]
// and fn does not run. In an untracked run (see [Untracked]) fn runs and nothing is kept. Other errors: fn's own, as it
// is, [ErrStepMisuse], a context's, and the store's. Step is safe for concurrent use.
func Step[T any](ctx context.Context, name string, fn func(context.Context) (T, error)) (T, error) {
	var result, none T
	info := infoFrom(ctx)
	if info.untracked {
		return fn(ctx)
	}
	r, err := info.guard.beginStep(ctx, name)
	if err != nil {
		return none, err
	}
	if r.kept == nil {
		v, err := fn(ctx)
		if err != nil {
			return none, err
		}
		if err := r.keep(ctx, v); err != nil {
			return none, err
		}
	}
	if err := r.result(&result); err != nil {
		return none, err
	}
	return result, nil
}

// stepRun is one call of Step.
type stepRun struct {
	guard *Guard
	name  string
	kept  *keptStep // nil until it is done
	after []string  // the steps that were finished when it began
}

// beginStep returns the step, with what is kept of it, once it may begin.
func (g *Guard) beginStep(ctx context.Context, name string) (*stepRun, error) {
	if g == nil {
		return nil, fmt.Errorf("%w: %s: the context has no claim; use the one that the handler was given", ErrStepMisuse, printable(name))
	}
	if err := ValidateID(name); err != nil {
		return nil, fmt.Errorf("%w: a step's name must be 1 to %d visible ASCII characters, not %s", ErrStepMisuse, MaxKeyLength, printable(name))
	}
	s, ok := g.d.store.(StepStore)
	if !ok {
		return nil, fmt.Errorf("%w: it keeps no steps, so %s was not run; use a store that is a dedup.StepStore", ErrNoAbility, printable(name))
	}
	if err := g.holds(); err != nil {
		return nil, err
	}
	log := g.stepLog()
	if err := log.load(ctx, g, s); err != nil {
		return nil, err
	}
	r := &stepRun{guard: g, name: name}
	if err := log.begin(ctx, r); err != nil {
		return nil, err
	}
	return r, g.holds()
}

// keep saves the result of a step that is done.
func (r *stepRun) keep(ctx context.Context, v any) error {
	g := r.guard
	k := g.stepLog().form(r)
	k.Codec = g.d.cfg.StepCodec.Name()
	result, err := g.d.cfg.StepCodec.Marshal(v)
	if err != nil {
		k.Refused = fmt.Sprintf("it does not encode as %s: %v", k.Codec, err)
	}
	k.result = result
	if size := g.stepLog().size(r.name, k); k.Refused == "" && size > g.d.cfg.MaxStepBytes {
		k.Refused = fmt.Sprintf("with its %d bytes the steps of this key would take %d, and Config.MaxStepBytes is %d", len(result), size, g.d.cfg.MaxStepBytes)
	}
	err = r.save(ctx, k)
	if errors.Is(err, ErrStepResult) { // the store has a limit of its own
		k.Refused = err.Error()
		err = r.save(ctx, k)
	}
	if err != nil {
		return fmt.Errorf("dedup: step %s is done, but its result could not be kept, so that it may run again: %w", r.name, err)
	}
	r.kept = k
	g.stepLog().finish(r)
	return nil
}

// save tells the store, as Settle does: again and again while the lease is kept alive, since the effect is there.
func (r *stepRun) save(ctx context.Context, k *keptStep) error {
	g := r.guard
	if k.Refused != "" { // what is kept then is that it must not run again
		k.result = nil
		k.Refused = cut(k.Refused)
	}
	s := SavedStep{Name: r.name, Data: k.encode()}
	if err := g.holds(); err != nil {
		return err
	}
	var refused error
	err := g.insist(ctx, func(ctx context.Context) error {
		err := g.d.store.(StepStore).SaveStep(ctx, g.Hold(), s)
		if errors.Is(err, ErrStepResult) {
			refused = err // repeating it cannot help
			return nil
		}
		return err
	})
	return errors.Join(err, refused)
}

// result decodes what is kept.
func (r *stepRun) result(into any) error {
	c := r.guard.d.cfg.StepCodec
	switch {
	case r.kept.Refused != "":
		return fmt.Errorf("%w: step %s is done and is not run again, but its result was not kept: %s; keep less, such as a reference to it; for this key, finish by hand, or forget the key so that all its steps run again",
			ErrStepResult, r.name, r.kept.Refused)
	case r.kept.Codec != c.Name():
		return fmt.Errorf("%w: step %s is done and is not run again, but its result was kept with the codec %s, and Config.StepCodec is %s",
			ErrStepResult, r.name, printable(r.kept.Codec), printable(c.Name()))
	}
	if err := c.Unmarshal(r.kept.result, into); err != nil {
		return fmt.Errorf("%w: step %s is done and is not run again, but its result does not decode: %w; the type must be able to read what an older version of the code has kept",
			ErrStepResult, r.name, err)
	}
	return nil
}

// holds returns why the claim cannot be relied on, its regular end included, or nil.
func (g *Guard) holds() error {
	if err := g.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return fmt.Errorf("%w: %s: the claim has ended: the handler has returned, or has settled", ErrLeaseLost, g.record.Key)
	}
	return nil
}

func cut(s string) string { return s[:min(len(s), MaxCauseLength)] }
