package sqlstore

// statements are the texts of one dialect.
type statements struct {
	// claim makes a fresh record, or reads the one that is there: (is it fresh, the time, columns). No row means that
	// somebody made one just now. $1 scope, $2 id, $3 nonce, $4 fingerprint, $5 lease, $6 retention.
	claim statement
	// read returns (the time, columns). $1 scope, $2 id.
	read statement
	// clock returns the time.
	clock statement
	// insert makes a record as it is given, unless there is one. $1 scope, $2 id, $3… values.
	insert statement
	// update changes a record to what is given if it is as it was read. $1 scope, $2 id, $3… values, $22 fence and $23 version as read.
	update statement
	// remove takes a record away if it is as it was read. $1 scope, $2 id, $3 fence, $4 version.
	remove statement
	// extend restarts the lease of a holder. $1 scope, $2 id, $3 fence, $4 nonce, $5 lease.
	extend statement
	// settle ends the claim of a holder. $1 scope, $2 id, $3 fence, $4 nonce, $5 state, $6 result, $7 class, $8 message, $9 retention.
	settle statement
	// settleTx is settle for a caller's transaction.
	settleTx statement
	// insertSettled makes a settled record of a claim that is held elsewhere, insertSettledTx in a caller's transaction.
	insertSettled, insertSettledTx statement
	// list returns (the time, scope, id, columns), in the order of keys, after one. $1 scope, $2 id, $3 how many; listScope
	// only of the scope $1.
	list, listScope statement
	// sweep removes expired records. $1 how many.
	sweep statement
	// saveStep keeps a step of a holder. $1 scope, $2 id, $3 fence, $4 nonce, $5 name, $6 data.
	saveStep statement
	// steps returns (name, data) while the record is remembered. $1 scope, $2 id.
	steps statement
	// These take JSON; nil where there is no round trip to save.
	claimMany, settleMany, readMany, adoptMany *statement
}

const held = "scope = $1 AND id = $2 AND fence = $3 AND nonce = $4 AND state = 'a' AND expires_at > t.now"

var claimInsert = `INSERT INTO idemq_records
	(scope, id, state, fence, version, nonce, attempt, generation, fingerprint, lease_until, retention, created_at, updated_at, expires_at, sweep_hour)
	SELECT CAST($1 AS text), CAST($2 AS text), 'a', t.now, 1, CAST($3 AS text), 1, 1, CAST($4 AS {blob}), t.now + CAST($5 AS bigint), CAST($6 AS bigint),
		t.now, t.now, t.now + $5 + $6, ` + sweepHour("(t.now + $5 + $6)") + `
	FROM (SELECT {now} AS now) t WHERE true
	ON CONFLICT (scope, id) DO NOTHING`

// The first branch sees the new row, the second what was there before the statement began; so at most one has a row.
var claimPostgres = `WITH fresh AS (` + claimInsert + ` RETURNING ` + columns + `)
	SELECT true, updated_at, ` + columns + ` FROM fresh
	UNION ALL SELECT false, t.now, ` + columns + ` FROM idemq_records, (SELECT {now} AS now) t WHERE scope = $1 AND id = $2`

const valueColumns = "state, fence, nonce, attempt, abandoned, interrupted, generation, fingerprint, result, class, message, " +
	"lease_until, not_before, retention, created_at, failed_at, updated_at, expires_at, sweep_hour"

const insertGiven = "INSERT INTO idemq_records (scope, id, " + valueColumns + ", version) " +
	"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, 1)"

const updateGiven = "UPDATE idemq_records SET state = $3, fence = $4, nonce = $5, attempt = $6, abandoned = $7, interrupted = $8, generation = $9, " +
	"fingerprint = $10, result = $11, class = $12, message = $13, lease_until = $14, not_before = $15, retention = $16, created_at = $17, " +
	"failed_at = $18, updated_at = $19, expires_at = $20, sweep_hour = $21, version = version + 1 " +
	"WHERE scope = $1 AND id = $2 AND fence = $22 AND version = $23"

const extendedUntil = "{greatest}(expires_at, t.now + retention + $5)"

var extendText = `UPDATE idemq_records SET lease_until = t.now + CAST($5 AS bigint), updated_at = t.now, version = version + 1,
	expires_at = ` + extendedUntil + `, sweep_hour = ` + sweepHour(extendedUntil) + `
	FROM (SELECT {now} AS now) t WHERE ` + held

// settleSet is what a settlement changes; state, result and so on are expressions.
func settleSet(state, result, class, message, retention string) string {
	expires := "CASE WHEN generation > 1 THEN {greatest}(expires_at, t.now + " + retention + ") ELSE t.now + " + retention + " END"
	return `state = ` + state + `, result = ` + result + `, class = ` + class + `, message = ` + message + `, retention = ` + retention + `,
	lease_until = 0, not_before = 0, updated_at = t.now, version = version + 1,
	failed_at = CASE WHEN ` + state + ` <> 'c' AND failed_at = 0 THEN t.now ELSE failed_at END,
	expires_at = ` + expires + `, sweep_hour = ` + sweepHour("("+expires+")")
}

var settleText = `UPDATE idemq_records SET ` +
	settleSet("CAST($5 AS text)", "CAST($6 AS {blob})", "CAST($7 AS text)", "CAST($8 AS {blob})", "CAST($9 AS bigint)") +
	` FROM (SELECT {now} AS now) t WHERE ` + held

// A row may be replaced if it is only an older, unfinished claim, or the very claim that settles, or forgotten.
var insertSettledText = `INSERT INTO idemq_records (scope, id, state, fence, nonce, attempt, abandoned, interrupted, generation, fingerprint,
	result, class, message, retention, created_at, failed_at, updated_at, expires_at, sweep_hour, version)
	SELECT CAST($1 AS text), CAST($2 AS text), CAST($3 AS text), CAST($4 AS bigint), CAST($5 AS text), CAST($6 AS integer), CAST($7 AS integer),
		CAST($8 AS integer), CAST($9 AS integer), CAST($10 AS {blob}), CAST($11 AS {blob}), CAST($12 AS text), CAST($13 AS {blob}), CAST($14 AS bigint),
		CAST($15 AS bigint), CASE WHEN $3 <> 'c' AND CAST($16 AS bigint) = 0 THEN t.now ELSE $16 END, t.now, t.now + $14, ` + sweepHour("(t.now + $14)") + `, 1
	FROM (SELECT {now} AS now) t WHERE true
	ON CONFLICT (scope, id) DO UPDATE SET
		state = excluded.state, fence = excluded.fence, nonce = excluded.nonce, attempt = excluded.attempt, abandoned = excluded.abandoned,
		interrupted = excluded.interrupted, generation = excluded.generation, fingerprint = excluded.fingerprint, result = excluded.result,
		class = excluded.class, message = excluded.message, lease_until = 0, not_before = 0, retention = excluded.retention,
		created_at = excluded.created_at, failed_at = excluded.failed_at, updated_at = excluded.updated_at,
		expires_at = ` + replacedUntil + `, sweep_hour = ` + sweepHour(replacedUntil) + `, version = idemq_records.version + 1
	WHERE idemq_records.expires_at <= excluded.updated_at OR (idemq_records.state IN ('a', 'f') AND (idemq_records.fence < excluded.fence
		OR (idemq_records.fence = excluded.fence AND idemq_records.nonce = excluded.nonce AND idemq_records.state = 'a')))`

// A replayed record's memory never gets shorter.
const replacedUntil = "{greatest}(excluded.expires_at, CASE WHEN excluded.generation > 1 THEN idemq_records.expires_at ELSE 0 END)"

// demand makes the server refuse a transaction in which a change found nothing to change.
func demand(change, code string) string {
	return "WITH changed AS (" + change + " RETURNING 1) SELECT idemq_demand((SELECT count(*) FROM changed), '" + code + "')"
}

const listText = "SELECT t.now, scope, id, " + columns + " FROM idemq_records, (SELECT {now} AS now) t WHERE "

const stepText = `INSERT INTO idemq_steps (scope, id, name, data)
	SELECT scope, id, CAST($5 AS text), CAST($6 AS {blob}) FROM `

const stepConflict = " ON CONFLICT (scope, id, name) DO UPDATE SET data = excluded.data"

func (d *dialect) statements() statements {
	st := statements{
		read:          d.statement("SELECT t.now, " + columns + " FROM idemq_records, (SELECT {now} AS now) t WHERE scope = $1 AND id = $2"),
		clock:         d.statement("SELECT {now}"),
		insert:        d.statement(insertGiven + " ON CONFLICT (scope, id) DO NOTHING"),
		update:        d.statement(updateGiven),
		remove:        d.statement("DELETE FROM idemq_records WHERE scope = $1 AND id = $2 AND fence = $3 AND version = $4"),
		extend:        d.statement(extendText),
		settle:        d.statement(settleText),
		settleTx:      d.statement(settleText),
		insertSettled: d.statement(insertSettledText), insertSettledTx: d.statement(insertSettledText),
		list:      d.statement(listText + "expires_at > t.now AND (scope, id) > ($1, $2) ORDER BY scope, id LIMIT $3"),
		listScope: d.statement(listText + "expires_at > t.now AND scope = $1 AND id > $2 ORDER BY id LIMIT $3"),
		steps: d.statement("SELECT s.name, s.data FROM idemq_steps s JOIN idemq_records r ON r.scope = s.scope AND r.id = s.id, (SELECT {now} AS now) t " +
			"WHERE s.scope = $1 AND s.id = $2 AND r.expires_at > t.now ORDER BY s.n"),
	}
	// The time is a subquery of its own, since Postgres cannot look up in an index what is joined with a clock.
	expired := "SELECT scope, id FROM idemq_records WHERE sweep_hour <= (SELECT {now} / 3600000000) AND expires_at <= (SELECT {now}) " +
		"ORDER BY sweep_hour LIMIT $1"
	switch d.name {
	case SQLite:
		st.claim = d.statement(claimInsert + " RETURNING updated_at, " + columns)
		st.saveStep = d.statement(stepText + "idemq_records, (SELECT {now} AS now) t WHERE " + held + stepConflict)
		st.sweep = d.statement("DELETE FROM idemq_records WHERE (scope, id) IN (" + expired + ")")
	case Postgres:
		st.claim = d.statement(claimPostgres)
		// The lock holds off whoever would take the claim over meanwhile.
		st.saveStep = d.statement("WITH owned AS (SELECT scope, id FROM idemq_records, (SELECT {now} AS now) t WHERE " + held + " FOR UPDATE OF idemq_records) " +
			stepText + "owned" + stepConflict)
		st.sweep = d.statement("DELETE FROM idemq_records WHERE (scope, id) IN (" + expired + " FOR UPDATE OF idemq_records SKIP LOCKED)")
		st.settleTx = d.statement(demand(settleText, stateLost))
		st.insertSettledTx = d.statement(demand(insertSettledText, stateElsewhere))
		many := func(text string) *statement {
			st := d.statement(text)
			return &st
		}
		st.claimMany, st.settleMany, st.readMany, st.adoptMany = many(claimManyText), many(settleManyText), many(readManyText), many(adoptManyText)
	}
	return st
}
