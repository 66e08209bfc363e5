package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/breaker"
	"github.com/idemq/idemq/publisher"
)

// Pipeline takes deliveries of one consumer through the whole lifecycle: verdict, handler, settlement, answer. It knows
// no transport. It is safe for concurrent use and owns no goroutine beyond its Process calls and its Flows.
type Pipeline struct {
	d        *dedup.Deduper
	scope    string
	run      func(ctx context.Context, a *Attempt) error
	cfg      Config
	breaker  *breaker.Breaker
	inflight *inflight
	memory   *memory
	counts   counters
	active   atomic.Int64
}

// New returns a pipeline that gives messages to h. The scope says whose memory it is, usually "stream/durable". The
// error wraps [ErrConfig] or dedup.ErrInvalidKey.
func New(d *dedup.Deduper, scope string, h Handler, cfg Config) (*Pipeline, error) {
	if h == nil {
		return nil, fmt.Errorf("%w: the handler is nil", ErrConfig)
	}
	return newPipeline(d, scope, cfg, func(ctx context.Context, a *Attempt) error {
		return call(ctx, func(ctx context.Context) error { return h.Handle(ctx, a.message) })
	})
}

// NewManual returns a pipeline for a handler that answers by itself, through the Attempt, while it runs. If it returns
// without an answer the message is retried with [ErrNotAnswered].
func NewManual(d *dedup.Deduper, scope string, fn func(ctx context.Context, a *Attempt), cfg Config) (*Pipeline, error) {
	if fn == nil {
		return nil, fmt.Errorf("%w: the handler is nil", ErrConfig)
	}
	return newPipeline(d, scope, cfg, func(ctx context.Context, a *Attempt) error {
		if err := call(ctx, func(ctx context.Context) error { fn(ctx, a); return nil }); err != nil {
			return err
		}
		return ErrNotAnswered // of no effect if it did answer
	})
}

const admitPause = 50 * time.Millisecond

func newPipeline(d *dedup.Deduper, scope string, cfg Config, run func(context.Context, *Attempt) error) (*Pipeline, error) {
	if d == nil {
		return nil, fmt.Errorf("%w: the deduper is nil", ErrConfig)
	}
	if err := dedup.ValidateScope(scope); err != nil {
		return nil, err
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Pipeline{d: d, scope: scope, run: run, cfg: cfg, inflight: newInflight(cfg.MaxParked)}
	p.memory = newMemory(cfg.Remember, d.Config().Retention)
	p.breaker = breaker.New(scope, func(from, to string) {
		cfg.Logger.Warn("store circuit breaker", "scope", scope, "from", from, "to", to)
	})
	return p, nil
}

// Scope returns the scope.
func (p *Pipeline) Scope() string { return p.scope }

// Stats returns the counts since the pipeline was made.
func (p *Pipeline) Stats() Stats { return p.counts.stats() }

// Busy returns how many deliveries are being processed or parked in this process.
func (p *Pipeline) Busy() int { return max(int(p.active.Load()), p.inflight.size()) }

// Running returns the messages whose handlers run now.
func (p *Pipeline) Running() []*Message { return p.inflight.running() }

// Admit waits while the store is known to be down, so that a transport does not pull messages only to give them back.
// It returns the context's error, or nil when a delivery may be pulled. With StoreOpen it never waits.
func (p *Pipeline) Admit(ctx context.Context) error {
	if p.cfg.StoreDown == StoreOpen {
		return ctx.Err()
	}
	for p.breaker.Open() {
		t := time.NewTimer(admitPause)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
	return ctx.Err()
}

// Process takes one delivery through the lifecycle and returns when it is answered, parked, or nothing may be sent. The
// context is the handler's parent; cancel it with cause [ErrShutdown] when the grace period is over. Process blocks as
// long as the handler does.
func (p *Pipeline) Process(ctx context.Context, del Delivery) {
	p.active.Add(1)
	defer p.active.Add(-1)
	s := p.screen(del)
	if s.decided() {
		p.turnAway(ctx, del, s)
		return
	}
	p.conclude(ctx, s.entry, p.claim(ctx, del, s.entry, s.entry.fingerprint))
}

// screening is what this process knows of a delivery before the store is asked.
type screening struct {
	class dedup.Class // with err: the message has no key
	err   error
	adm   admission
	known bool // it is the first of its key here, and a duplicate of one that was settled here lately
	entry *entry
}

// decided says whether the store need not be asked.
func (s *screening) decided() bool { return s.err != nil || s.adm != first || s.known }

// quick says whether turnAway waits for nobody.
func (s *screening) quick() bool { return s.err == nil && s.adm != otherPayload }

// screen looks at a delivery. If it is the first of its key here, it has an entry afterwards, which conclude must end.
func (p *Pipeline) screen(del Delivery) (s screening) {
	m := del.Message()
	p.inflight.number(m)
	p.emit(Event{Kind: Delivered, Message: m})
	if s.class, s.err = p.identify(m); s.err != nil {
		return s
	}
	m.fingerprint = p.cfg.Fingerprint(m)
	s.entry, s.adm = p.inflight.enter(del, m.Key, m.fingerprint)
	s.known = s.adm == first && m.ReplaySequence == 0 && p.memory.consumed(m.Key, m.fingerprint)
	return s
}

// turnAway answers a delivery about which the store need not be asked.
func (p *Pipeline) turnAway(ctx context.Context, del Delivery, s screening) {
	m := del.Message()
	if s.err != nil {
		l := p.letter(m, s.class, s.err)
		l.Key = rawKey(m.Header)
		p.terminate(ctx, del, l)
		return
	}
	switch s.adm {
	case sameMessage:
		p.emit(Event{Kind: Redelivered, Message: m})
	case otherPayload:
		p.terminate(ctx, del, p.letter(m, dedup.ConflictingPayload, errConflict))
	case undecided:
		p.giveBack(ctx, del, Busy, parkedDelay, errors.New("the key is being looked up with another payload"))
	case aside:
		p.emit(Event{Kind: Parked, Message: m})
	case tooMany:
		p.giveBack(ctx, del, Busy, parkedDelay, errors.New("too many duplicates are parked"))
	case first:
		p.emit(Event{Kind: Remembered, Message: m})
		p.ackDuplicate(ctx, del, false)
		p.conclude(ctx, s.entry, fate{ack: true})
	}
}

var errConflict = errors.New("the key is known with another payload: two operations share one key, or the payload was changed on a retry")

// identify sets the message's key, or says why there is none.
func (p *Pipeline) identify(m *Message) (dedup.Class, error) {
	if m.HeaderErr != nil {
		return dedup.Malformed, m.HeaderErr
	}
	key, err := publisher.KeyFromHeader(m.Header)
	if errors.Is(err, publisher.ErrMissingKey) && p.cfg.DeriveKey != nil {
		if key, err = p.derive(m); err == nil {
			err = dedup.ValidateID(key)
		}
	}
	switch {
	case errors.Is(err, publisher.ErrMissingKey):
		return dedup.MissingKey, err
	case err != nil:
		return dedup.Malformed, err
	}
	m.Key = key
	return "", nil
}

// rawKey is what stands in the place of a key that cannot be one, for a person to recognise.
func rawKey(header map[string][]string) string {
	var values []string
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if strings.EqualFold(name, publisher.KeyHeader) {
			values = append(values, header[name]...)
		}
	}
	return strings.Join(values, ", ")
}

func (p *Pipeline) derive(m *Message) (key string, err error) {
	err = call(context.Background(), func(context.Context) error { key, err = p.cfg.DeriveKey(m); return err })
	return key, err
}

// fate is what the first delivery of a key in this process came to, as far as its parked duplicates care.
type fate struct {
	ack   bool          // the key is consumed, or dead and its letter sent
	dead  bool          // the latter
	delay time.Duration // otherwise, when they are due again
}

// claim asks for the verdict and acts on it.
func (p *Pipeline) claim(ctx context.Context, del Delivery, e *entry, fp dedup.Fingerprint) fate {
	g, out, err := p.begin(ctx, dedup.Key{Scope: p.scope, ID: e.id}, fp)
	switch {
	case g != nil:
		a := &Attempt{p: p, delivery: del, message: del.Message(), entry: e}
		a.granted(g)
		return a.execute()
	case p.untracked(ctx, err):
		return p.runUntracked(ctx, del, e, err)
	default:
		return p.decline(ctx, del, dedup.Begun{Outcome: out, Err: err})
	}
}

// untracked says whether a handler is to run although the store could not be asked.
func (p *Pipeline) untracked(ctx context.Context, err error) bool {
	return err != nil && p.cfg.StoreDown == StoreOpen && !errors.Is(err, dedup.ErrUnreadable) && ctx.Err() == nil
}

// decline answers a delivery whose claim was not granted.
func (p *Pipeline) decline(ctx context.Context, del Delivery, b dedup.Begun) fate {
	m, out, err := del.Message(), b.Outcome, b.Err
	back := func(kind EventKind, delay time.Duration, err error) fate {
		p.giveBack(ctx, del, kind, delay, err)
		return fate{delay: delay}
	}
	switch {
	case errors.Is(err, dedup.ErrUnreadable):
		p.cfg.Logger.Error("unreadable record: the message is kept and tried again", "key", m.Key, "scope", p.scope, "error", err)
		return back(Unreadable, p.cfg.LetterDelay, err)
	case err != nil && ctx.Err() != nil: // a store claims nothing on a context that has ended
		return back(Interrupted, shutdownDelay, context.Cause(ctx))
	case err != nil:
		p.log(slog.LevelWarn, m, "the store could not be asked; the message is given back", err)
		return back(StoreDown, p.cfg.StoreDownDelay, err)
	}
	switch out.Verdict {
	case dedup.Duplicate:
		p.ackDuplicate(ctx, del, false)
		return fate{ack: true}
	case dedup.Dead:
		p.ackDuplicate(ctx, del, true)
		return fate{ack: true, dead: true}
	case dedup.LetterOwed:
		return p.bury(ctx, del, p.letterOf(m, &out.Record, nil))
	case dedup.Conflict:
		p.terminate(ctx, del, p.letter(m, dedup.ConflictingPayload, errConflict))
		return fate{delay: parkedDelay}
	default:
		return back(Busy, min(out.Wait(), p.cfg.MaxBusyDelay), nil)
	}
}

func (p *Pipeline) begin(ctx context.Context, k dedup.Key, fp dedup.Fingerprint) (*dedup.Guard, dedup.Outcome, error) {
	call, err := p.breaker.Allow()
	if err != nil {
		return nil, dedup.Outcome{}, &dedup.StoreError{Op: "acquire", Key: k, Err: err}
	}
	g, out, err := p.d.Begin(ctx, k, fp, dedup.WithLetters())
	if storeFailed(err) {
		call.End(err)
	} else {
		call.End(nil)
	}
	return g, out, err
}

// conclude answers the deliveries that were parked on an entry.
func (p *Pipeline) conclude(ctx context.Context, e *entry, f fate) {
	for _, del := range p.inflight.leave(e) {
		if f.ack {
			p.ackDuplicate(ctx, del, f.dead)
		} else {
			p.giveBack(ctx, del, Busy, max(f.delay, parkedDelay), nil)
		}
		p.inflight.answered(del)
	}
}

func (p *Pipeline) emit(e Event) {
	p.counts[e.Kind].Add(1)
	if p.cfg.Observer != nil {
		p.cfg.Observer.Observe(e)
	}
}
