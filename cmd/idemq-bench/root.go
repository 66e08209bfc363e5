package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
)

// Exit codes, as the help says.
const (
	exitFine        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// usageError is an error in what was asked for.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	redis.SetLogger(silent{}) // the errors that matter are returned too
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	switch usage := (*usageError)(nil); {
	case err == nil:
		return exitFine
	case ctx.Err() != nil:
		fmt.Fprintln(errOut, "idemq-bench: interrupted; its servers are stopped and their data is removed")
		return exitInterrupted
	case errors.As(err, &usage):
		fmt.Fprintln(errOut, "idemq-bench:", err)
		return exitUsage
	default:
		fmt.Fprintln(errOut, "idemq-bench:", err)
		return exitFailed
	}
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

const rootLong = `idemq-bench measures what deduplication costs a consumer of JetStream messages.

The same messages go through each mode in turn, in every round, so that all modes see the same machine. It starts a NATS
server (a process of its own, files on disk) and a redis-server from PATH, unless their URLs are given, and removes them.
Ratios between the modes are what to look at; absolute figures depend on the machine and on what else runs on it.

With --growth it fills a Redis with more and more remembered keys, beside one that stays small, and compares the two.
With --memory it counts the bytes for a remembered key in each layout.

Modes:
%s
Figures:
  msg/s             from the first handler's begin until the last message is done: handled, remembered and acknowledged, or
                    acknowledged as a duplicate. Median over the rounds, with the smallest and the largest
  of raw, × naive   the median of the ratios within each round, to the modes raw and naive with the same workers
  added latency     from publishing to done at --latency-rate, less what raw takes: the median, and the 99th percentile;
                    "behind" where the mode cannot keep up with that rate
  allocs, bytes     of this process, for a message
  Redis cmds        for a message, those within scripts included
  CPU µs            of this process, of Redis and of nats-server, for a message; only of servers that were started here

Results go to standard output, progress to standard error. There are colours on a terminal only, unless NO_COLOR is set.
Exit codes: 0 fine, 1 failed, 2 usage, 130 ended by a signal.`

const rootExample = `  idemq-bench                                                  # all modes, 1 to 256 workers; some minutes
  idemq-bench --workers 64 --rounds 3 --messages 10000         # a quick look
  idemq-bench --workers 64 --modes raw,naive,idemq --latency-rate 15000
  idemq-bench --duplicates 0.5 --plot duplicates.svg           # half of the messages are duplicates
  idemq-bench --handler-time 2ms --messages 4000               # handlers that do something
  idemq-bench --confirm-acks --modes raw,watermill,wmidem      # every ack confirmed by the server
  idemq-bench --json > result.json
  idemq-bench --growth --keys 1000000 --plot growth.svg
  idemq-bench --memory --keys 1000000
  idemq-bench --nats nats://127.0.0.1:4222 --redis redis://127.0.0.1:6379`

func rootCommand() *cobra.Command {
	var s settings
	var about strings.Builder
	for _, m := range allModes() {
		fmt.Fprintf(&about, "  %-17s %s\n", m.name, m.about)
	}
	c := &cobra.Command{
		Use: "idemq-bench", Short: "Measure what deduplication costs", Long: fmt.Sprintf(rootLong, about.String()), Example: rootExample,
		SilenceUsage: true, SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown argument %q; see idemq-bench --help", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			s.keysGiven = c.Flags().Changed("keys")
			if err := s.check(); err != nil {
				return err
			}
			return execute(c.Context(), s, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.IntSliceVar(&s.workers, "workers", []int{1, 16, 64, 256}, "handlers that run at once; a list, one comparison for each")
	f.IntVar(&s.messages, "messages", 20000, "messages for each mode in each round; with fewer than four workers, that part of it")
	f.IntVar(&s.payload, "payload", 256, "bytes of a message, its headers not included")
	f.Float64Var(&s.duplicates, "duplicates", 0, "part of the messages that are duplicates of earlier ones, 0 to 0.99")
	f.DurationVar(&s.handlerTime, "handler-time", 0, "how long a handler waits; 0 for one that does nothing")
	f.IntVar(&s.rounds, "rounds", 5, "how often everything is measured")
	f.StringSliceVar(&s.modes, "modes", nil, "only these modes (default all)")
	f.IntVar(&s.latencyRate, "latency-rate", 5000, "messages a second at which latency is measured, for a second at most; 0 for not at all")
	f.BoolVar(&s.confirm, "confirm-acks", false, "every mode has its acks confirmed by the server")
	f.StringVar(&s.nats, "nats", "", "NATS server with JetStream (default: one is started)")
	f.StringVar(&s.redis, "redis", "", "Redis server, redis://… or rediss://…; it is not emptied (default: one is started)")
	f.BoolVar(&s.aof, "aof", false, "the Redis that is started writes an append-only file, appendfsync everysec")
	f.BoolVar(&s.growth, "growth", false, "measure throughput and memory while more and more keys are remembered")
	f.BoolVar(&s.memory, "memory", false, "measure the bytes for a remembered key, in each layout")
	f.IntVar(&s.keys, "keys", 0, "how many keys to remember: --growth goes up to that (default 10000000), --memory keeps that many (default 1000000)")
	f.BoolVar(&s.json, "json", false, "print one JSON object instead of tables")
	f.StringVar(&s.plot, "plot", "", "draw the result into this SVG file")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%w; see idemq-bench --help", err) })
	c.AddCommand(natsCommand())
	c.CompletionOptions.HiddenDefaultCmd = true
	return c
}

// execute does what the settings ask for.
func execute(ctx context.Context, s settings, out, errOut io.Writer) (err error) {
	begun := time.Now()
	srv, err := startServers(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	p := newProgress(errOut)
	defer p.end() // an error is printed below the bar
	p.note("NATS %s, Redis %s", redact(srv.natsURL), redact(srv.redisURL))
	r := &report{Settings: s.published()}
	if r.Machine, err = describeMachine(ctx, srv); err != nil {
		return err
	}
	switch {
	case s.growth:
		r.Growth, err = measureGrowth(ctx, s, srv, p)
	case s.memory:
		r.Memory, err = measureMemory(ctx, s, srv, p)
	default:
		r.Results, err = compare(ctx, s, srv, p)
	}
	if err != nil {
		return err
	}
	p.end()
	r.Seconds = time.Since(begun).Seconds()
	if s.plot != "" {
		if err := drawReport(r, s.plot); err != nil {
			return err
		}
		p.note("drawn into %s", s.plot)
	}
	return r.print(out, s.json)
}
