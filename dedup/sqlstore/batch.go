package sqlstore

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/idemq/idemq/dedup"
)

// claimJSON is one element of the array that claimMany takes.
type claimJSON struct {
	I      int    `json:"i"`
	Scope  string `json:"scope"`
	ID     string `json:"id"`
	Nonce  string `json:"nonce"`
	Print  string `json:"print"`  // hexadecimal
	Lease  int64  `json:"lease"`  // µs
	Memory int64  `json:"memory"` // µs
}

// settleJSON is one element of the array that settleMany takes.
type settleJSON struct {
	I       int    `json:"i"`
	Scope   string `json:"scope"`
	ID      string `json:"id"`
	Fence   int64  `json:"fence"`
	Nonce   string `json:"nonce"`
	State   string `json:"new_state"`
	Result  []byte `json:"new_result"`
	Class   string `json:"new_class"`
	Message []byte `json:"new_message"`
	Memory  int64  `json:"memory"` // µs
}

// AcquireMany claims every key. On Postgres all that are new, or known and not to be changed, take one round trip
// together; each retry, takeover and repeated key takes its own. On SQLite they come one after another.
func (s *Store) AcquireMany(ctx context.Context, claims []dedup.Claim) []dedup.Acquisition {
	out := make([]dedup.Acquisition, len(claims))
	rest := all(len(claims))
	if s.st.claimMany != nil && len(claims) > 1 {
		rest = s.claimMany(ctx, claims, out)
	}
	for _, i := range rest {
		out[i].Verdict, out[i].Record, out[i].Err = s.Acquire(ctx, claims[i])
	}
	return out
}

// claimMany answers what one statement can, and returns what is left for calls of their own.
func (s *Store) claimMany(ctx context.Context, claims []dedup.Claim, out []dedup.Acquisition) (rest []int) {
	const op = "acquire"
	seen := map[dedup.Key]bool{}
	var batch []claimJSON
	for i, c := range claims {
		if err := ready(ctx, op, c.Key); err != nil {
			out[i].Err = err
			continue
		}
		if seen[c.Key] {
			continue
		}
		seen[c.Key] = true
		batch = append(batch, claimJSON{
			I: i, Scope: c.Key.Scope, ID: c.Key.ID, Nonce: string(c.Nonce), Print: hex.EncodeToString(printOf(c.Fingerprint)),
			Lease: c.Lease.Microseconds(), Memory: c.Retention.Microseconds(),
		})
	}
	answered := make([]bool, len(claims))
	fresh := 0
	err := s.many(ctx, *s.st.claimMany, batch, func(rows *sql.Rows) error {
		var i int
		var isFresh bool
		var now int64
		raw, err := scan(rows, &i, &isFresh, &now)
		if err != nil {
			return err
		}
		now = raw.seen(now)
		cur := raw.row(claims[i].Key, now)
		switch {
		case isFresh:
			fresh++
			out[i] = dedup.Acquisition{Verdict: dedup.Granted, Record: cur.record}
			answered[i] = true
		case cur.expired || cur.bad != "":
		default:
			out[i], answered[i] = unchanged(claims[i], &cur, now)
		}
		return nil
	})
	if err != nil {
		for _, b := range batch {
			out[b.I] = dedup.Acquisition{Err: s.failure(op, claims[b.I].Key, err, true)}
			answered[b.I] = true
		}
	}
	s.sweepNow(ctx, fresh)
	for i := range claims {
		if !answered[i] && out[i].Err == nil {
			rest = append(rest, i)
		}
	}
	return rest
}

// unchanged answers a claim on a record that stays as it is.
func unchanged(c dedup.Claim, cur *row, now int64) (dedup.Acquisition, bool) {
	v, r, changed := verdict(c, cur, now)
	return dedup.Acquisition{Verdict: v, Record: r}, !changed
}

// SettleMany settles every claim, on Postgres in one round trip.
func (s *Store) SettleMany(ctx context.Context, settlements []dedup.HeldSettlement) []error {
	out := make([]error, len(settlements))
	rest := all(len(settlements))
	if s.st.settleMany != nil && len(settlements) > 1 {
		rest = s.settleMany(ctx, settlements, out)
	}
	for _, i := range rest {
		out[i] = s.Settle(ctx, settlements[i].Hold, settlements[i].Settlement)
	}
	return out
}

// settleMany settles what one statement can. What is left was settled before, or is not the caller's, or comes twice; a
// call of its own says which.
func (s *Store) settleMany(ctx context.Context, settlements []dedup.HeldSettlement, out []error) (rest []int) {
	const op = "settle"
	seen := map[dedup.Key]bool{}
	var batch []settleJSON
	for i, st := range settlements {
		k := st.Hold.Key
		if err := ready(ctx, op, k); err != nil {
			out[i] = err
			continue
		}
		args, ok := settleArgs(st.Hold, st.Settlement)
		if !ok || seen[k] {
			continue
		}
		seen[k] = true
		state, _ := args[4].(string)
		result, _ := args[5].([]byte)
		class, _ := args[6].(string)
		message, _ := args[7].([]byte)
		batch = append(batch, settleJSON{
			I: i, Scope: k.Scope, ID: k.ID, Fence: int64(st.Hold.Fence), Nonce: string(st.Hold.Nonce), //nolint:gosec // at most 2^53
			State: state, Result: result, Class: class, Message: message, Memory: st.Settlement.Retention.Microseconds(),
		})
	}
	done := make([]bool, len(settlements))
	err := s.many(ctx, *s.st.settleMany, batch, func(rows *sql.Rows) error {
		var i int
		err := rows.Scan(&i)
		done[i] = true
		return err
	})
	if err != nil {
		for _, b := range batch {
			out[b.I], done[b.I] = s.failure(op, settlements[b.I].Hold.Key, err, true), true
		}
	}
	for i := range settlements {
		if !done[i] && out[i] == nil {
			rest = append(rest, i)
		}
	}
	return rest
}

// many sends a batch as JSON and hands every row of the answer to f.
func (s *Store) many(ctx context.Context, st statement, batch any, f func(*sql.Rows) error) error {
	text, err := json.Marshal(batch)
	if err != nil || string(text) == "null" {
		return err
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	return s.again(ctx, func() error {
		rows, err := s.db.QueryContext(ctx, st.text, st.args([]any{string(text)})...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			if err := f(rows); err != nil {
				return err
			}
		}
		return errors.Join(rows.Close(), rows.Err())
	})
}

func all(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}
