// Package sqlstore keeps records in Postgres or SQLite through database/sql, and settles in the transaction of a handler's
// effect, so that both are committed together or not at all. It brings no driver.
//
//	db, err := sql.Open("pgx", url)
//	err = sqlstore.Migrate(ctx, db, sqlstore.Postgres) // at every start, by every process
//	store, err := sqlstore.New(ctx, db, sqlstore.Postgres, sqlstore.Config{})
//	d, err := dedup.New(store, dedup.Config{SettleInTx: true})
//
//	func handle(ctx context.Context, o Order) error {
//		tx, err := db.BeginTx(ctx, nil)
//		if err != nil {
//			return err
//		}
//		defer tx.Rollback()
//		if err := charge(ctx, tx, o); err != nil {
//			return err
//		}
//		if err := dedup.SettleTx(ctx, tx); err != nil { // last before the commit
//			return err
//		}
//		return tx.Commit()
//	}
//
// # What counts effects, and what does not
//
//	dedup.SettleTx     the record is settled in the effect's transaction     one effect, while the record is remembered
//	sqlstore.Once      the key is inserted under a unique constraint there    one effect, as long as that row; any store
//	sqlstore.Newest    writers are ordered by fence                           a stale owner cannot overwrite; effects may repeat
//	neither            claim, effect, settlement one after another            a crash between the last two repeats the effect
//
// # How it works
//
// A fresh claim, a duplicate, a heartbeat and a settlement are one statement each; what the rules have to decide (a retry,
// a takeover, a release, …) is read, decided by package transition and written with a compare-and-set on the row's fence and
// version. No transaction of the store stays open between two statements, so it works behind a pooler that hands out
// connections by transaction. On Postgres AcquireMany and SettleMany, and GetMany and AdoptMany for a tiered store,
// take one statement for all keys.
//
// On Postgres every time is the server's; the clocks of workers do not matter. On SQLite it is the host's, of the process
// that writes: all processes are on that host. Fences are microseconds of that clock; they grow while it is not set back.
//
// Serialization failures, deadlocks and a busy SQLite database are tried again, up to twelve times within about a second
// and the call's time limit. A statement inside the caller's transaction never is.
//
// Records are removed within the hour after they have expired, by claims as they go (see [Config]) or by [Store.Sweep], in
// small steps.
//
// # A transaction that stays open
//
// From SettleTx to its end a transaction holds the row of the key. Heartbeats of the same claim and takeovers by others wait
// for it. So call SettleTx last. If the transaction outlasts the lease the handler's context is cancelled, which rolls back a
// transaction that was begun with that context; if it commits first the others find the key consumed. Before SettleTx
// nothing is held: if somebody has taken over meanwhile, SettleTx fails, and with it the transaction.
//
// A handler that returns without an error has its transaction looked for, with one read: not committed is
// [dedup.ErrNotCommitted] and tried again. With SettleInTx a handler that has not called SettleTx makes a dead letter at
// once ([dedup.ErrNotSettledInTx]): its effect may be committed, and running it again would repeat it. A handler that has
// nothing to do for a message calls SettleTx in an empty transaction.
//
// # Behind a fast store
//
// Where claims live in another store, [Store.InsertSettledTx] keeps the settled record in the effect's transaction: the row
// is unique for scope and key, so of two owners one can commit, and the other gets [dedup.ErrSettledElsewhere]. The fast
// store must grant no fresh claim and no takeover before it has read this one.
//
// # Limits
//
//   - Postgres 13 or later, database encoding UTF8, a primary: a replica may not know yet what is consumed. With
//     synchronous_commit off a crash of the server forgets the last settlements, and their messages run again.
//   - SQLite 3.35 or later, in a file. Advised: journal_mode(WAL), busy_timeout(5000) and synchronous(FULL); with NORMAL a
//     power failure forgets the last settlements. There is one writer at a time: keep transactions short.
//   - database/sql keeps two idle connections unless told otherwise: set SetMaxIdleConns to the number of workers.
//   - There is no [dedup.Watcher]: LISTEN needs the driver's own interface. [dedup.Deduper.Await], and what waits by it, reads
//     the record again instead, after pauses that double from 10 ms to a second; each read is one statement.
//   - A schema that a newer build has migrated is refused by New; processes that run already go on.
package sqlstore
