package sqlstore

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Dialect says what kind of database a [Store] is on.
type Dialect uint8

// The dialects. Any database/sql driver will do; ours are tested with pgx (package stdlib) and with modernc.org/sqlite.
const (
	Postgres Dialect = iota + 1 // 13 or later
	SQLite                      // 3.35 or later
)

// String returns "postgres" or "sqlite".
func (d Dialect) String() string {
	switch d {
	case Postgres:
		return "postgres"
	case SQLite:
		return "sqlite"
	default:
		return "unknown"
	}
}

// dialect is what a database needs said in its own way.
type dialect struct {
	name   Dialect
	tokens *strings.Replacer
	// hostClock says that statements get the time as their last parameter.
	hostClock bool
}

var dialects = map[Dialect]*dialect{
	Postgres: {name: Postgres, tokens: strings.NewReplacer(
		"{now}", "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
		"{greatest}", "greatest", "{blob}", "bytea",
	)},
	SQLite: {name: SQLite, hostClock: true, tokens: strings.NewReplacer(
		"{greatest}", "max", "{blob}", "BLOB",
	)},
}

// statement is a text in one dialect.
type statement struct {
	text      string
	hostClock bool // takes the time as its last parameter
}

var parameter = regexp.MustCompile(`\$(\d+)`)

// statement translates a text with the parameters $1, $2, … and the tokens {now}, {greatest} and {blob}.
func (d *dialect) statement(text string) statement {
	if !d.hostClock {
		return statement{text: d.tokens.Replace(text)}
	}
	last := 0
	text = parameter.ReplaceAllStringFunc(text, func(p string) string {
		n, _ := strconv.Atoi(p[1:])
		last = max(last, n)
		return "?" + p[1:]
	})
	clocked := strings.ReplaceAll(text, "{now}", "?"+strconv.Itoa(last+1))
	return statement{text: d.tokens.Replace(clocked), hostClock: clocked != text}
}

// args returns the parameters for the statement.
func (st statement) args(args []any) []any {
	if !st.hostClock {
		return args
	}
	return append(args[:len(args):len(args)], time.Now().UnixMicro())
}

// Codes of SQLite and of Postgres; drivers give them by methods, so that no driver need be imported.
const (
	sqliteBusy   = 5
	sqliteLocked = 6

	stateSerialization   = "40001"
	stateDeadlock        = "40P01"
	stateUndefinedTable  = "42P01"
	stateUnknownOutcome  = "40003"
	stateLost            = "IQ001" // raised by idemq_demand
	stateElsewhere       = "IQ002"
	classConnection      = "08"
	classOperator        = "57" // shutdowns
	classInternal        = "XX"
	classSystem          = "58"
	sqliteNoTableMessage = "no such table"
)

// sqlState returns the SQLSTATE of a Postgres error, "" if it has none. pgx and lib/pq both give it.
func sqlState(err error) string {
	var e interface {
		error
		SQLState() string
	}
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// sqliteCode returns the primary result code of an SQLite error, 0 if it is none.
func sqliteCode(err error) int {
	var e interface {
		error
		Code() int
	}
	switch {
	case errors.As(err, &e):
		return e.Code() & 0xFF
	case err != nil && strings.Contains(err.Error(), "database is locked"): // drivers that give no code
		return sqliteBusy
	default:
		return 0
	}
}

// transient says that the same statement can succeed if it is sent again, and that it was not applied.
func (d *dialect) transient(err error) bool {
	if d.name == SQLite {
		code := sqliteCode(err)
		return code == sqliteBusy || code == sqliteLocked
	}
	state := sqlState(err)
	return state == stateSerialization || state == stateDeadlock
}

// refused says that the server has answered with an error, so that the statement was certainly not applied.
func (d *dialect) refused(err error) bool {
	if d.name == SQLite {
		return sqliteCode(err) != 0
	}
	state := sqlState(err)
	if state == "" || state == stateUnknownOutcome {
		return false
	}
	switch state[:min(2, len(state))] {
	case classConnection, classOperator, classInternal, classSystem:
		return false
	}
	return true
}

// missingTable says that there is no schema.
func (d *dialect) missingTable(err error) bool {
	if d.name == SQLite {
		return strings.Contains(err.Error(), sqliteNoTableMessage)
	}
	return sqlState(err) == stateUndefinedTable
}
