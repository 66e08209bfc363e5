package httppub

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// Config has the settings of a [Transport]. Its zero value is safe.
type Config struct {
	// KeyFunc derives the key of a request that has none in its header or context. It must return the same key for the
	// same operation, and must not read the body. [HandlerKey] passes the key of a consumed message on. An error refuses the request. It may be called from several goroutines.
	// Defaults to a new random key, which makes nothing but this transport's own retries recognisable.
	KeyFunc func(r *http.Request) (string, error)
	// Methods are the methods that are stamped and retried. Defaults to POST, PUT, PATCH and DELETE.
	Methods []string
	// Quoted writes the key as a quoted string, as the IETF's draft has it; httpidem takes both. Defaults to false.
	Quoted bool
	// Retry says how often to try, and how long to wait for the header of an answer. Defaults to 5 tries of 30 s.
	Retry publisher.Retry
	// MaxRetryAfter is the longest Retry-After that is waited for. Defaults to 30 s.
	MaxRetryAfter time.Duration
	// BodyLimit is how much of a body without GetBody is kept in memory for a retry, in bytes; a larger one is sent once.
	// Defaults to 1 MiB.
	BodyLimit int64
}

// The defaults of [Config].
const (
	DefaultAttemptTimeout = 30 * time.Second
	DefaultMaxRetryAfter  = 30 * time.Second
	DefaultBodyLimit      = 1 << 20
)

func (c Config) withDefaults() Config {
	if c.Methods == nil {
		c.Methods = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	}
	if c.Retry.AttemptTimeout <= 0 {
		c.Retry.AttemptTimeout = DefaultAttemptTimeout
	}
	c.Retry = c.Retry.WithDefaults()
	if c.MaxRetryAfter <= 0 {
		c.MaxRetryAfter = DefaultMaxRetryAfter
	}
	if c.BodyLimit <= 0 {
		c.BodyLimit = DefaultBodyLimit
	}
	return c
}

// HandlerKey returns a [Config].KeyFunc for the clients of idempotent handlers: a request made with a handler's context
// bears the key under which the handler runs, so that the far side does nothing again when a crash makes the handler run
// again. One handler that calls several operations of one server needs a name for each, which is put behind the key:
// "order-4711/refund"; give "" if there is one. So do two handlers (scopes) of the same keys that call the same server.
// A request with another context is refused.
func HandlerKey(name string) func(r *http.Request) (string, error) {
	return func(r *http.Request) (string, error) {
		key := dedup.KeyFrom(r.Context()).ID
		switch {
		case key == "":
			return "", errNoHandler
		case name == "":
			return key, nil
		}
		return key + "/" + name, nil
	}
}

var errNoHandler = errors.New("httppub: HandlerKey: the request's context is not that of an idempotent handler; make it with http.NewRequestWithContext and the handler's ctx")

type contextKey struct{}

// WithKey gives the requests with this context a key. It is for one operation: two different requests under one key are
// refused by the server. An empty key is refused, since it is nearly always a variable that nobody has set.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, contextKey{}, key)
}
