package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// dlqEntry is a dead letter as the lists print it. Subject, stream, seq and size are the original message's.
type dlqEntry struct {
	ID           string `json:"id"`
	Class        string `json:"class"`
	Error        string `json:"error"`
	Key          string `json:"key"`
	Scope        string `json:"scope"`
	Stream       string `json:"stream"`
	Sequence     uint64 `json:"seq"`
	Durable      string `json:"durable"`
	Subject      string `json:"subject"`
	Attempts     int    `json:"attempts"`
	Generation   int    `json:"generation"`
	FirstFailure string `json:"first_failure"`
	LastFailure  string `json:"last_failure"`
	Size         int    `json:"size"`
	Resolved     *bool  `json:"resolved"` // null if nobody can tell
	ReplayedAt   string `json:"replayed_at"`
}

func entryOf(e *deadletter.Entry, resolved *bool) dlqEntry {
	l := e.Letter
	out := dlqEntry{
		ID: e.ID, Class: string(l.Class), Error: l.Error, Key: l.Key, Scope: l.Scope, Stream: l.Stream, Sequence: l.Sequence,
		Durable: l.Durable, Subject: l.Subject, Attempts: l.Attempts, Generation: l.Generation,
		FirstFailure: rfc3339(l.FirstFailure), LastFailure: rfc3339(l.LastFailure), Size: max(l.Size, len(l.Data)), Resolved: resolved,
	}
	if e.Mark != nil {
		out.ReplayedAt = rfc3339(e.Mark.At)
	}
	return out
}

func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// state says in a word what an entry needs.
func (e *dlqEntry) state() string {
	switch {
	case e.Resolved != nil && *e.Resolved:
		return "resolved"
	case e.ReplayedAt != "":
		return "replayed"
	case e.Resolved == nil:
		return "unknown"
	default:
		return "open"
	}
}

const (
	dlqRow    = "%-12s  %-8s  %-11s  %3v  %-6s  %-20s  %-24s  %s\n"
	shortID   = 12
	shortText = 60
)

func (a *app) printRow(e *dlqEntry) error {
	age := ""
	if t, err := time.Parse(time.RFC3339Nano, e.LastFailure); err == nil {
		age = shortAge(time.Since(t))
	}
	_, err := fmt.Fprintf(a.out, dlqRow, e.ID[:min(len(e.ID), shortID)], e.state(), inLine(e.Class), e.Generation, age,
		inLine(e.Stream+"/"+e.Durable), inLine(e.Key), shorten(inLine(e.Error), shortText))
	return err
}

// inLine makes text of strangers fit into a row.
func inLine(s string) string {
	return strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(printable(s))
}

func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// shortAge is a duration in its largest unit.
func shortAge(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd", d/day)
	case d >= time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	default:
		return fmt.Sprintf("%ds", max(0, d/time.Second))
	}
}

const (
	fatesAtOnce  = 64 // entries whose fates are looked up together
	fatesPerTime = 16
)

// fates looks up what has become of each entry since: true if its key is consumed or died again later, nil if nobody can
// tell. A store that contradicts the workers' is an error.
func (l *letters) fates(ctx context.Context, entries []deadletter.Entry) ([]*bool, error) {
	replayers := make([]*deadletter.Replayer, len(entries))
	for i := range entries {
		var err error
		replayers[i], err = l.replayer(ctx, entries[i].Letter, false)
		if errors.Is(err, errNoStore) {
			l.warnOnce(err)
		} else if err != nil {
			return nil, err
		}
	}
	resolved, errs := make([]*bool, len(entries)), make([]error, len(entries))
	var group sync.WaitGroup
	slots := make(chan struct{}, fatesPerTime)
	for i, r := range replayers {
		if r == nil {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			resolved[i], errs[i] = fate(ctx, r, entries[i])
		})
	}
	group.Wait()
	for i, err := range errs {
		if errors.Is(err, dedup.ErrUnreadable) {
			l.warnOnce(err)
			errs[i] = nil
		}
	}
	return resolved, errors.Join(errs...)
}

func fate(ctx context.Context, r *deadletter.Replayer, e deadletter.Entry) (*bool, error) {
	yes, err := r.Resolved(ctx, e)
	if errors.Is(err, deadletter.ErrUnknownFate) || errors.Is(err, dedup.ErrInvalidKey) {
		return nil, nil //nolint:nilnil // nobody can tell
	}
	if err != nil {
		return nil, err
	}
	return &yes, nil
}

func (l *letters) warnOnce(err error) {
	if l.warned[err.Error()] {
		return
	}
	if l.warned == nil {
		l.warned = map[string]bool{}
	}
	l.warned[err.Error()] = true
	fmt.Fprintln(l.a.err, "idemq: what became of some letters cannot be told:", printable(err.Error()))
}
