package httpidem_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// The standard mux: the same request twice, then another one under its key.
func Example() {
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{}) // redisstore where several servers work
	must(err)
	idem, err := httpidem.New(d, httpidem.Config{Principal: tenantOf})
	must(err)

	addItem := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("adding under key", dedup.KeyFrom(r.Context()).ID) // give it to the database, too
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"item":1}`)
	})
	mux := http.NewServeMux()
	mux.Handle("POST /cart/items", idem(addItem))

	srv := httptest.NewServer(mux)
	defer srv.Close()
	post(srv.URL+"/cart/items", "order-4711", `{"product":"p1"}`)
	post(srv.URL+"/cart/items", "order-4711", `{"product":"p1"}`)
	post(srv.URL+"/cart/items", "order-4711", `{"product":"p2"}`)
	// Output:
	// adding under key order-4711
	// 201 {"item":1}
	// 200 {"item":1} (replayed)
	// 422 {"type":"urn:idemq:problem:conflict","title":"The key belongs to another request","status":422,"detail":"This key was used for a request with another path, query or body. A new operation needs a new key; a retry must not change the request."}
}

// chi takes it as it is, for one route or for many. Use puts it before the routing, where no pattern is known yet: then
// keys are scoped by path.
func Example_chi() {
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	must(err)
	idem, err := httpidem.New(d, httpidem.Config{Principal: tenantOf})
	must(err)

	r := chi.NewRouter()
	r.With(idem).Post("/carts/{id}/items", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "added to cart "+chi.URLParam(r, "id"))
	})

	srv := httptest.NewServer(r)
	defer srv.Close()
	post(srv.URL+"/carts/7/items", "order-4711", `{"product":"p1"}`)
	post(srv.URL+"/carts/7/items", `"order-4711"`, `{"product":"p1"}`)
	// Output:
	// 200 added to cart 7
	// 200 added to cart 7 (replayed)
}

// tenantOf stands for what authenticates: it must not be something that a client can choose.
func tenantOf(*http.Request) string { return "tenant-1" }

func post(url, key, body string) {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, strings.NewReader(body))
	must(err)
	r.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(r)
	must(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(err)
	fmt.Print(resp.StatusCode, " ", strings.TrimSpace(string(answer)))
	if resp.Header.Get("Idempotent-Replayed") != "" {
		fmt.Print(" (replayed)")
	}
	fmt.Println()
	http.DefaultClient.CloseIdleConnections()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
