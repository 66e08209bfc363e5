package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// demoReplays is a replay stream of the demo's own.
func demoReplays(js jetstream.JetStream, id string) *deadletter.ReplayStream {
	return deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{Stream: id + "_REPLAY", Prefix: "demo-replay." + id})
}

// replayPoison is the last act: the cause of the poison messages is mended, and their dead letters are replayed, one of
// them twice.
func (d *demoRun) replayPoison(ctx context.Context) error {
	var letters []deadletter.Entry
	for _, class := range []dedup.Class{dedup.Permanent, dedup.Exhausted} {
		for e, err := range d.queue.List(ctx, deadletter.Filter{Class: class}) {
			if err != nil {
				return err
			}
			letters = append(letters, e)
		}
	}
	if len(letters) == 0 {
		return nil
	}
	if err := d.goOn(); err != nil { // if nobody was killed they would hold now
		return err
	}
	if err := d.mend(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.notes(), "the cause of the poison messages is mended; their %d dead letters are replayed, one of them twice\n", len(letters))
	r := deadletter.NewReplayer(d.queue, d.replays, d.records, deadletter.ReplayConfig{DeadRetention: demoMemory})
	for i, e := range letters {
		out, err := r.Replay(ctx, e, deadletter.ReplayOptions{})
		if err != nil {
			return err
		}
		if out.Outcome == deadletter.Published {
			d.replayed[out.Key] = true
		}
		if i == 0 {
			if _, err := r.Replay(ctx, e, deadletter.ReplayOptions{Again: true}); err != nil {
				return err
			}
		}
	}
	for {
		waiting, err := d.replays.Waiting(ctx, d.id, demoDurable)
		if err != nil || waiting == 0 {
			return err
		}
		if err := d.pause(ctx); err != nil {
			return err
		}
	}
}

// mend tells the workers that what made messages poison is over, and waits until they all know.
func (d *demoRun) mend(ctx context.Context) error {
	for _, w := range d.workers {
		if err := w.order(mendOrder); err != nil {
			return err
		}
	}
	for _, w := range d.workers {
		for {
			j, err := readJournal(w.journal)
			if err != nil {
				return err
			}
			if j.mended {
				break
			}
			if err := d.pause(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// pause waits a moment for the workers.
func (d *demoRun) pause(ctx context.Context) error {
	if err := d.workersRun(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(demoPoll):
		return nil
	}
}
