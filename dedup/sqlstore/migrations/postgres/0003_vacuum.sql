-- A key's row is inserted, settled once and deleted by a sweep. Settlements clean up
-- behind themselves (HOT); what sweeps delete waits for a vacuum. By default that
-- comes when a fifth of the table is dead, which is millions of rows of a long
-- memory; here, when a fiftieth is, so that each one is short.
ALTER TABLE idemq_records SET (
	autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
	autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 1000,
	autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_insert_threshold = 10000
)
-- next statement
ALTER TABLE idemq_steps SET (
	autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
	autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_insert_threshold = 10000
)
