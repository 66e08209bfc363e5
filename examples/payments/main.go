// Command payments shows a JetStream worker whose effect, a row in a database, and the mark that its message is consumed are
// committed in one transaction: both are there or neither, whatever happens between them.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/sqlstore"
	"github.com/idemq/idemq/examples/internal/embedded"
	"github.com/idemq/idemq/examples/internal/scratchdb"
	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
)

const (
	stream, durable, subject = "IDEMQ_EXAMPLE_PAYMENTS", "ledger", "idemq.example.payments"
	limit, idle              = time.Minute, 200 * time.Millisecond
)

func main() {
	url := flag.String("nats", "", "URL of a NATS server with JetStream; none starts one in this process")
	dbURL := flag.String("db", "", "postgres://… of a database; none takes SQLite in a temporary file")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := run(ctx, *url, *dbURL); err != nil {
		fmt.Fprintln(os.Stderr, "payments:", err)
		cancel()
		os.Exit(1)
	}
}

// payment is what the message says. It breaks "before the commit", the first time, or "after the commit", every time.
type payment struct {
	ID     string
	Euro   int
	Breaks string
}

type ledger struct{ *sql.DB }

// charge is the handler: effect and mark in one transaction.
func (l ledger) charge(ctx context.Context, p payment) error {
	fmt.Printf("  attempt %d charges %d EUR\n", dedup.AttemptFrom(ctx), p.Euro)
	tx, err := l.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing, once it is committed
	if _, err := tx.ExecContext(ctx, "INSERT INTO payments VALUES ($1, $2)", p.ID, p.Euro); err != nil {
		return err
	}
	if err := dedup.SettleTx(ctx, tx); err != nil { // last before the commit
		return err
	}
	if p.Breaks == "before the commit" && dedup.AttemptFrom(ctx) == 1 {
		return errors.New("it breaks before the commit")
	}
	if err := tx.Commit(); err != nil || p.Breaks != "after the commit" {
		return err
	}
	return errors.New("it breaks after the commit")
}

// Observe prints what becomes of a message, and what the database says then.
func (l ledger) Observe(e consumer.Event) {
	if slices.Contains([]consumer.EventKind{consumer.Executed, consumer.DuplicateAck, consumer.DeadLettered}, e.Kind) {
		fmt.Printf("  %s; rows: %s\n", e.Kind, l.rows())
	} else if e.Kind == consumer.Retried {
		fmt.Printf("  %s, since %v; rows: %s\n", e.Kind, e.Err, l.rows())
	}
}

// rows asks the database. A second charge would be a second row: no constraint forbids it.
func (l ledger) rows() string {
	var rows, euro int
	err := l.QueryRowContext(context.Background(), "SELECT count(*), coalesce(sum(euro), 0) FROM payments").Scan(&rows, &euro)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d, of %d EUR", rows, euro)
}

func run(ctx context.Context, url, dbURL string) (err error) {
	db, dialect, closeDB, err := scratchdb.Open(ctx, dbURL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeDB()) }()
	_, noTable := db.ExecContext(ctx, "CREATE TABLE payments (id TEXT NOT NULL, euro INTEGER NOT NULL)")
	if err := errors.Join(noTable, sqlstore.Migrate(ctx, db, dialect)); err != nil {
		return err
	}
	store, err := sqlstore.New(ctx, db, dialect, sqlstore.Config{}) // in the database of the effects
	if err != nil {
		return err
	}
	d, err := dedup.New(store, dedup.Config{SettleInTx: true})
	if err != nil {
		return err
	}
	nc, done, err := embedded.Connect(url)
	if err != nil {
		return err
	}
	defer done()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	l := ledger{db}
	cfg := natsidem.Config{Config: consumer.Config{Observer: l}, NoReplays: true, IdleExit: idle} // a real one does not exit
	w, noWorker := natsidem.New(js, stream, durable, d, consumer.JSON(l.charge), cfg)
	_, noConsumer := natsidem.EnsureConsumer(ctx, js, stream, []string{subject}, durable, d, cfg)
	if err := errors.Join(noWorker, noConsumer); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, js.DeleteStream(context.WithoutCancel(ctx), stream)) }()
	lamp, chair, table := payment{"lamp", 10, ""}, payment{"chair", 20, "before the commit"}, payment{"table", 40, "after the commit"}
	for n, p := range []payment{lamp, lamp, chair, table, table} {
		fmt.Printf("message %d: %d EUR for the %s\n", n+1, p.Euro, p.ID)
		data, unreadable := json.Marshal(p)
		m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{nats.MsgIdHdr: {fmt.Sprint(n)}}} // no duplicate to the stream
		_, unsent := natspub.New(js, natspub.Config{}).PublishMsg(ctx, m, publisher.Key("payment-"+p.ID))
		if err := errors.Join(unreadable, unsent, w.Run(ctx), ctx.Err()); err != nil { // Run: until it is acknowledged
			return err
		}
	}
	want := fmt.Sprintf("%d, of %d EUR", 3, lamp.Euro+chair.Euro+table.Euro)
	if got := l.rows(); got != want {
		return fmt.Errorf("payments: %s; rows: %s", want, got)
	}
	fmt.Println("payments and rows:", want)
	return nil
}
