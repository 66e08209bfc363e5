// Command cart is a shopping cart over HTTP whose POST is idempotent: a client that does not know whether its item is in the
// cart sends it again under the same Idempotency-Key, and it is in the cart once.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	_ "modernc.org/sqlite"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
)

// An addition and what it does to the counter are one change, and its key is there once: should the server die before the
// outcome is recorded, the next try under the key adds nothing.
const (
	schema = `CREATE TABLE IF NOT EXISTS items (product TEXT PRIMARY KEY, quantity INTEGER NOT NULL) STRICT;
		CREATE TABLE IF NOT EXISTS additions (key TEXT PRIMARY KEY, product TEXT, quantity INTEGER) STRICT;
		CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON additions BEGIN INSERT INTO items VALUES (new.product, new.quantity)
			ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity; END;`
	add  = `INSERT INTO additions VALUES (?, ?, ?) ON CONFLICT DO NOTHING`
	show = `SELECT json_object('product', product, 'quantity', i.quantity) FROM additions JOIN items i USING (product) WHERE key = ?`
	list = `SELECT json_object('items', json_group_array(json_object('product', product, 'quantity', quantity) ORDER BY product)) FROM items`
)

var errItem = errors.New(`send {"product":"p1","quantity":1}; a product has 1 to 64 letters, digits, _ . or -, a quantity is from 1 to 1000`)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen; port 0 takes a free one")
	store := flag.String("store", "memory", "where keys are kept: memory, or the URL of a Redis that several servers share")
	file := flag.String("db", ":memory:", "SQLite file of the rows; without one they end with the program")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "example: cart --addr 127.0.0.1:8080 --store redis://127.0.0.1:6379 --db cart.db")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, *addr, *store, *file); err != nil {
		fmt.Fprintln(os.Stderr, "cart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, storeURL, file string) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("%q is no flag; see --help", flag.Arg(0))
	}
	keys := dedup.Store(memstore.New(memstore.Config{}))
	if storeURL != "memory" {
		redis, closeStore, err := redisstore.Open(storeURL, redisstore.Config{})
		if err != nil {
			return fmt.Errorf("--store is neither memory nor the URL of a Redis: %w", err)
		}
		defer func() { _ = closeStore() }()
		if err := redis.Ping(ctx); err != nil {
			return fmt.Errorf("the store does not answer: %w", err)
		}
		keys = redis
	}
	db, err := sql.Open("sqlite", "file:"+url.PathEscape(file)+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // every change is committed
	handler, err := newHandler(ctx, keys, db)
	if err != nil {
		return fmt.Errorf("cannot keep rows in %q: %w; give --db a file of its own", file, err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w; choose another --addr", err)
	}
	fmt.Fprintf(os.Stderr, "cart: listening at http://%s\n", l.Addr())
	srv, ended := &http.Server{Handler: handler, ReadTimeout: 20 * time.Second}, make(chan error, 1)
	context.AfterFunc(ctx, func() { ended <- srv.Shutdown(context.WithoutCancel(ctx)) }) // when all that runs is recorded
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

func newHandler(ctx context.Context, keys dedup.Store, db *sql.DB) (http.Handler, error) {
	db.SetMaxOpenConns(1) // SQLite has one writer, and each connection to :memory: would have rows of its own
	_, noRows := db.ExecContext(ctx, schema)
	d, noKeys := dedup.New(keys, dedup.Config{})
	idem, err := httpidem.New(d, httpidem.Config{Principal: httpidem.SingleTenant, Service: "cart"}) // all have one cart
	if err := errors.Join(noRows, noKeys, err); err != nil {
		return nil, err
	}
	mux, product := http.NewServeMux(), regexp.MustCompile(`^[\w.-]{1,64}$`)
	mux.Handle("POST /cart/items", idem(answer(http.StatusCreated, func(r *http.Request, row *string) error {
		var in struct {
			Product  string
			Quantity int
		}
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil {
			return fmt.Errorf("%w: %w", errItem, err)
		}
		if _, end := d.Token(); !errors.Is(end, io.EOF) || !product.MatchString(in.Product) || in.Quantity < 1 || in.Quantity > 1000 {
			return errItem
		}
		key := dedup.KeyFrom(r.Context()).String()
		if _, err := db.ExecContext(r.Context(), add, key, in.Product, in.Quantity); err != nil {
			return err
		}
		return db.QueryRowContext(r.Context(), show, key).Scan(row)
	})))
	mux.Handle("GET /cart", answer(http.StatusOK, func(r *http.Request, items *string) error {
		return db.QueryRowContext(r.Context(), list).Scan(items)
	}))
	return mux, nil
}

func answer(status int, write func(r *http.Request, body *string) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, kind, body := status, "application/json", ""
		if err := write(r, &body); err != nil {
			status, kind = http.StatusInternalServerError, "application/problem+json" // the key may try again
			if errors.Is(err, errItem) {
				status = http.StatusBadRequest
			}
			b, _ := json.Marshal(map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": err.Error()})
			body = string(b)
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprintln(w, body)
	})
}
