package sqlstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/idemq/idemq/dedup"
)

const (
	// callLimit bounds a call whose context has no deadline.
	callLimit = 5 * time.Second

	// A statement that was refused for a passing reason (a serialization failure, a deadlock, a busy SQLite database) is
	// sent again this often in all, after pauses that double from the first to the longest: about a second together.
	transientTries = 12
	firstPause     = time.Millisecond
	longestPause   = 200 * time.Millisecond
)

// limit gives a call that has no deadline one.
func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callLimit)
}

// again runs f until it succeeds, fails for good, or has failed in passing too often.
func (s *Store) again(ctx context.Context, f func() error) error {
	pause := firstPause
	for try := 1; ; try++ {
		err := f()
		if err == nil || !s.dialect.transient(err) || try == transientTries || wait(ctx, pause) != nil {
			return err
		}
		pause = min(2*pause, longestPause)
	}
}

// wait waits for about d.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // not a secret
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// failure is the error for a call that the database did not answer, or not with success. The write says whether a lost
// answer leaves open what has happened.
func (s *Store) failure(op string, k dedup.Key, err error, write bool) error {
	var dial *net.OpError
	out := &dedup.StoreError{Op: op, Key: k, Err: err, Indeterminate: write && !s.dialect.refused(err)}
	if errors.As(err, &dial) && dial.Op == "dial" {
		out.Indeterminate = false
	}
	if s.dialect.missingTable(err) {
		out.Err = errors.Join(errNoSchema, err)
	}
	return out
}
