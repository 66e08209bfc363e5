package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	connectTimeout = 5 * time.Second // for each server at the start
	connectPause   = 200 * time.Millisecond
)

// patiently calls try until it succeeds or --wait is over.
func (a *app) patiently(ctx context.Context, try func(context.Context) error) error {
	deadline := time.Now().Add(a.wait)
	level := slog.LevelWarn // once; nobody wants to read it five times a second
	for {
		tctx, cancel := context.WithTimeout(ctx, connectTimeout)
		err := try(tctx)
		cancel()
		if final := (*exitError)(nil); err == nil || ctx.Err() != nil || time.Now().After(deadline) || errors.As(err, &final) {
			return err
		}
		a.log.Log(ctx, level, "waiting for a server", "for", a.wait, "error", err)
		level = slog.LevelDebug
		select {
		case <-ctx.Done():
			return err
		case <-time.After(connectPause):
		}
	}
}

// connect connects to NATS as flags, variables and the context say, and sets a.nats to the URL for messages. However many
// servers that names, it gives up within connectTimeout, unless --wait is given; a refused login it never tries again.
func (a *app) connect(ctx context.Context) (*nats.Conn, jetstream.JetStream, error) {
	l, err := a.link()
	if err != nil {
		return nil, nil, err
	}
	opts, err := l.options()
	if err != nil {
		return nil, nil, err
	}
	opts = append(opts, nats.Name("idemq"), nats.Timeout(connectTimeout/time.Duration(1+strings.Count(a.nats, ","))),
		// Later on, a refusal is a reason to wait: credentials are renewed in their file.
		nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { a.connectionError(l, err) }))
	var nc *nats.Conn
	err = a.patiently(ctx, func(context.Context) (err error) {
		if nc, err = nats.Connect(a.nats, opts...); err != nil {
			return l.explain(err)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	js, err := l.jetStream(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, js, nil
}

// connectionError logs what happens to a connection after it was made.
func (a *app) connectionError(l link, err error) {
	if a.refused(err) {
		return
	}
	if isRefusal(err) {
		a.log.Warn("the connection is lost, and is tried again", "error", l.explain(err))
		return
	}
	a.log.Debug("nats", "error", err)
}

func (l link) jetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	switch {
	case l.has(domainField):
		return jetstream.NewWithDomain(nc, l.get(domainField))
	case l.has(apiPrefixField):
		return jetstream.NewWithAPIPrefix(nc, l.get(apiPrefixField))
	}
	return jetstream.New(nc)
}

// redact takes user, password and parameters out of a comma-separated list of URLs. It does not parse them: a password
// must not be shown just because the URL around it is malformed.
func redact(urls string) string {
	parts := strings.Split(urls, ",")
	for i, p := range parts {
		scheme, rest, ok := strings.Cut(p, "://")
		if !ok {
			scheme, rest = "", p
		}
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			rest = rest[at+1:]
		}
		rest, _, _ = strings.Cut(rest, "?")
		if ok {
			rest = scheme + "://" + rest
		}
		parts[i] = rest
	}
	return strings.Join(parts, ",")
}

// print writes v as one line of JSON.
func (a *app) print(v any) error {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(a.out, printable(b.String())) // in JSON only strings hold what is escaped here
	return err
}
