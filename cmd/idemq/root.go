package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
)

// Exit codes, as the help says.
const (
	exitFine = iota
	exitFailed
	exitUsage
	exitNothingFound
	exitInvariant
)

// exitError carries an exit code with an error.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

const defaultLogLevel = "warn"

// app is what the commands share: the global flags and the streams.
type app struct {
	nats, store, logLevel string // nats is the URL, once link has settled it
	settled               link   // how to connect, once that is known
	given                 func(flag string) (value string, onCommandLine bool)
	json                  bool
	mustExist             bool   // the store is not created if it is missing
	durable               string // see --durable-store; once prepared, part of store
	wait                  time.Duration
	in                    io.Reader
	out, err              io.Writer
	log                   *slog.Logger
	refusals              *refusals
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut, refusals: &refusals{}}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	ctx, a.refusals.end = context.WithCancelCause(ctx)
	defer a.refusals.end(nil)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitFine
	}
	if r := refusal(ctx); r != nil {
		err = r // what failed, failed of it
	}
	fmt.Fprintln(errOut, "idemq:", printable(strings.TrimPrefix(err.Error(), "idemq: ")))
	if e := (*exitError)(nil); errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

const rootLong = `idemq makes message consumers idempotent: every message bears an idempotency key, and what has been
done under a key is not done again.

Data goes to standard output, logs and progress to standard error.
Exit codes: 0 fine, 1 failed, 2 usage, 3 nothing found, 4 an invariant is broken.`

const rootExample = `  idemq demo                                     # watch it: duplicates, failures, a killed worker
  idemq dev --data ./nats-data                   # a NATS server to try things on
  export IDEMQ_STORE=kv                          # keep records in JetStream KV, or redis://127.0.0.1:6379
  idemq publish orders.created --key order-4711 --data '{"id":4711}'
  idemq consume --stream ORDERS --durable billing --subjects 'orders.>' --create --exec ./bill.sh
  idemq key show order-4711 --scope ORDERS/billing
  idemq publish orders.created --context production --data x
  idemq publish orders.created --nats tls://nats.example.com --creds ~/app.creds --data x`

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use: "idemq", Short: "Idempotent message consumers", Long: rootLong + connectionHelp, Example: rootExample,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.prepare() },
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see idemq --help", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	f := c.PersistentFlags()
	a.connectionFlags(c)
	f.StringVar(&a.store, "store", os.Getenv("IDEMQ_STORE"), "where records are kept: redis://…, rediss://…, kv (JetStream KV), postgres://…, sqlite://FILE, memory:// (default from IDEMQ_STORE)")
	f.StringVar(&a.durable, "durable-store", os.Getenv("IDEMQ_DURABLE_STORE"), "what remembers behind a Redis that may forget: postgres://…, sqlite://FILE or kv (default from IDEMQ_DURABLE_STORE)")
	f.Lookup("store").DefValue, f.Lookup("durable-store").DefValue = "", "" // help must not show a password
	f.BoolVar(&a.json, "json", false, "print JSON, one object a line")
	f.StringVar(&a.logLevel, "log-level", defaultLogLevel, "debug, info, warn or error")
	f.DurationVar(&a.wait, "wait", 0, "how long to wait for servers that cannot be reached at the start")
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usagef("%w; see %s --help", err, c.CommandPath()) })
	c.AddCommand(a.demoCommand(), a.devCommand(), a.publishCommand(), a.consumeCommand(), a.keyCommand(), a.dlqCommand(), a.storeCommand(), a.manCommand(), a.demoWorkerCommand())
	return c
}

func (a *app) prepare() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return usagef("--log-level %q: use debug, info, warn or error", a.logLevel)
	}
	if a.durable != "" {
		if a.store == "" {
			return usagef("--durable-store stands behind a store; name that with --store or IDEMQ_STORE")
		}
		a.store = joinTiers(a.store, a.durable)
	}
	a.log = slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	redis.SetLogger(redisLogger{a.log})
	return nil
}

// redisLogger takes what go-redis would write to standard error; the errors that matter are returned too.
type redisLogger struct{ log *slog.Logger }

func (l redisLogger) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, v...))
}

// exactly is cobra.ExactArgs with the exit code for usage.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %d argument(s), not %d; see %s --help", c.CommandPath(), n, len(args), c.CommandPath())
		}
		return nil
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
