package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// List returns the entries that the filter selects, oldest first, up to the last one that there was when it began. It
// reads headers alone, page by page, so that the first entries come at once and memory stays small however many there
// are. A copy of a letter that was listed is not listed again. What is no letter, or is damaged, comes as an Entry without
// a Letter and an error that wraps consumer.ErrNotLetter, and the listing goes on; any other error ends it. It
// is not a snapshot: what is discarded meanwhile may be seen or not, and a mark may be missing if a replica is behind.
func (q *Queue) List(ctx context.Context, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		s, err := q.open(ctx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		err = q.scan(ctx, s, f, func(page []listed) (bool, error) {
			entries := make([]*Entry, 0, len(page))
			for i := range page {
				entries = append(entries, &page[i].Entry)
			}
			if err := q.addMarks(ctx, s, entries); err != nil {
				return false, err
			}
			for _, e := range page {
				if !yield(e.Entry, e.err) {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			yield(Entry{}, fmt.Errorf("deadletter: listing of stream %q: %w", q.cfg.Stream, err))
		}
	}
}

// listed is an entry, or one that cannot be read.
type listed struct {
	Entry
	err error
}

// scan hands on the entries that the filter selects, without their marks.
func (q *Queue) scan(ctx context.Context, s jetstream.Stream, f Filter, take func([]listed) (bool, error)) error {
	seen := idSet{}
	var walks []walk
	for _, subject := range f.subjects(q.cfg.Prefix) {
		walks = append(walks, walk{stream: s, subject: subject, from: s.CachedInfo().State.FirstSeq, to: s.CachedInfo().State.LastSeq})
	}
	for batch, err := range inOrder(ctx, walks) {
		if err != nil {
			return err
		}
		page := make([]listed, 0, len(batch))
		for _, m := range batch {
			e, err := newEntry(m.Subject(), m.Sequence.Stream, m.Timestamp, m.Headers(), nil)
			if err != nil {
				page = append(page, listed{e, fmt.Errorf("deadletter: sequence %d: %w", e.Sequence, err)})
				continue
			}
			e.Letter.Stack = ""
			if f.selects(&e) && seen.add(e.ID) {
				page = append(page, listed{e, nil})
			}
		}
		if more, err := take(page); err != nil || !more {
			return err
		}
	}
	return nil
}

// MinPrefix is the smallest number of hexadecimal digits that [Queue.Find] takes for the beginning of an id.
const MinPrefix = 8

// The errors of [Queue.Find].
var (
	// ErrBadID says that something cannot be an id or the beginning of one.
	ErrBadID = errors.New("deadletter: not the id of a letter")
	// ErrAmbiguous says that several letters have ids that begin so; the message names them.
	ErrAmbiguous = errors.New("deadletter: several letters have ids that begin so")
)

// maxCandidates is how many ids an error names.
const maxCandidates = 10

// Find returns the entries with these ids, in their order and each once, as a listing shows them; missing has the ids
// that no letter has. In the place of an id its first hexadecimal digits will do, at least [MinPrefix], unless other
// letters begin so too: [ErrAmbiguous]. It reads the headers of the whole stream once, however many ids there are.
func (q *Queue) Find(ctx context.Context, ids []string) (found []Entry, missing []string, err error) {
	wanted := make([]string, len(ids))
	for i, id := range ids {
		wanted[i] = strings.ToLower(id)
		if len(id) < MinPrefix || strings.Trim(wanted[i], "0123456789abcdef") != "" {
			return nil, nil, fmt.Errorf("%w: %q; give at least %d hexadecimal digits of it", ErrBadID, id, MinPrefix)
		}
	}
	s, err := q.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	candidates := make([][]Entry, len(ids))
	err = q.scan(ctx, s, Filter{}, func(page []listed) (bool, error) {
		for _, e := range page {
			for i, prefix := range wanted {
				if e.err == nil && strings.HasPrefix(e.ID, prefix) && len(candidates[i]) < maxCandidates {
					candidates[i] = append(candidates[i], e.Entry)
				}
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("deadletter: listing of stream %q: %w", q.cfg.Stream, err)
	}
	for i, c := range candidates {
		switch {
		case len(c) == 0:
			missing = append(missing, ids[i])
		case len(c) > 1:
			return nil, nil, ambiguous(ids[i], c)
		case !slices.ContainsFunc(found, func(e Entry) bool { return e.ID == c[0].ID }):
			found = append(found, c[0])
		}
	}
	entries := make([]*Entry, len(found))
	for i := range found {
		entries[i] = &found[i]
	}
	for chunk := range slices.Chunk(entries, walkBatch) {
		if err := q.addMarks(ctx, s, chunk); err != nil {
			return nil, nil, fmt.Errorf("deadletter: %w", err)
		}
	}
	return found, missing, nil
}

func ambiguous(id string, candidates []Entry) error {
	names := make([]string, len(candidates))
	for i, e := range candidates {
		names[i] = fmt.Sprintf("%q", e.ID)
	}
	return fmt.Errorf("%w: %q: %s; give more digits", ErrAmbiguous, id, strings.Join(names, ", "))
}
