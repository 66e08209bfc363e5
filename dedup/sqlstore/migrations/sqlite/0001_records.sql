-- What idemq remembers of a key. Times are microseconds since 1970 by the clock of
-- the process that wrote them, 0 if there is none; durations are microseconds.
-- States: a acquired, f failed, c consumed, o dead with its letter owed, d dead.
-- fence and version together name one state of a row: every change raises the
-- version, and compares both.
CREATE TABLE idemq_records (
	scope       TEXT NOT NULL,
	id          TEXT NOT NULL,
	state       TEXT NOT NULL,
	fence       INTEGER NOT NULL,
	version     INTEGER NOT NULL,
	nonce       TEXT NOT NULL DEFAULT '',
	attempt     INTEGER NOT NULL DEFAULT 0,
	abandoned   INTEGER NOT NULL DEFAULT 0,
	interrupted INTEGER NOT NULL DEFAULT 0,
	generation  INTEGER NOT NULL DEFAULT 1,
	fingerprint BLOB NOT NULL DEFAULT x'',
	result      BLOB NOT NULL DEFAULT x'',
	class       TEXT NOT NULL DEFAULT '',
	message     BLOB NOT NULL DEFAULT x'',
	lease_until INTEGER NOT NULL DEFAULT 0,
	not_before  INTEGER NOT NULL DEFAULT 0,
	retention   INTEGER NOT NULL DEFAULT 0,
	created_at  INTEGER NOT NULL,
	failed_at   INTEGER NOT NULL DEFAULT 0,
	updated_at  INTEGER NOT NULL,
	expires_at  INTEGER NOT NULL,
	sweep_hour  INTEGER NOT NULL,
	PRIMARY KEY (scope, id)
) WITHOUT ROWID
-- next statement
-- Whole hours since 1970, rounded up from expires_at.
CREATE INDEX idemq_records_sweep ON idemq_records (sweep_hour)
-- next statement
-- Finished steps of a handler's work. n is the order in which they were saved first.
CREATE TABLE idemq_steps (
	n     INTEGER PRIMARY KEY AUTOINCREMENT,
	scope TEXT NOT NULL,
	id    TEXT NOT NULL,
	name  TEXT NOT NULL,
	data  BLOB NOT NULL,
	UNIQUE (scope, id, name)
)
-- next statement
-- A foreign key would hold only in connections that have asked for it.
CREATE TRIGGER idemq_steps_forgotten AFTER DELETE ON idemq_records BEGIN
	DELETE FROM idemq_steps WHERE scope = OLD.scope AND id = OLD.id;
END
