package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/idemq/idemq/dedup"
)

// keyRecord is a record as "key show" prints it.
type keyRecord struct {
	Key         string `json:"key"`
	Scope       string `json:"scope"`
	State       string `json:"state"`
	Attempt     int    `json:"attempt"`
	Generation  int    `json:"generation"`
	Fence       uint64 `json:"fence"`
	Owner       string `json:"owner"`
	Fingerprint string `json:"fingerprint"`
	LeaseLeft   int64  `json:"lease_left_ms"`
	ExpiresIn   int64  `json:"expires_in_ms"`
	Cause       string `json:"cause"`
}

func recordOf(r *dedup.Record) keyRecord {
	cause := r.Cause.Message
	if r.Cause.Class != "" {
		cause = string(r.Cause.Class) + ": " + cause
	}
	return keyRecord{
		Key: r.Key.ID, Scope: r.Key.Scope, State: r.State.String(), Attempt: r.Attempt, Generation: r.Generation,
		Fence: uint64(r.Fence), Owner: string(r.Nonce), Fingerprint: r.Fingerprint.String(),
		LeaseLeft: r.LeaseLeft().Milliseconds(), ExpiresIn: r.ExpiresIn().Milliseconds(), Cause: cause,
	}
}

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "key", Short: "Look at what is remembered of keys, and forget one",
		Example: `  idemq key show order-4711 --scope ORDERS/billing
  idemq key list --scope ORDERS/billing --state dead
  idemq key forget order-4711 --scope ORDERS/billing`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see idemq key --help", args[0])
			}
			return nil
		}, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.keyShowCommand(), a.keyListCommand(), a.keyForgetCommand())
	return c
}

// scopeFlag adds --scope to a command about keys.
func scopeFlag(c *cobra.Command, scope *string) *cobra.Command {
	c.Flags().StringVar(scope, "scope", "", "whose memory: STREAM/DURABLE unless the worker was given another (required)")
	return c
}

// withKey opens the store of a key's scope for fn.
func (a *app) withKey(ctx context.Context, k dedup.Key, fn func(dedup.Inspector) error) error {
	if err := k.Validate(); err != nil {
		return &exitError{exitUsage, fmt.Errorf("%w; give the key and --scope STREAM/DURABLE", err)}
	}
	return a.withScope(ctx, k.Scope, fn)
}

func (a *app) withScope(ctx context.Context, scope string, fn func(dedup.Inspector) error) error {
	if err := dedup.ValidateScope(scope); err != nil {
		return &exitError{exitUsage, fmt.Errorf("--scope: %w", err)}
	}
	o, err := a.operate(ctx, false)
	if err != nil {
		return err
	}
	defer func() { o.close() }() // it grows
	s, err := o.storeOfScope(ctx, scope)
	if err != nil {
		return err
	}
	inspector, err := inspect(s)
	if err != nil {
		return err
	}
	return fn(inspector)
}

func inspect(s dedup.Store) (dedup.Inspector, error) {
	i, ok := s.(dedup.Inspector)
	if !ok {
		return nil, errors.New("this kind of store cannot be looked into")
	}
	return i, nil
}

const storeNote = `Without --store the store is the one that the scope's worker has noted at its durable consumer, and a store that is
given must be that one.`

func (a *app) keyShowCommand() *cobra.Command {
	var scope string
	return scopeFlag(&cobra.Command{
		Use: "show KEY --scope STREAM/DURABLE", Short: "Print the record of a key as JSON", Args: exactly(1),
		Long:    "Prints the record of a key as one JSON object, with the steps of its handler that are done, if it has any. Exit code 3 if nothing is remembered of it.\n" + storeNote,
		Example: `  idemq key show order-4711 --scope ORDERS/billing --store redis://127.0.0.1:6379`,
		RunE: func(c *cobra.Command, args []string) error {
			k := dedup.Key{Scope: scope, ID: args[0]}
			return a.withKey(c.Context(), k, func(s dedup.Inspector) error {
				r, err := s.Get(c.Context(), k)
				if errors.Is(err, dedup.ErrNotFound) {
					return &exitError{exitNothingFound, fmt.Errorf("nothing is remembered of %s", k)}
				}
				if err != nil {
					return err
				}
				whole, err := wholeOf(c.Context(), s, &r)
				if err != nil {
					return err
				}
				return a.print(whole)
			})
		},
	}, &scope)
}
