package sqlstore

import (
	"database/sql"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/idemq/idemq/dedup"
)

// columns are those that a row is read by, in the order of row.scan.
const columns = "state, fence, version, nonce, attempt, abandoned, interrupted, generation, fingerprint, result, class, message, " +
	"lease_until, not_before, retention, created_at, failed_at, updated_at, expires_at"

// columnsOf returns the columns of one table of a join.
func columnsOf(table string) string {
	return table + "." + strings.ReplaceAll(columns, ", ", ", "+table+".")
}

// sweepHour is the expression for the column by which expired records are found: whole hours, rounded up, so that most
// changes leave it as it is.
func sweepHour(expires string) string {
	return fmt.Sprintf("(%s + %d) / %d", expires, hour-1, hour)
}

const hour = int64(time.Hour / time.Microsecond)

// row is a record as it stands in the table, and what a change of it is compared with.
type row struct {
	record  dedup.Record
	fence   int64
	version int64
	expired bool
	bad     string // why it is unreadable; empty if it is not
}

// stored is a row before it is understood.
type stored struct {
	state, nonce, class                         string
	fence, version                              int64
	attempt, abandoned, interrupted, generation int64
	fingerprint, result, message                []byte
	leaseUntil, notBefore, retention            int64
	createdAt, failedAt, updatedAt, expiresAt   int64
}

// into returns the places for columns.
func (s *stored) into() []any {
	return []any{
		&s.state, &s.fence, &s.version, &s.nonce, &s.attempt, &s.abandoned, &s.interrupted, &s.generation, &s.fingerprint,
		&s.result, &s.class, &s.message, &s.leaseUntil, &s.notBefore, &s.retention, &s.createdAt, &s.failedAt, &s.updatedAt, &s.expiresAt,
	}
}

// scan reads what comes before the columns into the places of before, and the row.
func scan(rows *sql.Rows, before ...any) (stored, error) {
	var s stored
	return s, rows.Scan(append(before, s.into()...)...)
}

// seen is the time of a statement that began at now and found this row. A statement reads the clock when it begins, and then
// waits for the change that it finds; to go by its own time it would call that change's retry not due yet.
func (s *stored) seen(now int64) int64 { return max(now, s.updatedAt) }

// row understands the row at the time now.
func (s *stored) row(k dedup.Key, now int64) row {
	out := row{fence: s.fence, version: s.version, expired: s.expiresAt <= now}
	state, ok := stateOf(s.state)
	switch {
	case !ok:
		out.bad = "its state is none that this build knows"
	case s.fence < 0 || s.attempt < 0 || s.abandoned < 0 || s.interrupted < 0 || s.generation < 0 || s.retention < 0:
		out.bad = "one of its numbers is negative"
	case len(s.fingerprint) != 0 && len(s.fingerprint) != dedup.FingerprintSize:
		out.bad = "its fingerprint has the wrong length"
	case s.retention > math.MaxInt64/int64(time.Microsecond):
		out.bad = "its retention is too long"
	}
	if out.bad != "" {
		return out
	}
	out.record = dedup.Record{
		Key: k, State: state, Fence: dedup.Fence(s.fence), Nonce: dedup.Nonce(s.nonce),
		Attempt: int(s.attempt), Abandoned: int(s.abandoned), Interrupted: int(s.interrupted), Generation: int(s.generation),
		Cause:      dedup.Cause{Class: dedup.Class(s.class), Message: string(s.message)},
		LeaseUntil: at(s.leaseUntil), NotBefore: at(s.notBefore), Retention: time.Duration(s.retention) * time.Microsecond,
		ExpiresAt: at(s.expiresAt), CreatedAt: at(s.createdAt), FailedAt: at(s.failedAt), UpdatedAt: at(s.updatedAt), ReadAt: at(now),
	}
	copy(out.record.Fingerprint[:], s.fingerprint)
	if len(s.result) > 0 {
		out.record.Result = s.result
	}
	return out
}

// values returns the parameters for all columns but the version.
func values(r *dedup.Record) []any {
	expires := micros(r.ExpiresAt)
	return []any{
		string(dedup.StateLetter(r.State)), int64(r.Fence), string(r.Nonce), r.Attempt, r.Abandoned, r.Interrupted, r.Generation, printOf(r.Fingerprint),
		notNil(r.Result), string(r.Cause.Class), []byte(r.Cause.Message),
		micros(r.LeaseUntil), micros(r.NotBefore), r.Retention.Microseconds(), micros(r.CreatedAt), micros(r.FailedAt), micros(r.UpdatedAt),
		expires, (expires + hour - 1) / hour,
	}
}

// round makes a record that was changed in memory what it will be when it is read again.
func round(r *dedup.Record, now int64) {
	for _, t := range []*time.Time{&r.LeaseUntil, &r.NotBefore, &r.ExpiresAt, &r.CreatedAt, &r.FailedAt, &r.UpdatedAt} {
		*t = at(micros(*t))
	}
	r.Retention = r.Retention.Truncate(time.Microsecond)
	r.ReadAt = at(now)
	if len(r.Result) == 0 {
		r.Result = nil
	}
}

func stateOf(letter string) (dedup.State, bool) {
	for s := dedup.Acquired; s <= dedup.DeadSent; s++ {
		if letter == string(dedup.StateLetter(s)) {
			return s, true
		}
	}
	return dedup.Absent, false
}

func printOf(f dedup.Fingerprint) []byte {
	if f.IsZero() {
		return []byte{}
	}
	return f[:]
}

// notNil is for columns that are never NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func at(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}
