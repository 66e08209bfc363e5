package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// Sentinel errors, for errors.Is.
var (
	// ErrShutdown is the cause with which a handler's context is cancelled when a shutdown's grace period is over. An
	// error of the handler that wraps it says that the handler gave up because of a shutdown: the try does not count.
	ErrShutdown = errors.New("consumer: shutting down")
	// ErrConfig: a setting that cannot work. The message names it.
	ErrConfig = errors.New("consumer: invalid configuration")
	// ErrNotAnswered: a handler that answers by itself returned without Ack, Nak or Term.
	ErrNotAnswered = errors.New("consumer: the handler returned without Ack, Nak or Term")
	// ErrAnswered: a handler that answers by itself answered twice.
	ErrAnswered = errors.New("consumer: this delivery has been answered already")
)

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks err as one that no retry can mend: the message becomes a dead letter of class "permanent" at once.
// Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type retryError struct {
	err   error
	after time.Duration
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// RetryAfter marks err as retryable not before d, in place of the configured backoff. The attempt counts. A nil err is
// nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryError{err: err, after: max(0, d)}
}

// PanicError is the error that a handler's panic becomes.
type PanicError struct {
	Value any
	Stack []byte
}

// Error returns the panic's value.
func (e *PanicError) Error() string {
	return fmt.Sprintf("consumer: the handler panicked: %v", e.Value)
}

// call runs fn and turns a panic into an error.
func call(ctx context.Context, fn func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return fn(ctx)
}
