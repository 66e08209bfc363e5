package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/idemq/idemq/dedup"
)

func (a *app) keyForgetCommand() *cobra.Command {
	var scope string
	var force bool
	c := scopeFlag(&cobra.Command{
		Use: "forget KEY --scope STREAM/DURABLE", Short: "Forget a key, so that its next message runs again", Args: exactly(1),
		Long: `Removes the record of a key. What was done under it can be done again after that: the next message with the key runs.
It asks on a terminal; elsewhere, and while a lease runs, it needs --force. Exit code 3 if nothing is remembered.
` + storeNote,
		Example: `  idemq key forget order-4711 --scope ORDERS/billing
  idemq key forget order-4711 --scope ORDERS/billing --force   # in a script, or while somebody is at it`,
		RunE: func(c *cobra.Command, args []string) error {
			k := dedup.Key{Scope: scope, ID: args[0]}
			return a.withKey(c.Context(), k, func(s dedup.Inspector) error { return a.keyForget(c.Context(), s, k, force) })
		},
	}, &scope)
	c.Flags().BoolVar(&force, "force", false, "do not ask, and forget it even while a lease runs")
	return c
}

func (a *app) keyForget(ctx context.Context, s dedup.Inspector, k dedup.Key, force bool) error {
	r, err := s.Get(ctx, k)
	state := r.State.String()
	switch {
	case errors.Is(err, dedup.ErrNotFound):
		return &exitError{exitNothingFound, fmt.Errorf("nothing is remembered of %s", k)}
	case errors.Is(err, dedup.ErrUnreadable): // to forget it is the way out
		state = "unreadable"
	case err != nil:
		return err
	}
	if !force {
		question := fmt.Sprintf("Forget %s (%s)? Its next message will run, whatever was done before", k, state)
		if err := a.confirm(question); err != nil {
			return err
		}
	}
	switch err := s.Forget(ctx, k, force); {
	case errors.Is(err, dedup.ErrNotFound): // somebody was faster
	case errors.Is(err, dedup.ErrLeaseRunning):
		return fmt.Errorf("%s: %w with --force", k, err)
	case err != nil:
		return err
	}
	if a.json {
		return a.print(struct {
			Key       string `json:"key"`
			Scope     string `json:"scope"`
			Forgotten bool   `json:"forgotten"`
		}{k.ID, k.Scope, true})
	}
	_, err = fmt.Fprintf(a.out, "forgotten: %s\n", k)
	return err
}
