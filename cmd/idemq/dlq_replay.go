package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

type replayFlags struct {
	selection
	options deadletter.ReplayOptions
	rate    string
	dryRun  bool
	limit   rate.Limit
}

func (a *app) dlqReplayCommand() *cobra.Command {
	var o replayFlags
	c := &cobra.Command{
		Use: "replay ID… | --all", Short: "Send dead letters through their handlers again, each under its own key",
		Long: `Replays dead letters: each goes to its own consumer once more, under the same idempotency key, so that replaying twice runs once.
What was consumed meanwhile, or died again with a later letter, is left alone. A letter that was replayed stays, marked; it
is replayed once more only with --again. Letters of the classes missing_key, malformed and conflict have no key of their
own: give --new-key, or --key K for a single one. --all takes the letters that there are when it begins.

With ids --key is the key to replay under; with --all it is a filter.
Exit code 3 if an id is not there (nothing is replayed then), 1 if a replay failed or was interrupted.
` + storeNoteDLQ,
		Example: `  idemq dlq replay 3f2a9c01
  idemq dlq replay --all --stream ORDERS --durable billing --class exhausted --dry-run
  idemq dlq replay --all --stream ORDERS --durable billing --class exhausted --rate 20/s
  idemq dlq replay 77b10fe2 --new-key            # its message came without a key`,
		RunE: func(c *cobra.Command, ids []string) error {
			if err := o.check(ids); err != nil {
				return err
			}
			return a.withLetters(c.Context(), func(l *letters) error { return a.dlqReplay(c.Context(), l, ids, o) })
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringVar(&o.key, "key", "", "with one id: the key for a letter that has none of its own; with --all: only letters of this key")
	f.BoolVar(&o.options.NewKey, "new-key", false, "give letters without a key of their own one, always the same for the same message")
	f.BoolVar(&o.options.ToOrigin, "to-origin", false, "send to the original subject instead: every consumer of the stream gets it")
	f.BoolVar(&o.options.Again, "again", false, "also what was replayed before, or is older than dead keys are remembered")
	f.StringVar(&o.rate, "rate", "", "how many at most, such as 20/s or 100/m (default: as fast as it goes)")
	f.BoolVar(&o.dryRun, "dry-run", false, "count by class and change nothing")
	return c
}

func (o *replayFlags) check(ids []string) (err error) {
	if err := o.selection.check(ids); err != nil {
		return err
	}
	if o.limit, err = parseRate(o.rate); err != nil {
		return err
	}
	if o.all {
		return nil
	}
	o.options.Key, o.key = o.key, ""
	switch {
	case o.options.Key != "" && o.options.NewKey:
		return usagef("--key and --new-key exclude each other")
	case o.options.Key != "" && len(ids) > 1:
		return usagef("--key gives one letter its key; two letters under one key would be one operation. Replay them one by one, or use --new-key")
	case o.options.Key != "":
		if err := dedup.ValidateID(o.options.Key); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	return nil
}

// parseRate reads "20/s", "100/m", "5/h", or "20" for a second.
func parseRate(s string) (rate.Limit, error) {
	if s == "" {
		return rate.Inf, nil
	}
	number, unit, _ := strings.Cut(s, "/")
	per, ok := map[string]time.Duration{"": time.Second, "s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !ok || !(n > 0) || n > 1e9 {
		return 0, usagef("--rate %q: use a number a second, minute or hour, such as 20/s, 100/m or 5/h", s)
	}
	return rate.Limit(n / per.Seconds()), nil
}

// maxFailuresInARow is after how many a bulk replay stops: what they failed of concerns the rest as well.
const maxFailuresInARow = 10

// replayTotal counts what came of a bulk replay.
type replayTotal struct {
	Selected        int  `json:"selected"`
	Published       int  `json:"published"`
	AlreadyThere    int  `json:"already_there"`
	Resolved        int  `json:"resolved"`
	AlreadyReplayed int  `json:"already_replayed"`
	NeedsKey        int  `json:"needs_key"`
	Failed          int  `json:"failed"`
	Unmarked        int  `json:"unmarked"`
	Interrupted     bool `json:"interrupted"`
}

func (t *replayTotal) done() int {
	return t.Published + t.AlreadyThere + t.Resolved + t.AlreadyReplayed + t.NeedsKey + t.Failed
}

func (a *app) dlqReplay(ctx context.Context, l *letters, ids []string, o replayFlags) error {
	selected, err := o.freeze(ctx, l, ids)
	if err != nil {
		return err
	}
	if o.dryRun {
		return a.byClass(selected)
	}
	if len(selected) > 0 {
		if err := l.replay.Ensure(ctx); err != nil {
			return err
		}
	}
	t := replayTotal{Selected: len(selected)}
	err = a.replayAll(ctx, l, selected, o, &t)
	if err := errors.Join(err, a.printReplayTotal(&t)); err != nil {
		return err
	}
	switch {
	case t.Interrupted:
		return fmt.Errorf("interrupted after %d of %d; to go on, give the same command again: what was replayed is marked and left out", t.done(), t.Selected)
	case t.Failed > 0 || t.Unmarked > 0:
		return fmt.Errorf("%d of %d failed or were refused, %d could not be marked; the same command can be given again, nothing runs twice by it",
			t.Failed, t.Selected, t.Unmarked)
	}
	return nil
}

// replayAll replays what was selected until it is done or the context ends. An error means that nothing more can be done.
func (a *app) replayAll(ctx context.Context, l *letters, selected []deadletter.Entry, o replayFlags, t *replayTotal) error {
	limiter := rate.NewLimiter(o.limit, 1)
	bar := a.progress(len(selected))
	defer bar.finish()
	inARow := 0
	for i := range selected {
		// Without a rate the limiter does not look at the context.
		if ctx.Err() != nil || limiter.Wait(ctx) != nil {
			t.Interrupted = true
			return nil
		}
		failed := t.Failed
		if err := a.replayOne(ctx, l, &selected[i], o, t); err != nil {
			return err
		}
		bar.add()
		if inARow++; t.Failed == failed {
			inARow = 0
		}
		if last := i+1 == len(selected); !last && (inARow == maxFailuresInARow || inARow > 0 && l.nc.Status() != nats.CONNECTED) {
			t.Interrupted = true
			return nil
		}
	}
	return nil
}

// replayOne replays an entry and counts what came of it. An error ends the whole: the rest would fail alike.
func (a *app) replayOne(ctx context.Context, l *letters, e *deadletter.Entry, o replayFlags, t *replayTotal) error {
	r, err := l.replayer(ctx, e.Letter, true)
	if err != nil {
		return err
	}
	options := o.options
	if o.all && e.Letter.Class.HasRecord() {
		options.NewKey = false // it is for those that have none
	}
	// Not to be cut off in the middle by a signal: what was begun is finished, or failed by its own time-outs.
	begun, cancel := unlessRefused(ctx)
	defer cancel()
	res, err := r.Replay(begun, *e, options)
	outcome := res.Outcome.String()
	switch {
	case err == nil && res.Outcome == deadletter.Resolved:
		t.Resolved++
	case err == nil && res.Outcome == deadletter.AlreadyThere:
		t.AlreadyThere++
	case err == nil:
		t.Published++
	case o.all && errors.Is(err, deadletter.ErrReplayed):
		t.AlreadyReplayed++
		outcome, err = "already-replayed", nil
	case o.all && errors.Is(err, deadletter.ErrKeyNeeded):
		t.NeedsKey++
		outcome, err = "needs-key", nil
	default:
		t.Failed++
		outcome, err = "failed", withFlag(err)
	}
	if res.Unmarked != nil {
		t.Unmarked++
		err = fmt.Errorf("it is replayed, but could not be marked, and may be repeated: %w", res.Unmarked)
	}
	return a.printReplayed(e, res.Key, outcome, err)
}

// withFlag names the flag that an error of the library asks for.
func withFlag(err error) error {
	for cause, flag := range map[error]string{
		deadletter.ErrReplayed: "--again, which is safe: what is consumed stays so", deadletter.ErrTooOld: "--again",
		deadletter.ErrKeyNeeded: "--new-key, or --key K", deadletter.ErrOrigin: "leave out --to-origin",
	} {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w: %s", err, flag)
		}
	}
	return err
}

func (a *app) printReplayed(e *deadletter.Entry, key, outcome string, err error) error {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if a.json {
		return a.print(struct {
			ID      string `json:"id"`
			Key     string `json:"key"`
			Outcome string `json:"outcome"`
			Error   string `json:"error"`
		}{e.ID, key, outcome, text})
	}
	if err != nil {
		fmt.Fprintf(a.err, "%s %s: %s\n", e.ID[:min(len(e.ID), shortID)], outcome, printable(text))
	}
	return nil
}

func (a *app) printReplayTotal(t *replayTotal) error {
	if a.json {
		return a.print(t)
	}
	_, err := fmt.Fprintf(a.out, "selected %d, published %d, already there %d, resolved %d, already replayed %d, without a key %d, failed %d, unmarked %d\n",
		t.Selected, t.Published, t.AlreadyThere, t.Resolved, t.AlreadyReplayed, t.NeedsKey, t.Failed, t.Unmarked)
	if err == nil && t.NeedsKey > 0 {
		fmt.Fprintln(a.err, "letters without a key of their own were left out; --new-key gives them one")
	}
	return err
}
