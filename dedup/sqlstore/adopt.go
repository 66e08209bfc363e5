package sqlstore

import (
	"context"
	"database/sql"
	"encoding/hex"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var (
	_ dedup.Adopter      = (*Store)(nil)
	_ dedup.BatchAdopter = (*Store)(nil)
)

// Adopt takes over a record of another store, as the durable tier of a tiered store does. On Postgres a settled record of a
// key that is not known takes one round trip. Errors as of Extend.
func (s *Store) Adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	out := []error{nil}
	if rest := s.adoptMany(ctx, []dedup.Adoption{{Record: r, Over: over}}, out); len(rest) == 0 {
		return out[0]
	}
	return s.adopt(ctx, r, over)
}

func (s *Store) adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	_, err := s.change(ctx, "adopt", r.Key, func(mine *dedup.Record, now time.Time, _ dedup.Fence) (bool, error) {
		return transition.Adopt(mine, r, over, now)
	})
	return err
}

// adoptJSON is one element of the array that adoptMany takes. Times and durations are µs.
type adoptJSON struct {
	I           int    `json:"i"`
	Scope       string `json:"scope"`
	ID          string `json:"id"`
	State       string `json:"state"`
	Fence       int64  `json:"fence"`
	Nonce       string `json:"nonce"`
	Attempt     int    `json:"attempt"`
	Abandoned   int    `json:"abandoned"`
	Interrupted int    `json:"interrupted"`
	Generation  int    `json:"generation"`
	Print       string `json:"print"` // hexadecimal
	Result      []byte `json:"result"`
	Class       string `json:"class"`
	Message     []byte `json:"message"`
	Retention   int64  `json:"retention"`
	Memory      int64  `json:"memory"`
	CreatedAt   int64  `json:"created_at"`
	FailedAt    int64  `json:"failed_at"`
	UpdatedAt   int64  `json:"updated_at"`
}

// AdoptMany takes over many records. On Postgres settled records of keys that are not known, which is what a tiered store
// settles, take one round trip together; every other one takes its own. On SQLite they come one after another.
func (s *Store) AdoptMany(ctx context.Context, adoptions []dedup.Adoption) []error {
	out := make([]error, len(adoptions))
	for _, i := range s.adoptMany(ctx, adoptions, out) {
		out[i] = s.adopt(ctx, adoptions[i].Record, adoptions[i].Over)
	}
	return out
}

// adoptMany inserts what one statement can, and returns what is left for calls of their own.
func (s *Store) adoptMany(ctx context.Context, adoptions []dedup.Adoption, out []error) (rest []int) {
	const op = "adopt"
	if s.st.adoptMany == nil {
		return all(len(adoptions))
	}
	seen := map[dedup.Key]bool{}
	var batch []adoptJSON
	for i := range adoptions {
		r := &adoptions[i].Record
		if adoptions[i].Over != 0 || !r.State.Settled() || seen[r.Key] {
			continue
		}
		seen[r.Key] = true
		if out[i] = ready(ctx, op, r.Key); out[i] == nil {
			batch = append(batch, adoptedJSON(i, r))
		}
	}
	done := make([]bool, len(adoptions))
	err := s.many(ctx, *s.st.adoptMany, batch, func(rows *sql.Rows) error {
		var i int
		err := rows.Scan(&i)
		done[i] = true
		return err
	})
	if err != nil {
		for _, b := range batch {
			out[b.I] = s.failure(op, adoptions[b.I].Record.Key, err, true)
		}
	}
	for i := range adoptions {
		if !done[i] && out[i] == nil {
			rest = append(rest, i)
		}
	}
	return rest
}

func adoptedJSON(i int, r *dedup.Record) adoptJSON {
	memory := r.ExpiresIn()
	if r.ExpiresAt.IsZero() {
		memory = r.Retention
	}
	return adoptJSON{
		I: i, Scope: r.Key.Scope, ID: r.Key.ID, State: string(dedup.StateLetter(r.State)), Fence: int64(r.Fence), //nolint:gosec // at most 2^53
		Nonce: string(r.Nonce), Attempt: r.Attempt, Abandoned: r.Abandoned, Interrupted: r.Interrupted, Generation: r.Generation,
		Print: hex.EncodeToString(printOf(r.Fingerprint)), Result: notNil(r.Result), Class: string(r.Cause.Class), Message: []byte(r.Cause.Message),
		Retention: r.Retention.Microseconds(), Memory: memory.Microseconds(),
		CreatedAt: micros(r.CreatedAt), FailedAt: micros(r.FailedAt), UpdatedAt: micros(r.UpdatedAt),
	}
}

// GetMany reads many records, on Postgres in one round trip.
func (s *Store) GetMany(ctx context.Context, keys []dedup.Key) []dedup.Found {
	const op = "get"
	out := make([]dedup.Found, len(keys))
	if s.st.readMany == nil || len(keys) < 2 {
		for i, k := range keys {
			out[i].Record, out[i].Err = s.Get(ctx, k)
		}
		return out
	}
	var batch []claimJSON
	for i, k := range keys {
		if out[i].Err = ready(ctx, op, k); out[i].Err == nil {
			batch = append(batch, claimJSON{I: i, Scope: k.Scope, ID: k.ID})
			out[i].Err = dedup.ErrNotFound
		}
	}
	err := s.many(ctx, *s.st.readMany, batch, func(rows *sql.Rows) error {
		var i int
		var now int64
		raw, err := scan(rows, &i, &now)
		if err != nil {
			return err
		}
		switch r := raw.row(keys[i], now); {
		case r.expired:
		case r.bad != "":
			out[i].Err = dedup.UnreadableError(keys[i], r.bad)
		default:
			out[i] = dedup.Found{Record: r.record}
		}
		return nil
	})
	if err != nil {
		for _, b := range batch {
			out[b.I] = dedup.Found{Err: s.failure(op, keys[b.I], err, false)}
		}
	}
	return out
}
