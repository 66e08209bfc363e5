package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
)

// dlqWhole is a dead letter as "dlq show" prints it.
type dlqWhole struct {
	dlqEntry

	Headers         map[string][]string `json:"headers"`
	Payload         string              `json:"payload"`
	PayloadEncoding string              `json:"payload_encoding"` // utf-8 or base64
	Stack           string              `json:"stack"`
	History         []dlqDeath          `json:"history"`
}

type dlqDeath struct {
	Generation int    `json:"generation"`
	Class      string `json:"class"`
	Error      string `json:"error"`
	Time       string `json:"time"`
	ID         string `json:"id"`
}

func (a *app) dlqShowCommand() *cobra.Command {
	var raw bool
	c := &cobra.Command{
		Use: "show ID", Short: "Show a dead letter with its message", Args: exactly(1),
		Long: `Shows a dead letter: why it died, its earlier deaths, headers and payload. What cannot be printed is escaped; --json and --raw are
exact. In JSON a payload that is not UTF-8 is base64, as payload_encoding says. Exit code 3 if there is no such letter.
` + storeNoteDLQ,
		Example: `  idemq dlq show 3f2a9c01
  idemq dlq show 3f2a9c01 --raw > message.bin`,
		RunE: func(c *cobra.Command, args []string) error {
			if raw && a.json {
				return usagef("--raw and --json exclude each other")
			}
			return a.withLetters(c.Context(), func(l *letters) error { return a.dlqShow(c.Context(), l, args[0], raw) })
		},
	}
	c.Flags().BoolVar(&raw, "raw", false, "the payload alone, byte for byte")
	return c
}

func (a *app) dlqShow(ctx context.Context, l *letters, id string, raw bool) error {
	found, err := l.find(ctx, []string{id}, deadletter.Filter{})
	if err != nil {
		return err
	}
	e, err := l.queue.Get(ctx, found[0].Sequence)
	if err != nil {
		return err
	}
	if raw {
		_, err := a.out.Write(e.Letter.Data)
		return err
	}
	resolved, err := l.fates(ctx, []deadletter.Entry{e})
	if err != nil {
		return err
	}
	w := dlqWhole{dlqEntry: entryOf(&e, resolved[0]), Headers: e.Letter.Header, Stack: e.Letter.Stack, History: []dlqDeath{}}
	if w.Headers == nil {
		w.Headers = map[string][]string{}
	}
	for _, d := range e.Letter.History {
		w.History = append(w.History, dlqDeath{d.Generation, string(d.Class), d.Error, rfc3339(d.Time), d.ID})
	}
	w.Payload, w.PayloadEncoding = string(e.Letter.Data), "utf-8"
	if a.json {
		if !utf8.Valid(e.Letter.Data) {
			w.Payload, w.PayloadEncoding = base64.StdEncoding.EncodeToString(e.Letter.Data), "base64"
		}
		return a.print(w)
	}
	return a.printWhole(&w, e.Letter)
}

func (a *app) printWhole(w *dlqWhole, l *consumer.Letter) error {
	var b strings.Builder
	line := func(name string, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", name, inLine(fmt.Sprintf(format, args...)))
	}
	line("id", "%s", w.ID)
	line("state", "%s", w.state())
	line("class", "%s", w.Class)
	line("error", "%s", w.Error)
	line("key", "%s", w.Key)
	line("scope", "%s", w.Scope)
	line("from", "%s seq %d, durable %s, subject %s", w.Stream, w.Sequence, w.Durable, w.Subject)
	line("attempts", "%d", w.Attempts)
	line("generation", "%d", w.Generation)
	line("first failure", "%s", w.FirstFailure)
	line("last failure", "%s", w.LastFailure)
	if w.ReplayedAt != "" {
		line("replayed", "%s", w.ReplayedAt)
	}
	for _, d := range w.History {
		line("died before", "%s, generation %d, %s: %s (%s)", d.Time, d.Generation, d.Class, d.Error, d.ID)
	}
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		for _, v := range w.Headers[name] {
			line("header", "%s: %s", name, v)
		}
	}
	if len(l.RawHeader) > 0 {
		line("raw header", "%q", l.RawHeader)
	}
	if w.Stack != "" {
		fmt.Fprintf(&b, "stack\n%s\n", printable(w.Stack))
	}
	fmt.Fprintf(&b, "payload        %d bytes\n%s\n", w.Size, printable(w.Payload))
	_, err := fmt.Fprint(a.out, b.String())
	return err
}
