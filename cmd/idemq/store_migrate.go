package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) storeCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "store", Short: "Look after the place where records are kept",
		Example: "  idemq store migrate postgres://app@127.0.0.1:5432/orders",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see idemq store --help", args[0])
			}
			return nil
		}, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.storeMigrateCommand())
	return c
}

func (a *app) storeMigrateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "migrate [URL]", Short: "Make the tables of a database store, or bring them up to date",
		Long: `Makes the tables idemq_… in a Postgres or SQLite database, or brings those of an older version up to date. It changes
nothing if there is nothing to change, and many processes may do it at once. A schema that is newer than this program is
left alone. Without URL it takes --store or IDEMQ_STORE, where a password is in no list of processes.`,
		Example: `  idemq store migrate postgres://app@127.0.0.1:5432/orders
  idemq store migrate sqlite://orders.db
  IDEMQ_STORE=postgres://app:secret@db.example.com/orders idemq store migrate`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one URL; see %s --help", c.CommandPath(), c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				a.store = args[0]
			}
			return a.storeMigrate(c.Context())
		},
	}
}

func (a *app) storeMigrate(ctx context.Context) error {
	if a.store == "" {
		return usagef("name the database: idemq store migrate postgres://… or sqlite://FILE")
	}
	if !a.isSQL() {
		return usagef("the store %s has no tables to make; only postgres:// and sqlite:// have", redact(a.store))
	}
	if err := a.migrate(ctx); err != nil {
		return err
	}
	if a.json {
		return a.print(struct {
			Store string `json:"store"`
		}{redact(a.store)})
	}
	_, err := fmt.Fprintf(a.out, "the tables of %s are up to date\n", printable(redact(a.store)))
	return err
}
