package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
)

const dlqPage = 100

func (a *app) dlqListCommand() *cobra.Command {
	var f dlqFilter
	var limit int
	c := &cobra.Command{
		Use: "ls", Short: "List dead letters, oldest first", Args: exactly(0),
		Long: `Lists dead letters, oldest first. The state is "open", "replayed", "resolved" (its key is consumed, or died again with a later
letter), or "unknown" where the store cannot tell.
` + storeNoteDLQ,
		Example: `  idemq dlq ls --stream ORDERS --durable billing --since 1h
  idemq dlq ls --class permanent --text timeout --limit 0 --json | jq -r 'select(.resolved | not) | .id'`,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := f.filter()
			if err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit must not be negative")
			}
			return a.withLetters(c.Context(), func(l *letters) error { return a.dlqList(c.Context(), l, filter, limit) })
		},
	}
	f.flags(c)
	f.keyFlag(c)
	c.Flags().IntVar(&limit, "limit", dlqPage, "how many at most; 0 is all")
	return c
}

func (a *app) dlqList(ctx context.Context, l *letters, f deadletter.Filter, limit int) error {
	var page []deadletter.Entry
	listed := 0
	flush := func() error {
		resolved, err := l.fates(ctx, page)
		if err != nil {
			return err
		}
		for i := range page {
			if !a.json && listed == 0 {
				fmt.Fprintf(a.out, dlqRow, "ID", "STATE", "CLASS", "GEN", "AGE", "STREAM/DURABLE", "KEY", "ERROR")
			}
			listed++
			e := entryOf(&page[i], resolved[i])
			if err := a.printEntry(&e); err != nil {
				return err
			}
		}
		page = page[:0]
		return nil
	}
	for e, err := range l.queue.List(ctx, f) {
		if errors.Is(err, consumer.ErrNotLetter) {
			fmt.Fprintf(a.err, "idemq: left out: %s\n", printable(err.Error()))
			continue
		}
		if err != nil {
			return err
		}
		if limit > 0 && listed+len(page) == limit {
			fmt.Fprintf(a.err, "there are more than %d; narrow the filter, or see all with --limit 0\n", limit)
			break
		}
		page = append(page, e)
		if len(page) == fatesAtOnce {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if listed == 0 {
		fmt.Fprintln(a.err, "no dead letters")
	}
	return nil
}

func (a *app) printEntry(e *dlqEntry) error {
	if a.json {
		return a.print(e)
	}
	return a.printRow(e)
}
