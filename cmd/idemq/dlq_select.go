package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// selection is how a command chooses dead letters: by their ids, or all that pass the filters.
type selection struct {
	dlqFilter
	all bool
}

func (s *selection) flags(c *cobra.Command) {
	s.dlqFilter.flags(c)
	c.Flags().BoolVar(&s.all, "all", false, "all dead letters that pass the filters")
}

// idsOrAll checks the arguments of a command with a selection.
func (s *selection) check(ids []string) error {
	switch {
	case s.all && len(ids) > 0:
		return usagef("give ids, or --all with filters, not both")
	case !s.all && len(ids) == 0:
		return usagef("give the ids of dead letters (see idemq dlq ls), or --all with filters")
	case !s.all && (s.class != "" || s.text != "" || s.since != 0 || s.generation != 0):
		return usagef("--class, --text, --since and --generation go with --all; ids need no filter")
	}
	return nil
}

// freeze returns the chosen entries as they are now, without their texts: what dies from here on is not among them.
func (s *selection) freeze(ctx context.Context, l *letters, ids []string) ([]deadletter.Entry, error) {
	f, err := s.filter()
	if err != nil {
		return nil, err
	}
	if !s.all {
		return l.find(ctx, ids, f)
	}
	var frozen []deadletter.Entry
	type kind struct {
		place
		class dedup.Class
	}
	shared := map[kind]*consumer.Letter{} // one for all entries of a durable and class, however many there are
	for e, err := range l.queue.List(ctx, f) {
		if errors.Is(err, consumer.ErrNotLetter) {
			fmt.Fprintf(l.a.err, "idemq: left out: %s\n", printable(err.Error()))
			continue
		}
		if err != nil {
			return nil, err
		}
		k := kind{place{stream: e.Letter.Stream, durable: e.Letter.Durable, scope: e.Letter.Scope}, e.Letter.Class}
		if shared[k] == nil {
			shared[k] = &consumer.Letter{Class: k.class, Stream: k.stream, Durable: k.durable, Scope: k.scope}
		}
		// No more than this is kept for as long as the command runs; the id is copied, as it is a part of all the headers.
		frozen = append(frozen, deadletter.Entry{Sequence: e.Sequence, ID: strings.Clone(e.ID), Stored: e.Stored, Letter: shared[k]})
	}
	return frozen, nil
}

// byClass prints how many of each class a selection has.
func (a *app) byClass(selected []deadletter.Entry) error {
	counts := map[string]int{}
	for i := range selected {
		counts[string(selected[i].Letter.Class)]++
	}
	for _, class := range slices.Sorted(maps.Keys(counts)) {
		if a.json {
			if err := a.print(struct {
				Class string `json:"class"`
				Count int    `json:"count"`
			}{class, counts[class]}); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(a.out, "%7d  %s\n", counts[class], inLine(class))
	}
	if !a.json {
		fmt.Fprintf(a.out, "%7d  in all; nothing was changed\n", len(selected))
	}
	return nil
}
