package deadletter

import (
	"context"
	"iter"
)

// pages yields what the walk finds, batch by batch; an error is the last.
func (w *walk) pages(ctx context.Context) iter.Seq2[[]message, error] {
	return func(yield func([]message, error) bool) {
		stopped := false
		w.take = func(batch []message) (bool, error) {
			stopped = !yield(batch, nil)
			return !stopped, nil
		}
		if err := w.run(ctx); err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// inOrder yields what several walks over different subjects of one stream find, in the order of the stream.
func inOrder(ctx context.Context, walks []walk) iter.Seq2[[]message, error] {
	if len(walks) == 1 {
		return walks[0].pages(ctx)
	}
	return func(yield func([]message, error) bool) {
		var sources []*source
		for i := range walks {
			next, stop := iter.Pull2(walks[i].pages(ctx))
			defer stop()
			sources = append(sources, &source{next: next})
		}
		for {
			batch, err := merge(sources)
			if len(batch) > 0 && !yield(batch, nil) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if len(batch) == 0 {
				return
			}
		}
	}
}

// source is what a walk has found and nobody has taken yet.
type source struct {
	next func() ([]message, error, bool)
	page []message
	over bool
}

// merge takes the earliest messages of all sources, as many as can be had without asking one of them twice. None are left
// if it returns none.
func merge(sources []*source) (merged []message, err error) {
	for _, s := range sources {
		if len(s.page) > 0 || s.over {
			continue
		}
		page, err, more := s.next()
		if err != nil {
			return nil, err
		}
		s.page, s.over = page, !more
	}
	for {
		var earliest *source
		for _, s := range sources {
			switch {
			case len(s.page) == 0 && !s.over:
				return merged, nil // what it has next may be earlier
			case len(s.page) > 0 && (earliest == nil || s.page[0].Sequence.Stream < earliest.page[0].Sequence.Stream):
				earliest = s
			}
		}
		if earliest == nil {
			return merged, nil
		}
		merged, earliest.page = append(merged, earliest.page[0]), earliest.page[1:]
	}
}
