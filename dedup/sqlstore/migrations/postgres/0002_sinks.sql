-- Effects by key, for sinks that count: a second insert of the same key finds the
-- first. made_at is the server's time.
CREATE TABLE idemq_effects (
	scope   text COLLATE "C" NOT NULL,
	id      text COLLATE "C" NOT NULL,
	name    text COLLATE "C" NOT NULL,
	made_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (scope, id, name)
)
-- next statement
-- The largest fence that has written, for sinks that order writers.
CREATE TABLE idemq_fences (
	scope text COLLATE "C" NOT NULL,
	id    text COLLATE "C" NOT NULL,
	name  text COLLATE "C" NOT NULL,
	fence bigint NOT NULL,
	PRIMARY KEY (scope, id, name)
)
