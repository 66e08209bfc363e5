package publisher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// ErrUnconfirmed says that no try was confirmed, so that nobody knows whether the message is stored. Publish it again
// with the same key; a new key could run the operation twice.
var ErrUnconfirmed = errors.New("publisher: not confirmed; publish it again with the same key")

// Retry says how often and how long to try. The zero value has the defaults; it is safe to copy and to share.
type Retry struct {
	// Attempts is the largest number of tries, the first included. Defaults to 5; negative means no limit but the
	// context's, and then a context without end can wait for ever.
	Attempts int
	// AttemptTimeout ends one try. Defaults to 5 s.
	AttemptTimeout time.Duration
	// Initial is the wait after the first failure. Defaults to 100 ms. It doubles each time and is spread by ± 50 %.
	Initial time.Duration
	// Max limits one wait. Defaults to 5 s.
	Max time.Duration
}

// The defaults of [Retry].
const (
	defaultAttempts       = 5
	defaultAttemptTimeout = 5 * time.Second
	defaultInitial        = 100 * time.Millisecond
	defaultMax            = 5 * time.Second
)

// WithDefaults returns r with every unset field at its default.
func (r Retry) WithDefaults() Retry {
	if r.Attempts == 0 {
		r.Attempts = defaultAttempts
	}
	if r.AttemptTimeout <= 0 {
		r.AttemptTimeout = defaultAttemptTimeout
	}
	if r.Initial <= 0 {
		r.Initial = defaultInitial
	}
	if r.Max <= 0 {
		r.Max = defaultMax
	}
	r.Max = max(r.Max, r.Initial)
	return r
}

// Do calls try until it succeeds, fails with an error for which transient is false, the attempts are used up, or ctx
// ends. Each call gets a context of its own that ends after AttemptTimeout. A context that has ended already is reported
// without a try. A transient error as the last word is wrapped in [ErrUnconfirmed], together with the cause of ctx if
// that ended it.
func (r Retry) Do(ctx context.Context, transient func(error) bool, try func(ctx context.Context) error) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("publisher: nothing was sent: %w", err)
	}
	r = r.WithDefaults()
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.Multiplier = r.Initial, r.Max, 2
	options := []backoff.RetryOption{backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0)}
	if r.Attempts > 0 {
		options = append(options, backoff.WithMaxTries(uint(r.Attempts)))
	}
	tries := 0
	var last error
	final := false
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		tries++
		attempt, cancel := context.WithTimeout(ctx, r.AttemptTimeout)
		defer cancel()
		last = try(attempt)
		final = last != nil && !transient(last)
		if final {
			return struct{}{}, backoff.Permanent(last)
		}
		return struct{}{}, last
	}, options...)
	switch cause := context.Cause(ctx); {
	case err == nil:
		return nil
	case final:
		return last
	case cause != nil && !errors.Is(last, cause):
		return fmt.Errorf("%w: %w after %d tries: %w", ErrUnconfirmed, cause, tries, last)
	default:
		return fmt.Errorf("%w: %d tries: %w", ErrUnconfirmed, tries, last)
	}
}
