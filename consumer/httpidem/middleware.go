package httpidem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/breaker"
)

type middleware struct {
	d       *dedup.Deduper
	cfg     Config
	flights *flights // nil unless duplicates wait
	breaker *breaker.Breaker
}

// New returns a middleware on d. It can wrap any number of handlers, is safe for concurrent use and has no goroutine of
// its own. The error wraps [ErrConfig] and names the setting that cannot work.
//
// Handlers that read the body find it read already; those that panic, panic on. The handler's context has the key
// (dedup.KeyFrom), the fence and the attempt.
func New(d *dedup.Deduper, cfg Config) (func(http.Handler) http.Handler, error) {
	if d == nil {
		return nil, fmt.Errorf("%w: the deduper is nil", ErrConfig)
	}
	if d.Config().SettleInTx {
		return nil, fmt.Errorf("%w: the Deduper has SettleInTx; %s", ErrConfig, noSettleTx)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &middleware{d: d, cfg: cfg, breaker: newBreaker(cfg)}
	if cfg.OnBusy.wait > 0 {
		m.flights = &flights{runs: map[dedup.Key]*flight{}}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !slices.Contains(cfg.Methods, r.Method) {
				next.ServeHTTP(w, r)
				return
			}
			m.serve(w, r, next)
		})
	}, nil
}

// noSettleTx is why a handler cannot end the claim by itself.
const noSettleTx = "the answer that is stored with the key is known only after the handler; use a keyed sink (sqlstore.Once)"

// exchange is one guarded request.
type exchange struct {
	m    *middleware
	next http.Handler
	w    http.ResponseWriter
	r    *http.Request
	body []byte
	key  dedup.Key
	fp   dedup.Fingerprint
	// ctx goes on when the client goes away: a claim whose answer nobody waits for would stay until its lease is over, and a
	// settlement must come to its end.
	ctx context.Context //nolint:containedctx // the request's, but for its end

	res    response // if the handler runs
	reader reader   // its body
}

func (m *middleware) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	x := &exchange{m: m, next: next, w: w, r: r}
	id, err := keyOf(r.Header)
	switch {
	case errors.Is(err, errNoKey) && m.cfg.KeyOptional:
		next.ServeHTTP(w, r)
		return
	case errors.Is(err, errNoKey):
		x.answer(Refused, problem{Type: ProblemMissingKey, Title: "No idempotency key", Status: http.StatusBadRequest, Detail: sentence(err)})
		return
	case err != nil:
		x.answer(Refused, problem{Type: ProblemMalformedKey, Title: "Malformed idempotency key", Status: http.StatusBadRequest, Detail: sentence(err)})
		return
	}
	principal := m.cfg.Principal(r)
	if principal == "" {
		x.answer(Refused, problemPrincipal)
		return
	}
	if p, ok := x.readBody(); !ok {
		x.answer(Refused, p)
		return
	}
	x.key = dedup.Key{Scope: scopeOf(m.cfg.Service, principal, r), ID: id}
	x.fp = m.cfg.Fingerprint(r, x.body)
	if r.Context().Err() != nil { // nobody is there to be answered, and nothing has begun
		return
	}
	x.ctx = context.WithoutCancel(r.Context())
	busy, ended := x.claim()
	switch {
	case ended:
	case m.flights != nil:
		x.wait(busy)
	default:
		x.busy(busy.Wait())
	}
}

// sentence makes an error of package dedup one for clients, who do not know packages.
func sentence(err error) string { return strings.TrimPrefix(err.Error(), "dedup: ") }

const (
	firstRead = 64 << 10 // bytes; what a client announces is not believed beyond that
	unknown   = 512      // bytes to begin with if it announces nothing
)

// readBody reads the whole body, since the fingerprint is over it.
func (x *exchange) readBody() (problem, bool) {
	limit, announced := x.m.cfg.BodyLimit, x.r.ContentLength
	if x.r.Body == nil || x.r.Body == http.NoBody {
		return problem{}, true
	}
	if announced > limit {
		return problemBodyTooLarge(limit), false
	}
	if announced < 0 {
		announced = unknown
	}
	b := make([]byte, 0, min(announced, firstRead)+1) // one more, so that the end is seen without growing
	for {
		n, err := x.r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			return problemBodyTooLarge(limit), false
		case errors.Is(err, io.EOF): // not ErrUnexpectedEOF, which a body that was cut off ends with
			x.body = b
			return problem{}, true
		case err != nil:
			return problemBody, false
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// claim asks for the verdict and answers, unless the key is busy.
func (x *exchange) claim() (busy dedup.Outcome, ended bool) {
	g, out, err := x.begin(x.ctx)
	switch {
	case errors.Is(err, dedup.ErrUnreadable):
		x.unreadable(err)
	case err != nil && x.m.cfg.StoreDown == StoreOpen:
		x.runUntracked(x.ctx, err)
	case err != nil:
		x.m.cfg.Logger.Warn("httpidem: the store could not be asked; nothing was run", "key", x.key.String(), "error", err)
		p := problemStoreDown
		p.retryAfter = x.m.cfg.StoreRetryAfter
		x.answer(StoreDown, p)
	default:
		return out, x.conclude(g, out)
	}
	return out, true
}

// conclude acts on a verdict; it says false if that is Busy.
func (x *exchange) conclude(g *dedup.Guard, out dedup.Outcome) bool {
	switch out.Verdict {
	case dedup.Granted:
		g.ForbidSettleTx(noSettleTx)
		x.run(g)
	case dedup.Duplicate:
		x.replay(out.Result())
	case dedup.Conflict:
		x.answer(Conflict, problemConflict)
	case dedup.Dead, dedup.LetterOwed: // the latter if somebody else settles these keys, with letters
		x.answer(Dead, problemDead)
	default:
		return false
	}
	return true
}

func (x *exchange) busy(left time.Duration) {
	p := problemBusy
	p.retryAfter = max(1, min(left, x.m.cfg.MaxRetryAfter)) // a nanosecond is rounded up
	x.answer(Busy, p)
}

func (x *exchange) replay(result []byte) {
	s, err := decode(result)
	if err != nil {
		x.unreadable(err)
		return
	}
	x.m.cfg.Observe(x.r, Replayed)
	s.replay(x.w, x.m.cfg.ReplayOriginalStatus)
}

func (x *exchange) unreadable(err error) {
	x.m.cfg.Logger.Error("httpidem: unreadable record; the request was refused", "key", x.key.String(), "error", err)
	p := problemUnreadable
	p.retryAfter = x.m.cfg.StoreRetryAfter
	x.answer(Unreadable, p)
}

func (x *exchange) answer(e Event, p problem) {
	x.m.cfg.Observe(x.r, e)
	p.write(x.w)
}

// reader is a body that was read already.
type reader struct{ bytes.Reader }

// Close does nothing.
func (*reader) Close() error { return nil }

var _ io.WriterTo = (*reader)(nil) // io.Copy needs no buffer

// request returns the request for the handler.
func (x *exchange) request(ctx context.Context) *http.Request {
	r := x.r.WithContext(ctx)
	r.Body = http.NoBody
	if len(x.body) > 0 {
		x.reader.Reset(x.body)
		r.Body = &x.reader
	}
	return r
}
