package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
)

// Exit codes of --exec, after sysexits.h: EX_DATAERR and EX_TEMPFAIL.
const exitPermanent = 65

type consumeFlags struct {
	stream, durable, exec string
	subjects              []string
	create                bool
	workers, maxAttempts  int
	lease, retention      time.Duration
	grace, idleExit       time.Duration
}

func (a *app) consumeCommand() *cobra.Command {
	var o consumeFlags
	c := &cobra.Command{
		Use: "consume --stream S --durable D --exec CMD", Short: "Run a command once for each message", Args: exactly(0),
		Long: `Runs CMD through "sh -c" for each message, once for each idempotency key. The payload is on standard input;
IDEMQ_KEY, IDEMQ_FENCE, IDEMQ_ATTEMPT, IDEMQ_SUBJECT, IDEMQ_STREAM and IDEMQ_SEQ are in the environment.

Exit code 0 of CMD: done. 65: it will never work, make a dead letter. 75 or any other: try again later.
CMD and its children are ended (SIGTERM, then SIGKILL) when the lease is lost, and when a shutdown's grace period is over.
A child that leaves CMD's process group (setsid) is not reached; if idemq itself is killed with SIGKILL, CMD dies with it
on Linux, and its children go on.
With --json, what CMD prints goes to standard error, so that standard output holds nothing but JSON.`,
		Example: `  idemq consume --stream ORDERS --durable billing --subjects 'orders.>' --create --exec ./bill.sh
  idemq consume --stream ORDERS --durable billing --workers 4 --max-attempts 3 --idle-exit 2s --json --exec 'cat >> paid'`,
		RunE: func(c *cobra.Command, _ []string) error { return a.consume(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.stream, "stream", "", "stream to consume (required)")
	f.StringVar(&o.durable, "durable", "", "durable consumer, named exactly so (required)")
	f.StringVar(&o.exec, "exec", "", "command to run (required)")
	f.StringSliceVar(&o.subjects, "subjects", nil, "subjects of the stream, for --create")
	f.BoolVar(&o.create, "create", false, "create stream and durable if they are not there; may be repeated")
	f.IntVar(&o.workers, "workers", natsidem.DefaultWorkers, "how many run at once")
	f.DurationVar(&o.lease, "lease", dedup.DefaultLease, "how long a claim holds without a heartbeat")
	f.IntVar(&o.maxAttempts, "max-attempts", dedup.DefaultMaxAttempts, "tries before a message becomes a dead letter")
	f.DurationVar(&o.retention, "retention", dedup.DefaultRetention, "how long a key is remembered")
	f.DurationVar(&o.grace, "grace", natsidem.DefaultGrace, "how long what runs may take to finish on SIGINT and SIGTERM")
	f.DurationVar(&o.idleExit, "idle-exit", 0, "end when nothing is left to do for that long, retries included")
	return c
}

func (o consumeFlags) check() error {
	switch {
	case o.stream == "" || o.durable == "" || o.exec == "":
		return usagef("--stream, --durable and --exec are required; see idemq consume --help")
	case o.workers < 1 || o.maxAttempts < 1:
		return usagef("--workers and --max-attempts must be 1 or more")
	case o.idleExit < 0 || o.grace <= 0:
		return usagef("--idle-exit must not be negative, --grace must be positive")
	case len(o.subjects) > 0 && !o.create:
		return usagef("--subjects goes with --create")
	}
	return nil
}

func (a *app) consume(ctx context.Context, o consumeFlags) error {
	if err := o.check(); err != nil {
		return err
	}
	if _, _, err := a.storeKind(); err != nil {
		return err // before anything is connected: it is the command line that is wrong
	}
	a.refusals.survives = workerSurvives
	nc, js, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	store, closeStore, err := a.openStore(ctx, js)
	if err != nil {
		return err
	}
	defer closeStore()
	d, err := dedup.New(store, dedup.Config{Lease: o.lease, MaxAttempts: o.maxAttempts, Retention: o.retention})
	if err != nil {
		return &exitError{exitUsage, err}
	}
	cfg := natsidem.Config{Workers: o.workers, Grace: o.grace, IdleExit: o.idleExit}
	cfg.Logger = a.log
	if err := a.checkServers(ctx, js, store, o); err != nil {
		return err
	}
	if o.create {
		if _, err := natsidem.EnsureConsumer(ctx, js, o.stream, o.subjects, o.durable, d, cfg); err != nil {
			return err
		}
	}
	w, err := natsidem.New(js, o.stream, o.durable, d, a.execHandler(o.exec), cfg)
	if err != nil {
		return err
	}
	return errors.Join(w.Run(ctx), a.summary(w.Stats()), refusal(ctx))
}

// checkServers finds what a worker would wait for in vain, or lose records by.
func (a *app) checkServers(ctx context.Context, js jetstream.JetStream, store dedup.Store, o consumeFlags) error {
	err := a.patiently(ctx, func(ctx context.Context) error {
		_, err := js.Consumer(ctx, o.stream, o.durable)
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
			return err
		}
		return nil // what else may be wrong is said by whoever meets it
	})
	if err != nil {
		return fmt.Errorf("JetStream does not answer at %s; is it enabled there (nats-server -js), and --js-domain right? %w", redact(a.nats), err)
	}
	r, ok := store.(*redisstore.Store)
	if !ok {
		return nil
	}
	findings, err := r.Check(ctx)
	if err != nil {
		a.log.Warn("the settings of Redis could not be checked", "error", err)
	}
	for _, f := range findings {
		level := slog.LevelWarn
		if f.Unknown() {
			level = slog.LevelInfo
		}
		a.log.Log(ctx, level, f.String())
	}
	return nil
}

func (a *app) summary(s consumer.Stats) error {
	if !a.json {
		_, err := fmt.Fprintf(a.out, "delivered %d, executed %d, duplicates acknowledged %d, parked %d, retried %d, dead-lettered %d, lease lost %d, unconfirmed %d\n",
			s.Delivered, s.Executed, s.DuplicateAcks, s.Parked, s.Retried, s.DeadLettered, s.LeaseLost, s.Unconfirmed)
		return err
	}
	return a.print(struct {
		Delivered     uint64 `json:"delivered"`
		Executed      uint64 `json:"executed"`
		DuplicateAcks uint64 `json:"duplicate_acks"`
		Parked        uint64 `json:"parked"`
		Retried       uint64 `json:"retried"`
		DeadLettered  uint64 `json:"dead_lettered"`
		LeaseLost     uint64 `json:"lease_lost"`
		Unconfirmed   uint64 `json:"unconfirmed"`
	}{s.Delivered, s.Executed, s.DuplicateAcks, s.Parked, s.Retried, s.DeadLettered, s.LeaseLost, s.Unconfirmed})
}

func (a *app) execHandler(command string) consumer.Handler {
	return consumer.HandlerFunc(func(ctx context.Context, m *consumer.Message) error {
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Env = append(os.Environ(), "IDEMQ_KEY="+m.Key, "IDEMQ_FENCE="+strconv.FormatUint(uint64(m.Fence), 10),
			"IDEMQ_ATTEMPT="+strconv.Itoa(m.Attempt), "IDEMQ_SUBJECT="+m.Subject, "IDEMQ_STREAM="+m.Stream,
			"IDEMQ_SEQ="+strconv.FormatUint(m.Sequence, 10))
		cmd.Stderr, cmd.Stdout = a.err, a.out
		if a.json {
			cmd.Stdout = a.err
		}
		err := runGroup(ctx, cmd, m.Data)
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == exitPermanent {
			return consumer.Permanent(fmt.Errorf("the command ended with exit code %d", exitPermanent))
		}
		if err != nil {
			return fmt.Errorf("the command failed: %w", err)
		}
		return nil
	})
}
