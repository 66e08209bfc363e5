-- What idemq remembers of a key. Times are microseconds since 1970 by the server's
-- clock, 0 if there is none; durations are microseconds. States: a acquired,
-- f failed, c consumed, o dead with its letter owed, d dead.
--
-- fence and version together name one state of a row: every change raises the
-- version, and compares both. Most rows are inserted once and updated once within
-- the hour of the same sweep_hour, so that no index changes and the update stays on
-- its page (HOT), for which the fill factor leaves room.
CREATE TABLE idemq_records (
	scope       text COLLATE "C" NOT NULL,
	id          text COLLATE "C" NOT NULL,
	state       text COLLATE "C" NOT NULL,
	fence       bigint NOT NULL,
	version     bigint NOT NULL,
	nonce       text COLLATE "C" NOT NULL DEFAULT '',
	attempt     integer NOT NULL DEFAULT 0,
	abandoned   integer NOT NULL DEFAULT 0,
	interrupted integer NOT NULL DEFAULT 0,
	generation  integer NOT NULL DEFAULT 1,
	fingerprint bytea NOT NULL DEFAULT '',
	result      bytea NOT NULL DEFAULT '',
	class       text COLLATE "C" NOT NULL DEFAULT '',
	message     bytea NOT NULL DEFAULT '',
	lease_until bigint NOT NULL DEFAULT 0,
	not_before  bigint NOT NULL DEFAULT 0,
	retention   bigint NOT NULL DEFAULT 0,
	created_at  bigint NOT NULL,
	failed_at   bigint NOT NULL DEFAULT 0,
	updated_at  bigint NOT NULL,
	expires_at  bigint NOT NULL,
	sweep_hour  bigint NOT NULL,
	PRIMARY KEY (scope, id)
) WITH (fillfactor = 70)
-- next statement
-- Whole hours since 1970, rounded up from expires_at.
CREATE INDEX idemq_records_sweep ON idemq_records (sweep_hour)
-- next statement
-- Finished steps of a handler's work, forgotten with the record. n is the order in
-- which they were saved first.
CREATE TABLE idemq_steps (
	scope text COLLATE "C" NOT NULL,
	id    text COLLATE "C" NOT NULL,
	name  text COLLATE "C" NOT NULL,
	n     bigint GENERATED ALWAYS AS IDENTITY,
	data  bytea NOT NULL,
	PRIMARY KEY (scope, id, name),
	FOREIGN KEY (scope, id) REFERENCES idemq_records ON DELETE CASCADE
)
-- next statement
-- Makes a transaction in which a claim could not be settled impossible to commit,
-- also where its caller does not look at the answer (a batch of statements).
CREATE FUNCTION idemq_demand(settled bigint, code text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF settled <> 1 THEN
		RAISE EXCEPTION USING ERRCODE = code, MESSAGE = CASE code
			WHEN 'IQ001' THEN 'idemq: lease lost: the claim is not held any more, so this transaction must not be committed'
			ELSE 'idemq: the key was settled by another claim, so this transaction must not be committed' END;
	END IF;
	RETURN true;
END $$
