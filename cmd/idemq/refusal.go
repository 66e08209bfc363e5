package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// refusedError says what the NATS server does not permit this user. The server tells it beside the request, which is
// never answered.
type refusedError struct {
	publish bool   // or subscribe
	subject string // as the server quotes it
	text    string // the server's own, if it cannot be taken apart
}

func (e *refusedError) Error() string {
	switch {
	case e.subject == "":
		return "the NATS server refuses this user something: " + e.text
	case e.publish:
		return fmt.Sprintf("the NATS server does not permit this user to publish to %s; whoever is to do this needs it in publish.allow", e.subject)
	default:
		return fmt.Sprintf("the NATS server does not permit this user to subscribe to %s; whoever is to do this needs it in subscribe.allow", e.subject)
	}
}

var violation = regexp.MustCompile(`Permissions Violation for (Publish|Subscription) to ("(?:[^"\\]|\\.)*")`)

// refusedBy returns what an error of the connection refuses; nil if it refuses nothing.
func refusedBy(err error) *refusedError {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	if m := violation.FindStringSubmatch(err.Error()); m != nil {
		return &refusedError{publish: m[1] == "Publish", subject: m[2]}
	}
	return &refusedError{text: err.Error()}
}

// refusals is what becomes of a command that is refused something: it ends, as it would wait in vain for an answer.
type refusals struct {
	end      context.CancelCauseFunc
	survives func(*refusedError) bool // what the command goes on without; nil is nothing

	mu     sync.Mutex
	warned map[string]bool
}

// refused takes an error of the connection, and says whether it was a refusal.
func (a *app) refused(err error) bool {
	e := refusedBy(err)
	if e == nil {
		return false
	}
	r := a.refusals
	if r.survives == nil || !r.survives(e) {
		r.end(e)
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := e.Error(); !r.warned[text] {
		if r.warned == nil {
			r.warned = map[string]bool{}
		}
		r.warned[text] = true
		a.log.Warn(text)
	}
	return true
}

// refusal is the refusal that ended the context of a command, if one did.
func refusal(ctx context.Context) error {
	if e := (*refusedError)(nil); errors.As(context.Cause(ctx), &e) {
		return e
	}
	return nil
}

// workerSurvives says which refusals a worker goes on with: all but those without which it gets no message at all.
func workerSurvives(e *refusedError) bool {
	for _, needed := range []string{".STREAM.INFO.", ".CONSUMER.INFO.", ".CONSUMER.MSG.NEXT."} {
		if strings.Contains(e.subject, needed) {
			return false
		}
	}
	return e.publish
}

// unlessRefused returns a context for what must not be left half done: a signal does not end it, a refusal does.
func unlessRefused(ctx context.Context) (context.Context, context.CancelFunc) {
	on, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if err := refusal(ctx); err != nil {
			cancel(err)
		}
	})
	return on, func() { stop(); cancel(nil) }
}
