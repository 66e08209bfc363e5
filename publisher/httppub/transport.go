package httppub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/idemq/idemq/publisher"
)

// unrecordedHeader is how httpidem says that a retry may repeat the effect.
const unrecordedHeader = "Idempotent-Unrecorded"

// drainLimit is how much of an answer that nobody wants is read, in bytes, so that its connection can be used again.
const drainLimit = 64 << 10

var errAttemptTimeout = errors.New("httppub: no answer within AttemptTimeout")

// Transport stamps keys and retries. It is safe for concurrent use.
type Transport struct {
	base http.RoundTripper
	cfg  Config
}

// New returns a Transport over base, http.DefaultTransport if it is nil.
func New(base http.RoundTripper, cfg Config) *Transport {
	if base == nil {
		base = http.DefaultTransport
	}
	return &Transport{base: base, cfg: cfg.withDefaults()}
}

// CloseIdleConnections does so for the transport below, if that can.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip sends r, again if need be. It does not change r, and closes its body.
//
// Errors: publisher.ErrMalformedKey and publisher.ErrKeyConflict for keys, and that of the KeyFunc, before anything is
// sent; publisher.ErrUnconfirmed around the last failure if nobody knows whether the request took effect.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !slices.Contains(t.cfg.Methods, r.Method) {
		return t.base.RoundTrip(r)
	}
	value, err := t.keyOf(r)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	next, again, err := t.bodies(r)
	if err != nil {
		closeBody(r)
		return nil, fmt.Errorf("httppub: the body could not be read; nothing was sent: %w", err)
	}
	return t.send(r, value, next, again)
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// keyOf returns the value for the header. One that the caller has set is sent as it is.
func (t *Transport) keyOf(r *http.Request) (string, error) {
	fromContext, inContext := r.Context().Value(contextKey{}).(string)
	if values := r.Header[publisher.KeyHeader]; len(values) > 0 {
		if len(values) > 1 || values[0] == "" {
			return "", fmt.Errorf("%w: the request has the values %q in header %s; set one", publisher.ErrMalformedKey, values, publisher.KeyHeader)
		}
		if inContext && values[0] != fromContext && values[0] != quote(fromContext) {
			return "", fmt.Errorf("%w: header %s says %q, WithKey %q; give one", publisher.ErrKeyConflict, publisher.KeyHeader, values[0], fromContext)
		}
		return values[0], nil
	}
	key := fromContext
	switch {
	case inContext:
	case t.cfg.KeyFunc != nil:
		var err error
		if key, err = t.cfg.KeyFunc(r); err != nil {
			return "", fmt.Errorf("httppub: the KeyFunc failed; nothing was sent: %w", err)
		}
	default:
		key = publisher.NewKey()
	}
	if err := publisher.SetKey(map[string][]string{}, key); err != nil {
		return "", err
	}
	if t.cfg.Quoted || strings.HasPrefix(key, `"`) { // the latter would be read as a quoted string
		return quote(key), nil
	}
	return key, nil
}

func quote(key string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}

// send tries until there is an answer for the caller. The body of try n is what next returns.
func (t *Transport) send(r *http.Request, value string, next func() (io.ReadCloser, error), again bool) (*http.Response, error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.Multiplier = t.cfg.Retry.Initial, t.cfg.Retry.Max, 2
	ctx := r.Context()
	for try := 1; ; try++ {
		body, err := next()
		if err != nil {
			return nil, fmt.Errorf("%w: the body of try %d could not be had: %w", publisher.ErrUnconfirmed, try, err)
		}
		resp, err := t.try(r, value, body)
		last := !again || try == t.cfg.Retry.Attempts
		pause, retry := t.verdict(ctx, resp, err, wait.NextBackOff())
		switch {
		case err == nil && (last || !retry):
			return resp, nil
		case err != nil && (last || !retry):
			if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
				err = fmt.Errorf("%w: %w", cause, err)
			}
			return nil, fmt.Errorf("%w: %d tries: %w", publisher.ErrUnconfirmed, try, err)
		case err == nil:
			_, _ = io.CopyN(io.Discard, resp.Body, drainLimit)
			_ = resp.Body.Close()
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: %w after %d tries", publisher.ErrUnconfirmed, context.Cause(ctx), try)
		}
	}
}

// try sends the request once. AttemptTimeout is for the header; the body may take as long as r's context allows.
func (t *Transport) try(r *http.Request, value string, body io.ReadCloser) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(t.cfg.Retry.AttemptTimeout, func() { cancel(errAttemptTimeout) })
	out := r.Clone(ctx)
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.Header[publisher.KeyHeader] = []string{value}
	out.Body = body
	resp, err := t.base.RoundTrip(out)
	if !timer.Stop() && err == nil { // the answer came just too late: its body is cut off
		_ = resp.Body.Close()
		err = errAttemptTimeout
	}
	if err != nil {
		if context.Cause(ctx) == errAttemptTimeout && !errors.Is(err, errAttemptTimeout) { //nolint:errorlint // the cause is ours
			err = fmt.Errorf("%w (%v): %w", errAttemptTimeout, t.cfg.Retry.AttemptTimeout, err)
		}
		cancel(nil)
		return nil, err
	}
	answer := &answerBody{ReadCloser: resp.Body, cancel: cancel}
	if w, ok := resp.Body.(io.Writer); ok { // a switched protocol is written to
		resp.Body = &switchedBody{answerBody: answer, Writer: w}
	} else {
		resp.Body = answer
	}
	return resp, nil
}

// answerBody ends the try's context when the answer is closed.
type answerBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close closes the body.
func (b *answerBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

type switchedBody struct {
	*answerBody
	io.Writer
}

// verdict says whether to try again, and after how long.
func (t *Transport) verdict(ctx context.Context, resp *http.Response, err error, pause time.Duration) (time.Duration, bool) {
	if ctx.Err() != nil {
		return 0, false
	}
	if err == nil {
		asked, has := retryAfter(resp.Header.Get("Retry-After"), time.Now())
		switch resp.StatusCode {
		case http.StatusConflict:
			if !has {
				return 0, false
			}
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			if resp.Header.Get(unrecordedHeader) != "" {
				return 0, false
			}
		default:
			return 0, false
		}
		if asked > t.cfg.MaxRetryAfter {
			return 0, false
		}
		pause = max(pause, asked)
		if until, ok := ctx.Deadline(); ok && time.Until(until) <= pause {
			return 0, false
		}
	}
	var untrusted *tls.CertificateVerificationError
	return pause, !errors.As(err, &untrusted)
}

// retryAfter reads a Retry-After, in seconds or as a date.
func retryAfter(s string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}
