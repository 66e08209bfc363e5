package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) dlqDiscardCommand() *cobra.Command {
	var s selection
	var force bool
	c := &cobra.Command{
		Use: "discard ID… | --all", Short: "Remove dead letters for good",
		Long: `Removes dead letters, with their messages, for good. Their keys stay dead. It asks on a terminal; elsewhere it needs --force.
Exit code 3 if an id is not there; nothing is removed then.`,
		Example: `  idemq dlq discard 3f2a9c01
  idemq dlq discard --all --stream ORDERS --durable billing --class missing_key --force`,
		RunE: func(c *cobra.Command, ids []string) error {
			if err := s.check(ids); err != nil {
				return err
			}
			return a.withLetters(c.Context(), func(l *letters) error { return a.dlqDiscard(c.Context(), l, ids, s, force) })
		},
	}
	s.flags(c)
	s.keyFlag(c)
	c.Flags().BoolVar(&force, "force", false, "do not ask")
	return c
}

func (a *app) dlqDiscard(ctx context.Context, l *letters, ids []string, s selection, force bool) error {
	selected, err := s.freeze(ctx, l, ids)
	if err != nil {
		return err
	}
	if len(selected) > 0 && !force {
		if err := a.confirm(fmt.Sprintf("Discard %d dead letters with their messages, for good?", len(selected))); err != nil {
			return err
		}
	}
	bar := a.progress(len(selected))
	discarded := 0
	begun, cancel := unlessRefused(ctx)
	defer cancel()
	var failed error
	for i := range selected {
		if failed = ctx.Err(); failed == nil {
			failed = l.queue.Discard(begun, selected[i])
		}
		if failed != nil {
			break
		}
		discarded++
		bar.add()
	}
	bar.finish()
	if a.json {
		err = a.print(struct {
			Selected  int `json:"selected"`
			Discarded int `json:"discarded"`
		}{len(selected), discarded})
	} else {
		_, err = fmt.Fprintf(a.out, "discarded %d of %d\n", discarded, len(selected))
	}
	if failed != nil {
		return fmt.Errorf("stopped after %d of %d: %w; give the same command again to go on", discarded, len(selected), failed)
	}
	return err
}
