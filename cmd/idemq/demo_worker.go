package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/child"
)

// demoWorker is a worker process as the demo sees it. It ends when its standard input does, so it never outlives us.
type demoWorker struct {
	*child.Process

	input   io.WriteCloser
	journal string
}

// startWorker starts a worker whose handlers hold after so many effects; 0 is never.
func (d *demoRun) startWorker(holdAfter int) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own program: %w", err)
	}
	d.started++
	w := &demoWorker{journal: filepath.Join(d.dir, fmt.Sprintf("journal-%d", d.started))}
	cmd := exec.Command(self, "demo-worker", d.id, w.journal, "--log-level", d.workerLogLevel(), "--"+holdFlag, strconv.Itoa(holdAfter))
	how, err := d.settled.encode()
	if err != nil {
		return err
	}
	// These may hold passwords, and everybody can read the arguments of a process.
	cmd.Env = append(os.Environ(), demoConnection+"="+how, "IDEMQ_STORE="+d.store)
	cmd.Stderr = d.err
	if w.input, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if w.Process, err = child.Start(cmd, true); err != nil {
		return fmt.Errorf("worker process: %w", err)
	}
	d.workers = append(d.workers, w)
	return nil
}

// workerLogLevel keeps the workers quiet unless something else was asked for: dead letters are part of the show.
func (d *demoRun) workerLogLevel() string {
	if d.logLevel == defaultLogLevel {
		return "error"
	}
	return d.logLevel
}

// demoConnection is the variable that tells a worker how the demo is connected.
const demoConnection = "IDEMQ_DEMO_CONNECTION"

// What a worker is told on its standard input.
const (
	goOnOrder = "go on" // its handlers hold no more
	mendOrder = "mend"  // poison is poison no more
)

func (w *demoWorker) order(what string) error {
	if _, err := fmt.Fprintln(w.input, what); err != nil {
		return fmt.Errorf("a worker ended by itself: %w", err)
	}
	return nil
}

// stop lets the worker finish, and waits for it.
func (w *demoWorker) stop() error {
	err := w.Stop(func() { _ = w.input.Close() })
	if err == nil && !w.Cmd.ProcessState.Success() {
		err = errors.New(w.Cmd.ProcessState.String())
	}
	if err != nil {
		return fmt.Errorf("a worker did not end well: %w", err)
	}
	return nil
}

func (a *app) demoWorkerCommand() *cobra.Command {
	var holdAfter int
	c := &cobra.Command{
		Use: "demo-worker ID JOURNAL", Hidden: true, Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context())) // the parent decides, not Ctrl-C
			defer cancel()
			return a.demoWork(ctx, cancel, args[0], args[1], holdAfter)
		},
	}
	c.Flags().IntVar(&holdAfter, holdFlag, 0, "effects after which handlers stop before they return, until they are told to go on")
	return c
}

const holdFlag = "hold-after"

// demoWork is a worker: each effect is a line in its journal, written in one go, which SIGKILL cannot take back.
func (a *app) demoWork(ctx context.Context, end context.CancelFunc, id, path string, holdAfter int) error {
	journal, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = journal.Close() }()
	hold := newHolder(journal, holdAfter)
	var mended atomic.Bool
	go func() { // ends with the process: reading cannot be interrupted
		defer end()
		for s := bufio.NewScanner(a.in); s.Scan(); {
			switch s.Text() {
			case goOnOrder:
				hold.goOn()
			case mendOrder:
				mended.Store(true)
				_, _ = fmt.Fprintln(journal, "mended")
			}
		}
	}()
	if err := a.useEncoded(os.Getenv(demoConnection)); err != nil {
		return err
	}
	nc, js, err := a.connect(ctx)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	defer nc.Close()
	store, table, closeStore, err := a.openDemoStore(ctx, js, id)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	defer closeStore()
	sink := demoSink(journalSink{journal})
	if table != nil {
		sink = table
	}
	d, err := dedup.New(store, dedup.Config{
		Lease: demoLease, MaxAttempts: demoAttempts, Retention: demoMemory, DeadRetention: demoMemory, SettleInTx: table != nil,
	})
	if err != nil {
		return err
	}
	handler := consumer.HandlerFunc(func(ctx context.Context, m *consumer.Message) error {
		var p demoPayload
		if err := json.Unmarshal(m.Data, &p); err != nil {
			return consumer.Permanent(err)
		}
		switch {
		case mended.Load():
		case p.Fate == "poison":
			return consumer.Permanent(errors.New("no such account"))
		case p.Fate == "stubborn", p.Fate == "flaky" && m.Attempt == 1:
			return errors.New("the payment gateway is out")
		}
		if err := pretendToWork(ctx); err != nil { // the work before the effect, and below what follows it
			return err
		}
		if err := sink.add(ctx, m, hold.hold); err != nil {
			return err
		}
		return pretendToWork(ctx)
	})
	cfg := natsidem.Config{Workers: demoHandlers}
	cfg.Logger = a.log
	cfg.Letters = demoQueue(js, id)
	replays := demoReplays(js, id).Config()
	cfg.ReplayStream, cfg.ReplayPrefix = replays.Stream, replays.Prefix
	cfg.Backoff = consumer.Backoff{Initial: 100 * time.Millisecond, Max: time.Second}
	cfg.Observer = journalObserver{journal}
	w, err := natsidem.New(js, id, demoDurable, d, handler, cfg)
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// unlessStopped is err, unless it only says that the worker was told to end before it could begin.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end was asked for
	}
	return err
}

const (
	demoWorkTime = 5 * time.Millisecond
	demoHandlers = 8
)

func pretendToWork(ctx context.Context) error {
	select {
	case <-time.After(demoWorkTime):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// journalObserver writes events to the journal, so that a killed worker's count too.
type journalObserver struct{ w io.Writer }

func (o journalObserver) Observe(e consumer.Event) {
	_, _ = fmt.Fprintf(o.w, "event %s\n", e.Kind)
}

type journal struct {
	effects []effect
	events  map[string]int
	holding int // handlers that stand between effect and return
	mended  bool
}

func readJournal(path string) (journal, error) {
	j := journal{events: map[string]int{}}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return j, err
	}
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(f)
	for s.Scan() {
		switch f := strings.Fields(s.Text()); {
		case len(f) == 4 && f[0] == "effect":
			n, err := strconv.ParseUint(f[2], 10, 64)
			if err != nil {
				return j, err
			}
			pid, err := strconv.Atoi(f[3])
			if err != nil {
				return j, err
			}
			j.effects = append(j.effects, effect{f[1], dedup.Fence(n), pid})
		case len(f) == 2 && f[0] == "event":
			j.events[f[1]]++
		case len(f) == 1 && f[0] == "holding":
			j.holding++
		case len(f) == 1 && f[0] == "mended":
			j.mended = true
		}
	}
	return j, s.Err()
}
