package httpidem

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/idemq/idemq/dedup"
)

// ErrConfig says that there is a setting that cannot work. The message names it.
var ErrConfig = errors.New("httpidem: invalid configuration")

// Config has the settings of the middleware. Principal must be set; the zero value of everything else is safe. All
// functions are called from many goroutines at once.
type Config struct {
	// Principal says whose request it is: a tenant, an account, a user; something that the client cannot choose. One
	// principal's answers are never shown to another. An empty answer refuses the request with 403. Required; use
	// [SingleTenant] where all clients may see each other's answers.
	Principal func(r *http.Request) string
	// Service is a part of the scope. Give each service that shares a store with others its own, because their routes may
	// have the same names. Changing it forgets every key. Defaults to "".
	Service string
	// Methods are the methods that are guarded. Defaults to POST and PATCH; GET, HEAD, PUT and DELETE are idempotent by
	// nature.
	Methods []string
	// KeyOptional lets a request without a key pass, unguarded. A malformed one is refused all the same. Defaults to
	// false: 400.
	KeyOptional bool
	// Fingerprint tells one request from another under the same key, which is refused with 422. The zero Fingerprint
	// matches everything. Defaults to [BodyFingerprint]; see [JSONFingerprint].
	Fingerprint func(r *http.Request, body []byte) dedup.Fingerprint
	// Classify says what becomes of the key when the handler has ended. Handlers that need different rules get a
	// middleware each; New is cheap. Defaults to [DefaultClassify].
	Classify func(r *http.Request, a Answer) Action
	// OnBusy says what a request gets whose key is at work. Defaults to 409 with Retry-After; see [Wait].
	OnBusy BusyPolicy
	// MaxRetryAfter is the largest Retry-After of a busy key. The lease, which is all that is known, mostly lasts much
	// longer than the handler. Rounded up to whole seconds. Defaults to 5 s.
	MaxRetryAfter time.Duration
	// StoreDown says what happens when the store cannot be asked. After five failures in a row it is taken for down, and one
	// request every two seconds tries it; all others get this at once, without waiting for a time limit each. Defaults to
	// [StoreClosed].
	StoreDown StoreDownPolicy
	// StoreRetryAfter is the Retry-After of a 503 that StoreClosed gives. Rounded up to whole seconds. Defaults to 5 s.
	StoreRetryAfter time.Duration
	// BodyLimit is the largest body of a request in bytes; it is read into memory before the key is claimed. A larger one
	// is refused with 413. Defaults to 1 MiB.
	BodyLimit int64
	// ResponseLimit is the largest body of an answer, in bytes, that is held back and stored. A larger one is streamed,
	// and the key is consumed without a body, which the replay says by Idempotent-Replay-Incomplete. Defaults to 256 KiB.
	ResponseLimit int
	// ReplayOriginalStatus replays a 201 as 201. Defaults to false: as 200, since nothing was created this time.
	ReplayOriginalStatus bool
	// CancelWithClient ends the handler's context when the client goes away; a handler that then fails has not used up an
	// attempt. Defaults to false: the handler goes on, so that the effect is not left half way and the retry finds it done.
	CancelWithClient bool
	// Logger gets what an operator must know: effects that could not be recorded, runs without record, unreadable records.
	// Defaults to slog.Default().
	Logger *slog.Logger
	// Observe is told what each guarded request came to, before its answer is sent. Defaults to nothing.
	Observe func(r *http.Request, e Event)
}

// Defaults; the table in the package comment lists them.
const (
	DefaultMaxRetryAfter   = 5 * time.Second
	DefaultStoreRetryAfter = 5 * time.Second
	DefaultBodyLimit       = 1 << 20
	DefaultResponseLimit   = 256 << 10
)

// SingleTenant is a Principal for services whose clients may see each other's answers.
func SingleTenant(*http.Request) string { return "-" }

// StoreDownPolicy says what happens when the store cannot be asked.
type StoreDownPolicy uint8

const (
	// StoreClosed answers 503 with Retry-After; nothing runs.
	StoreClosed StoreDownPolicy = iota
	// StoreOpen runs the handler untracked: its context says so (dedup.Untracked), the answer bears
	// Idempotent-Untracked: true, and the effect comes again with each retry.
	StoreOpen
)

// BusyPolicy says what a request gets whose key is at work. Its zero value is a 409 with Retry-After.
type BusyPolicy struct{ wait time.Duration }

// Wait makes a duplicate wait up to d for the outcome of the one at work, and answers with it, whatever it is. In one
// process it is woken by the one at work; across processes the store tells it, where it is a dedup.Watcher as memstore,
// redisstore and kvstore are, and else is asked again at growing intervals of up to a second. It runs by itself if the other
// one's claim was released. After d it gets the 409. Each waiting request holds its body in memory.
func Wait(d time.Duration) BusyPolicy { return BusyPolicy{wait: d} }

// Action is what becomes of a key when its handler has ended.
type Action uint8

const (
	// Keep consumes the key: the answer is stored, and the handler does not run again under it.
	Keep Action = iota + 1
	// Release lets the next request with the key run the handler again. It counts as an attempt.
	Release
	// ReleaseUncounted does so without using up an attempt, for a handler that has refused before it did anything.
	ReleaseUncounted
	// Kill makes the key dead: it is answered with 409 from now on, and the handler does not run again under it.
	Kill
)

// Answer is how a handler has ended.
type Answer struct {
	// Status is the handler's; 500 after a panic, 200 if it wrote nothing or took the connection over.
	Status int
	// Panicked says that the handler did not return.
	Panicked bool
	// Hijacked says that the handler took the connection over, so that its answer is unknown.
	Hijacked bool
}

// String says it as the record of a failed key does.
func (a Answer) String() string {
	if a.Panicked {
		return "the handler panicked"
	}
	return fmt.Sprintf("the handler answered %d", a.Status)
}

// DefaultClassify keeps every answer but those that say "try again": panics and 5xx are released, and 429 without using
// up an attempt.
func DefaultClassify(_ *http.Request, a Answer) Action {
	switch {
	case a.Panicked, a.Status >= http.StatusInternalServerError:
		return Release
	case a.Status == http.StatusTooManyRequests:
		return ReleaseUncounted
	default:
		return Keep
	}
}

// Event is what a guarded request came to.
type Event uint8

// The events. A request has one of them, or none if its client went away while it waited.
const (
	Executed   Event = iota + 1 // the handler ran and its key is consumed
	Released                    // it ran, and the key may be tried again
	Killed                      // it ran, and the key is dead by the classifier's word
	Unrecorded                  // it ran, and that could not be recorded: a retry may repeat the effect
	Untracked                   // it ran without a record, because the store was down
	Replayed                    // the stored answer was sent
	Busy                        // 409: the key is at work
	Dead                        // 409: the key is dead
	Conflict                    // 422: the key is known with another request
	Refused                     // no usable key, principal or body
	StoreDown                   // 503: the store could not be asked
	Unreadable                  // 503: the record or the stored answer is of a later version, or garbage
)

var eventNames = [...]string{
	"none", "executed", "released", "killed", "unrecorded", "untracked", "replayed", "busy", "dead", "conflict", "refused",
	"store-down", "unreadable",
}

// String returns the event's name for logs and metrics.
func (e Event) String() string {
	if int(e) < len(eventNames) {
		return eventNames[e]
	}
	return "unknown"
}

func (c Config) withDefaults() (Config, error) {
	if c.Methods == nil {
		c.Methods = []string{http.MethodPost, http.MethodPatch}
	}
	if c.Fingerprint == nil {
		c.Fingerprint = BodyFingerprint
	}
	if c.Classify == nil {
		c.Classify = DefaultClassify
	}
	if c.MaxRetryAfter == 0 {
		c.MaxRetryAfter = DefaultMaxRetryAfter
	}
	if c.StoreRetryAfter == 0 {
		c.StoreRetryAfter = DefaultStoreRetryAfter
	}
	if c.BodyLimit == 0 {
		c.BodyLimit = DefaultBodyLimit
	}
	if c.ResponseLimit == 0 {
		c.ResponseLimit = DefaultResponseLimit
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Observe == nil {
		c.Observe = func(*http.Request, Event) {}
	}
	switch {
	case c.Principal == nil:
		return c, fmt.Errorf("%w: Principal is not set; say whose a key is, or choose SingleTenant", ErrConfig)
	case c.MaxRetryAfter < 0:
		return c, fmt.Errorf("%w: MaxRetryAfter is %v; it must not be negative", ErrConfig, c.MaxRetryAfter)
	case c.StoreRetryAfter < 0:
		return c, fmt.Errorf("%w: StoreRetryAfter is %v; it must not be negative", ErrConfig, c.StoreRetryAfter)
	case c.OnBusy.wait < 0:
		return c, fmt.Errorf("%w: OnBusy waits for %v; it must not be negative", ErrConfig, c.OnBusy.wait)
	case c.BodyLimit < 0:
		return c, fmt.Errorf("%w: BodyLimit is %d; it must not be negative", ErrConfig, c.BodyLimit)
	case c.ResponseLimit < 0:
		return c, fmt.Errorf("%w: ResponseLimit is %d; it must not be negative", ErrConfig, c.ResponseLimit)
	case c.StoreDown > StoreOpen:
		return c, fmt.Errorf("%w: StoreDown is %d; use StoreClosed or StoreOpen", ErrConfig, c.StoreDown)
	}
	return c, nil
}
