package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/sqlstore"
)

// An account is charged and the key consumed in one transaction. The second call changes nothing.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "idemq")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "orders.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := errors.Join(sqlstore.Migrate(ctx, db, sqlstore.SQLite), exec(ctx, db, "CREATE TABLE charges (cents INTEGER)")); err != nil {
		log.Fatal(err)
	}
	store, err := sqlstore.New(ctx, db, sqlstore.SQLite, sqlstore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	d, err := dedup.New(store, dedup.Config{SettleInTx: true})
	if err != nil {
		log.Fatal(err)
	}
	charge := func(ctx context.Context) ([]byte, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		defer func() { _ = tx.Rollback() }()
		if err := exec(ctx, tx, "INSERT INTO charges VALUES (500)"); err != nil {
			return nil, err
		}
		if err := dedup.SettleTx(ctx, tx); err != nil {
			return nil, err
		}
		return nil, tx.Commit()
	}
	for range 2 {
		out, err := d.Do(ctx, dedup.Key{Scope: "billing", ID: "order-4711"}, charge)
		fmt.Println(out.Verdict, err)
	}
	var cents int
	if err := db.QueryRowContext(ctx, "SELECT sum(cents) FROM charges").Scan(&cents); err != nil {
		log.Fatal(err)
	}
	fmt.Println(cents)
	// Output:
	// granted <nil>
	// duplicate <nil>
	// 500
}

func exec(ctx context.Context, tx dedup.Tx, statement string) error {
	_, err := tx.ExecContext(ctx, statement)
	return err
}
