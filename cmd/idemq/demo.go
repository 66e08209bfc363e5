package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// The demo's own settings: short, so that a killed worker's claims are taken over while you watch; but a busy machine
// that stalls for a second or two must not lose leases that nobody has killed.
const (
	demoLease    = 5 * time.Second
	demoAttempts = 3
	demoMemory   = time.Hour // of records, should they stay behind on a given server
	demoPoll     = 25 * time.Millisecond

	demoLimit     = 5 * time.Minute
	demoLimitEach = 20 * time.Millisecond
	demoCleanUp   = 10 * time.Second

	demoDurable = "worker"
)

type demoFlags struct {
	messages, workers    int
	duplicates, failures float64
	noKill               bool
}

func (a *app) demoCommand() *cobra.Command {
	var o demoFlags
	c := &cobra.Command{
		Use: "demo", Short: "Watch messages being deduplicated while a worker is killed", Args: exactly(0),
		Long: `Publishes messages to a real JetStream, with duplicates outside the server's publish window, parallel duplicates,
messages without a key, conflicting payloads and poison; lets worker processes handle them; kills one with SIGKILL while
it works, and replaces it; then mends what made messages poison and replays their dead letters, one of them twice. Effects are counted outside the store. Exit code 4 if a message is lost or an effect repeated
that no interruption explains.

Without --nats, NATS_URL or --context it runs a NATS server of its own in a temporary folder, whatever context is selected.
The store is --store or IDEMQ_STORE if given, else a redis-server found on PATH and started for the demo, else JetStream KV.
With postgres:// or sqlite://, as the store or behind Redis with --durable-store, each effect is a row that is committed in one
transaction with its record, so that no effect repeats whatever the kill hits. On given servers it uses names of its own, and removes them at the end; only idemq's tables
stay in a database.`,
		Example: `  idemq demo
  idemq demo --messages 5000 --duplicates 0.5 --workers 4
  idemq demo --store redis://127.0.0.1:6379 --json
  idemq demo --store sqlite://demo.db              # effect and record in one transaction`,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case o.messages < 1 || o.workers < 1:
				return usagef("--messages and --workers must be 1 or more")
			case !(o.duplicates >= 0 && o.duplicates <= 10) || !(o.failures >= 0 && o.failures <= 1):
				return usagef("--duplicates must be between 0 and 10, --failures between 0 and 1")
			case a.store == storeMemory+"://":
				return usagef("the demo's workers are processes, which cannot share memory://; use redis:// or kv")
			}
			if a.store != "" {
				if _, _, err := a.storeKind(); err != nil {
					return err
				}
			}
			if flag := a.connectionFlag(); flag != "" && !a.choosesServer() {
				return usagef("the demo runs a NATS server of its own, which has no use for %s; name another with --nats or --context", flag)
			}
			return a.demo(c.Context(), o, a.choosesServer())
		},
	}
	f := c.Flags()
	f.IntVar(&o.messages, "messages", 1000, "different operations to publish")
	f.Float64Var(&o.duplicates, "duplicates", 0.3, "duplicates, as a share of the messages")
	f.Float64Var(&o.failures, "failures", 0.02, "share of messages that can never succeed")
	f.IntVar(&o.workers, "workers", 2, "worker processes")
	f.BoolVar(&o.noKill, "no-kill", false, "do not kill a worker")
	return c
}

// demoRun is one demo under way.
type demoRun struct {
	*app
	o          demoFlags
	dir        string
	id         string // makes the names on a shared server its own
	js         jetstream.JetStream
	records    dedup.Inspector
	table      *tableSink // nil unless there is a database
	storeGiven bool
	queue      *deadletter.Queue
	replays    *deadletter.ReplayStream
	replayed   map[string]bool // keys
	plan       *plan
	workers    []*demoWorker
	started    int // workers ever started
	kills      int
	killed     []*demoWorker
	begun      time.Time
}

func (a *app) demo(ctx context.Context, o demoFlags, natsGiven bool) error {
	limit := demoLimit + time.Duration(o.messages)*demoLimitEach
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %v", limit))
	defer cancel()
	dir, err := os.MkdirTemp("", "idemq-demo-")
	if err != nil {
		return fmt.Errorf("temporary folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	d := &demoRun{
		app: a, o: o, dir: dir, replayed: map[string]bool{}, storeGiven: a.store != "", begun: time.Now(),
		id: "DEMO" + strings.ToUpper(strings.ReplaceAll(publisher.NewKey(), "-", "")),
	}
	stop, err := a.demoServers(ctx, dir, natsGiven)
	if err != nil {
		return err
	}
	defer stop()
	nc, js, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	if base := a.database(); base != nil {
		if err := base.migrate(ctx); err != nil {
			return err
		}
	}
	store, table, closeStore, err := a.openDemoStore(ctx, js, d.id)
	if err != nil {
		return err
	}
	defer closeStore()
	d.js, d.table = js, table
	var ok bool
	if d.records, ok = store.(dedup.Inspector); !ok {
		return fmt.Errorf("the store %s cannot be looked into, which the demo must", redact(a.store))
	}
	err = d.run(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("the demo was ended before it was done: %w", context.Cause(ctx))
	}
	return err
}

// notes is where people read: standard output, or standard error if that is for JSON.
func (a *app) notes() io.Writer {
	if a.json {
		return a.err
	}
	return a.out
}

func (d *demoRun) run(ctx context.Context) (err error) {
	defer d.cleanUp()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	d.plan = newPlan(d.o)
	for range d.o.workers {
		if err := d.startWorker(d.holdAfter()); err != nil {
			return err
		}
	}
	if err := d.publishAndWatch(ctx); err != nil {
		return err
	}
	if err := d.replayPoison(ctx); err != nil {
		return err
	}
	if err := d.stopWorkers(); err != nil {
		return err
	}
	r, err := d.result(ctx)
	if err != nil {
		return err
	}
	return d.report(r)
}

// publishAndWatch publishes while the workers are already at it, and returns when nothing is left to do.
func (d *demoRun) publishAndWatch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	published := make(chan error, 1)
	go func() {
		err := d.plan.publish(ctx, d.js, d.subject())
		if err != nil {
			cancel() // without its messages the rest can never be done
		}
		published <- err
	}()
	err := d.watch(ctx)
	cancel()
	if publishErr := <-published; publishErr != nil && !errors.Is(publishErr, context.Canceled) {
		return publishErr
	}
	return err
}

func (d *demoRun) subject() string { return "demo." + d.id }

func (d *demoRun) prepare(ctx context.Context) error {
	_, err := d.js.CreateStream(ctx, jetstream.StreamConfig{Name: d.id, Subjects: []string{d.subject()}, MaxAge: demoMemory})
	if err != nil {
		return fmt.Errorf("stream for the demo: %w", err)
	}
	_, err = d.js.CreateConsumer(ctx, d.id, jetstream.ConsumerConfig{
		Durable: demoDurable, AckPolicy: jetstream.AckExplicitPolicy, AckWait: demoLease, MaxDeliver: -1, MaxAckPending: 4096,
	})
	if err != nil {
		return fmt.Errorf("durable for the demo: %w", err)
	}
	if d.table != nil {
		if err := d.table.create(ctx); err != nil {
			return err
		}
	}
	d.queue, d.replays = demoQueue(d.js, d.id), demoReplays(d.js, d.id)
	return errors.Join(d.queue.Ensure(ctx), d.replays.Ensure(ctx))
}

// demoQueue is a dead-letter stream of the demo's own.
func demoQueue(js jetstream.JetStream, id string) *deadletter.Queue {
	return deadletter.New(js, deadletter.Config{Stream: id + "_DEAD", Prefix: "demo-dead." + id, MarkPrefix: "demo-mark." + id})
}

// watch shows progress until nothing is left to do, and kills a worker on the way.
func (d *demoRun) watch(ctx context.Context) error {
	total := len(d.plan.messages)
	bar := d.progress(total)
	defer bar.finish()
	cons, err := d.js.Consumer(ctx, d.id, demoDurable)
	if err != nil {
		return err
	}
	for {
		confirmed := int(d.plan.confirmed.Load()) // before the question, so that "left" is never too small
		info, err := cons.Info(ctx)
		if err != nil {
			return fmt.Errorf("the demo's durable: %w", err)
		}
		left := leftToDo(total, confirmed, info)
		bar.set(max(0, total-left))
		if left == 0 {
			return nil
		}
		if !d.o.noKill && d.kills == 0 {
			if err := d.killOne(bar); err != nil {
				return err
			}
		}
		if err := d.pause(ctx); err != nil {
			return err
		}
	}
}

// leftToDo is how many of the demo's messages are not done. The server counts a message as pending a moment after it has
// confirmed it, so that what was never delivered must be counted too: the stream holds nothing but these messages.
func leftToDo(total, confirmed int, info *jetstream.ConsumerInfo) int {
	undelivered := total - int(info.Delivered.Stream) //nolint:gosec // at most total
	return max(undelivered, total-confirmed+int(info.NumPending)+info.NumAckPending)
}

// workersRun returns an error if a worker ended that nobody has ended: the demo would wait for it in vain.
func (d *demoRun) workersRun() error {
	for _, w := range d.workers {
		select {
		case <-w.Ended:
			return fmt.Errorf("worker %d ended by itself: %v", w.Cmd.Process.Pid, w.Cmd.ProcessState)
		default:
		}
	}
	return nil
}

func (d *demoRun) stopWorkers() error {
	var errs []error
	for _, w := range d.workers {
		errs = append(errs, w.stop())
	}
	return errors.Join(errs...)
}

// cleanUp leaves no process behind, and nothing on given servers.
func (d *demoRun) cleanUp() {
	for _, w := range d.workers {
		w.Kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), demoCleanUp)
	defer cancel()
	_ = d.js.DeleteStream(ctx, d.id)
	_ = d.js.DeleteStream(ctx, d.id+"_DEAD")
	_ = d.js.DeleteStream(ctx, d.id+"_REPLAY")
	if d.table != nil {
		if err := d.table.drop(ctx); err != nil {
			d.log.Warn("a table of the demo is left in the database", "table", d.table.name, "error", err)
		}
	}
	if !d.storeGiven || d.plan == nil {
		return
	}
	for _, k := range d.plan.keys {
		if err := d.records.Forget(ctx, d.key(k), true); err != nil && !errors.Is(err, dedup.ErrNotFound) {
			d.log.Warn("a record of the demo is left in the store, for an hour", "key", k, "error", err)
			return
		}
	}
}

// key is the record's key for an idempotency key of the demo.
func (d *demoRun) key(id string) dedup.Key {
	return dedup.Key{Scope: d.id + "/" + demoDurable, ID: id}
}
