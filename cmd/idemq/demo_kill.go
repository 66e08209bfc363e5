package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// holdAfter is after how many effects a worker holds: together they have more effects than all may have before they hold,
// so that there is always one to be killed in the middle of its work.
func (d *demoRun) holdAfter() int {
	if d.o.noKill {
		return 0
	}
	return max(1, d.o.messages/(4*d.o.workers))
}

// killOne kills a worker that holds, in the middle of its work, and starts another in its place. That makes the kill hit
// the one moment that no consumer can protect, instead of hitting it now and then. The others go on.
func (d *demoRun) killOne(bar progress) error {
	for i, w := range d.workers {
		j, err := readJournal(w.journal)
		if err != nil {
			return err
		}
		if j.holding == 0 {
			continue
		}
		w.Kill()
		d.kills++
		d.killed = append(d.killed, w)
		d.workers = append(d.workers[:i:i], d.workers[i+1:]...)
		if err := d.goOn(); err != nil {
			return err
		}
		if err := d.startWorker(0); err != nil {
			return err
		}
		bar.clear()
		fmt.Fprintf(d.err, "worker %d was killed with SIGKILL while it worked; worker %d takes its place\n",
			w.Cmd.Process.Pid, d.workers[len(d.workers)-1].Cmd.Process.Pid)
		return nil
	}
	return nil
}

// goOn tells the workers not to hold any more.
func (d *demoRun) goOn() error {
	for _, w := range d.workers {
		if err := w.order(goOnOrder); err != nil {
			return err
		}
	}
	return nil
}

// holder stops a worker's handlers between effect and return, from some effect on, until it is told to go on.
type holder struct {
	journal io.Writer
	after   int64 // effects; 0 is never
	effects atomic.Int64
	once    sync.Once
	over    chan struct{}
}

func newHolder(journal io.Writer, after int) *holder {
	return &holder{journal: journal, after: int64(after), over: make(chan struct{})}
}

func (h *holder) goOn() { h.once.Do(func() { close(h.over) }) }

// hold is called after every effect.
func (h *holder) hold(ctx context.Context) error {
	if n := h.effects.Add(1); h.after == 0 || n < h.after {
		return nil
	}
	select {
	case <-h.over:
		return nil
	default:
	}
	_, err := fmt.Fprintln(h.journal, "holding")
	select {
	case <-h.over:
		return err
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), err)
	}
}
