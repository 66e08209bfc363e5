-- Effects by key, for sinks that count: a second insert of the same key finds the
-- first. made_at is the time of SQLite's host, in UTC.
CREATE TABLE idemq_effects (
	scope   TEXT NOT NULL,
	id      TEXT NOT NULL,
	name    TEXT NOT NULL,
	made_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
	PRIMARY KEY (scope, id, name)
) WITHOUT ROWID
-- next statement
-- The largest fence that has written, for sinks that order writers.
CREATE TABLE idemq_fences (
	scope TEXT NOT NULL,
	id    TEXT NOT NULL,
	name  TEXT NOT NULL,
	fence INTEGER NOT NULL,
	PRIMARY KEY (scope, id, name)
) WITHOUT ROWID
