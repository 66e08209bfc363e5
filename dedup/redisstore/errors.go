package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup"
)

var (
	// errNotSent: the context had ended before anything was sent.
	errNotSent = errors.New("not sent")
	// errReplicas: the write was applied, but too few replicas said in time that they have it.
	errReplicas = errors.New("too few replicas confirmed the write")
	// errCannotWait: the client hides which server a key lives on, so nobody can be asked about its replicas.
	errCannotWait = errors.New("Config.WaitReplicas needs a *redis.Client, *redis.ClusterClient or *redis.Ring")
	// errInvalid: the request cannot be stored.
	errInvalid = errors.New("invalid request")
)

// failure is the error for a command that was not answered, or not with success. A context that ended before it was sent
// is not the store's. What is not an answer of the server names the server.
func (s *Store) failure(ctx context.Context, op string, k dedup.Key, err error) error {
	cerr := ctx.Err()
	if cerr != nil && errors.Is(err, errNotSent) {
		return cerr
	}
	out := &dedup.StoreError{Op: op, Key: k, Indeterminate: indeterminate(err), Err: err}
	if reply := redis.Error(nil); !errors.As(err, &reply) {
		out.Err = fmt.Errorf("%s: %w", s.Describe(), err)
	}
	if cerr != nil && !errors.Is(err, cerr) { // the connection's deadline was the context's
		out.Err = fmt.Errorf("%w (%w)", out.Err, cerr)
	}
	return out
}

// indeterminate says whether a command may have been applied: always, unless it certainly did not reach the server, or
// the server refused it. It sees the last try only; that go-redis may have sent an earlier one is lost.
func indeterminate(err error) bool {
	var reply redis.Error
	var op *net.OpError
	switch {
	case errors.Is(err, errReplicas):
		return true
	case errors.Is(err, errNotSent), errors.Is(err, errCannotWait), errors.Is(err, errInvalid):
		return false
	case errors.As(err, &reply): // the server answered: it did nothing
		return false
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted), errors.Is(err, redis.ErrClosed):
		return false
	case errors.As(err, &op) && op.Op == "dial":
		return false
	}
	return true
}

// statusError is the error for a script's one-word reply.
func statusError(op string, k dedup.Key, status any) error {
	switch status {
	case "ok":
		return nil
	case "lost":
		return dedup.ErrLeaseLost
	case "unreadable":
		return unreadable(k)
	case "absent":
		return dedup.ErrNotFound
	case "running":
		return dedup.ErrLeaseRunning
	}
	return &dedup.StoreError{Op: op, Key: k, Indeterminate: true, Err: fmt.Errorf("unexpected reply %q", status)}
}

func unreadable(k dedup.Key) error {
	return dedup.UnreadableError(k, "its bytes are not a record of a version that this build knows")
}
