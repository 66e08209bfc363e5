package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// demoResult is what the demo has counted.
type demoResult struct {
	Published       int    `json:"published"`
	Unique          int    `json:"unique"`
	Duplicates      int    `json:"duplicates"`
	Executed        int    `json:"executed"`
	DuplicateAcks   int    `json:"duplicate_acks"`
	Parked          int    `json:"parked"`
	DeadLettered    int    `json:"dead_lettered"`
	Replayed        int    `json:"replayed"`
	Lost            int    `json:"lost"`
	Effects         int    `json:"effects"`
	EffectsRepeated int    `json:"effects_repeated"`
	Interrupted     int    `json:"interrupted"`
	Kills           int    `json:"kills"`
	ElapsedMS       int64  `json:"elapsed_ms"`
	Store           string `json:"store"`
	NATS            string `json:"nats"`
}

// result counts from the outside: effects in the journals, or in a table of the database, letters in their stream, records in the store.
func (d *demoRun) result(ctx context.Context) (demoResult, error) {
	r := demoResult{
		Published: len(d.plan.messages), Unique: d.plan.unique, Duplicates: d.plan.duplicates, Kills: d.kills, Replayed: len(d.replayed),
		ElapsedMS: time.Since(d.begun).Milliseconds(), Store: redact(d.store), NATS: redact(d.nats),
	}
	all, err := d.effects(ctx)
	if err != nil {
		return r, err
	}
	effects := map[string]int{}
	for _, e := range all {
		r.Effects++
		if effects[e.key]++; effects[e.key] > 1 {
			r.EffectsRepeated++
		}
	}
	for i := 1; i <= d.started; i++ {
		j, err := readJournal(filepath.Join(d.dir, fmt.Sprintf("journal-%d", i)))
		if err != nil {
			return r, err
		}
		r.Executed += j.events[consumer.Executed.String()]
		r.DuplicateAcks += j.events[consumer.DuplicateAck.String()]
		r.Parked += j.events[consumer.Parked.String()]
		r.Interrupted += j.events[consumer.LeaseLost.String()] + j.events[consumer.Unconfirmed.String()]
	}
	for _, w := range d.killed {
		n, err := d.interrupted(ctx, w, all)
		if err != nil {
			return r, err
		}
		r.Interrupted += n
	}
	letters, err := d.letters(ctx)
	if err != nil {
		return r, err
	}
	// By the message, not by the letter: a letter may come twice, and must not make up for one that is missing.
	perClass := map[dedup.Class]map[uint64]bool{dedup.MissingKey: {}, dedup.ConflictingPayload: {}}
	dead := map[string]bool{}
	for _, l := range letters {
		if of := perClass[l.Class]; of != nil {
			of[l.Sequence] = true
		} else {
			dead[l.Key] = true
		}
	}
	r.DeadLettered = len(letters)
	for _, k := range d.plan.keys {
		if effects[k] == 0 && (!dead[k] || d.replayed[k]) {
			r.Lost++
		}
	}
	r.Lost += max(0, d.plan.keyless-len(perClass[dedup.MissingKey]))
	r.Lost += max(0, d.plan.conflicts-len(perClass[dedup.ConflictingPayload]))
	return r, nil
}

// interrupted counts the effects of a killed worker that its own claim never settled: only these may come twice.
func (d *demoRun) interrupted(ctx context.Context, w *demoWorker, all []effect) (n int, err error) {
	for _, e := range all {
		if e.pid != w.Cmd.Process.Pid {
			continue
		}
		r, err := d.records.Get(ctx, d.key(e.key))
		if err != nil && !errors.Is(err, dedup.ErrNotFound) {
			return 0, err
		}
		if r.State != dedup.Consumed || r.Fence != e.fence {
			n++
		}
	}
	return n, nil
}

// letters reads the whole dead-letter stream of the demo.
func (d *demoRun) letters(ctx context.Context) ([]*consumer.Letter, error) {
	var out []*consumer.Letter
	for e, err := range d.queue.List(ctx, deadletter.Filter{}) {
		if err != nil {
			return nil, err
		}
		out = append(out, e.Letter)
	}
	return out, nil
}

func (d *demoRun) report(r demoResult) error {
	broken := r.Lost > 0 || r.EffectsRepeated > r.Interrupted
	if d.json {
		if err := d.print(r); err != nil {
			return err
		}
	} else if err := d.rows(r, broken); err != nil {
		return err
	}
	if broken {
		return &exitError{exitInvariant, fmt.Errorf("an invariant is broken: %d lost, %d effects repeated, %d explained by what was interrupted",
			r.Lost, r.EffectsRepeated, r.Interrupted)}
	}
	return nil
}

// counted says where the effects were counted.
func (d *demoRun) counted() string {
	if d.table != nil {
		return "rows, each committed in one transaction with its record"
	}
	return "counted outside the store"
}

func (d *demoRun) rows(r demoResult, broken bool) error {
	w := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	for _, row := range []struct {
		name string
		n    int
		note string
	}{
		{"published", r.Published, fmt.Sprintf("%d operations, %d duplicates, %d without a key, %d with another payload", r.Unique, r.Duplicates, d.plan.keyless, d.plan.conflicts)},
		{"executed", r.Executed, "handlers that ran and were recorded as done"},
		{"duplicates acknowledged", r.DuplicateAcks, fmt.Sprintf("without running the handler; %d had waited for one that ran beside them", r.Parked)},
		{"dead letters", r.DeadLettered, "poison, no key, or another payload under a known key"},
		{"replayed", r.Replayed, "dead letters whose cause was mended, one of them twice"},
		{"effects", r.Effects, fmt.Sprintf("%s; %d workers were killed with SIGKILL while they worked", d.counted(), r.Kills)},
		{"effects repeated", r.EffectsRepeated, fmt.Sprintf("%d handlers were cut between effect and record, by the kill or by a machine too slow for their lease", r.Interrupted)},
		{"lost", r.Lost, ""},
	} {
		fmt.Fprintf(w, "%s\t%d\t%s\n", row.name, row.n, row.note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	verdict := "Nothing was lost, and no effect was repeated."
	switch {
	case broken:
		verdict = "BROKEN: something was lost or repeated that no interruption explains."
	case r.EffectsRepeated > 0:
		verdict = "Nothing was lost. What came twice is what a worker had done and could not record any more;\n" +
			"give your sink the idempotency key, and it comes once there too (README, \"Guarantees\")."
	}
	_, err := fmt.Fprintf(d.out, "%s (%.1f s)\n", verdict, float64(r.ElapsedMS)/1000)
	return err
}
