package sqlstore

// The batches come as one JSON array, which every driver can send as text. Only Postgres has them: on SQLite there is no
// round trip to save.

// claimManyText answers with (i, is it fresh, the time, columns) for each claim; a claim without an answer met somebody who
// was inserting the key just then. Rows are inserted in the order of keys, so that two batches do not wait for each other.
var claimManyText = `WITH t AS (SELECT {now} AS now), c AS (
		SELECT * FROM json_to_recordset(CAST($1 AS json)) AS x(i int, scope text COLLATE "C", id text COLLATE "C",
			nonce text, print text, lease bigint, memory bigint)),
	fresh AS (INSERT INTO idemq_records
		(scope, id, state, fence, version, nonce, attempt, generation, fingerprint, lease_until, retention, created_at, updated_at, expires_at, sweep_hour)
		SELECT c.scope, c.id, 'a', t.now, 1, c.nonce, 1, 1, decode(c.print, 'hex'), t.now + c.lease, c.memory, t.now, t.now, t.now + c.lease + c.memory, ` +
	sweepHour("(t.now + c.lease + c.memory)") + `
		FROM c, t ORDER BY c.scope, c.id
		ON CONFLICT (scope, id) DO NOTHING RETURNING scope, id, ` + columns + `)
	SELECT c.i, true, t.now, ` + columnsOf("fresh") + ` FROM t, fresh JOIN c ON c.scope = fresh.scope AND c.id = fresh.id
	UNION ALL
	SELECT c.i, false, t.now, ` + columnsOf("r") + ` FROM t, c JOIN idemq_records r ON c.scope = r.scope AND c.id = r.id`

// settleManyText answers with the i of each claim that it has settled.
var settleManyText = `WITH c AS (
		SELECT * FROM json_to_recordset(CAST($1 AS json)) AS x(i int, scope text COLLATE "C", id text COLLATE "C",
			fence bigint, nonce text COLLATE "C", new_state text, new_result text, new_class text, new_message text, memory bigint))
	UPDATE idemq_records r SET ` +
	settleSet("c.new_state", "decode(c.new_result, 'base64')", "c.new_class", "decode(c.new_message, 'base64')", "c.memory") + `
	FROM c, (SELECT {now} AS now) t
	WHERE r.scope = c.scope AND r.id = c.id AND r.fence = c.fence AND r.nonce = c.nonce AND r.state = 'a' AND r.expires_at > t.now
	RETURNING c.i`

// readManyText answers with (i, the time, columns) for each key that has a row.
var readManyText = `SELECT c.i, t.now, ` + columnsOf("r") + ` FROM (SELECT {now} AS now) t,
	json_to_recordset(CAST($1 AS json)) AS c(i int, scope text COLLATE "C", id text COLLATE "C")
	JOIN idemq_records r ON r.scope = c.scope AND r.id = c.id`

// adoptManyText inserts settled records of keys that have no row, and answers with the i of each.
var adoptManyText = `WITH t AS (SELECT {now} AS now), c AS (
		SELECT * FROM json_to_recordset(CAST($1 AS json)) AS x(i int, scope text COLLATE "C", id text COLLATE "C", state text, fence bigint,
			nonce text, attempt int, abandoned int, interrupted int, generation int, print text, result text, class text, message text,
			retention bigint, memory bigint, created_at bigint, failed_at bigint, updated_at bigint)),
	done AS (INSERT INTO idemq_records (scope, id, state, fence, version, nonce, attempt, abandoned, interrupted, generation, fingerprint,
		result, class, message, retention, created_at, failed_at, updated_at, expires_at, sweep_hour)
		SELECT c.scope, c.id, c.state, c.fence, 1, c.nonce, c.attempt, c.abandoned, c.interrupted, c.generation, decode(c.print, 'hex'),
			decode(c.result, 'base64'), c.class, decode(c.message, 'base64'), c.retention, c.created_at, c.failed_at, c.updated_at,
			t.now + c.memory, ` + sweepHour("(t.now + c.memory)") + `
		FROM c, t ORDER BY c.scope, c.id
		ON CONFLICT (scope, id) DO NOTHING RETURNING scope, id)
	SELECT c.i FROM c JOIN done ON c.scope = done.scope AND c.id = done.id`
