package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/idemq/idemq/dedup"
)

func (a *app) keyListCommand() *cobra.Command {
	var scope string
	var states []string
	var limit int
	c := scopeFlag(&cobra.Command{
		Use: "list --scope STREAM/DURABLE", Short: "List what is remembered in a scope", Args: exactly(0),
		Long: "Lists the records of a scope, in no particular order. Exit code 1 if one cannot be read.\n" + storeNote,
		Example: `  idemq key list --scope ORDERS/billing --state dead --state dead-owed
  idemq key list --scope ORDERS/billing --json | jq -r 'select(.attempt > 1) | .key'`,
		RunE: func(c *cobra.Command, _ []string) error {
			f := dedup.Filter{Scope: scope}
			for _, name := range states {
				s, ok := dedup.ParseState(name)
				if !ok || s == dedup.Absent {
					return usagef("--state %q: use acquired, failed, consumed, dead-owed or dead", name)
				}
				f.States = append(f.States, s)
			}
			if limit < 0 {
				return usagef("--limit must not be negative")
			}
			return a.withScope(c.Context(), scope, func(s dedup.Inspector) error { return a.keyList(c.Context(), s, f, limit) })
		},
	}, &scope)
	c.Flags().StringSliceVar(&states, "state", nil, "acquired, failed, consumed, dead-owed or dead; may be repeated (default: all)")
	c.Flags().IntVar(&limit, "limit", 0, "how many at most; 0 is all")
	return c
}

func (a *app) keyList(ctx context.Context, s dedup.Inspector, f dedup.Filter, limit int) error {
	n := 0
	var unreadable []error
	for r, err := range s.List(ctx, f) {
		switch {
		case errors.Is(err, dedup.ErrUnreadable):
			unreadable = append(unreadable, err)
			continue
		case err != nil:
			return err
		}
		if !a.json && n == 0 {
			fmt.Fprintf(a.out, "%-10s %7s %4s %12s  %s\n", "STATE", "ATTEMPT", "GEN", "EXPIRES IN", "KEY")
		}
		if err := a.printRecord(&r); err != nil {
			return err
		}
		if n++; limit > 0 && n == limit {
			break
		}
	}
	if len(unreadable) > 0 {
		return errors.Join(unreadable...)
	}
	if n == 0 {
		fmt.Fprintf(a.err, "nothing is remembered in the scope %s\n", printable(f.Scope))
	}
	return nil
}

func (a *app) printRecord(r *dedup.Record) error {
	if a.json {
		return a.print(recordOf(r))
	}
	_, err := fmt.Fprintf(a.out, "%-10s %7d %4d %12s  %s\n", r.State, r.Attempt, r.Generation, r.ExpiresIn().Round(time.Second), printable(r.Key.ID))
	return err
}
