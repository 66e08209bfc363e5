package httppub_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/idemq/idemq/publisher/httppub"
)

// A server that is down for the first try.
func Example() {
	tries := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("key", r.Header.Get("Idempotency-Key"))
		if tries++; tries == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()

	client := &http.Client{Transport: httppub.New(nil, httppub.Config{})}
	ctx := httppub.WithKey(context.Background(), "order-4711")
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, strings.NewReader(`{"product":"p1"}`))
	must(err)
	resp, err := client.Do(r)
	must(err)
	must(resp.Body.Close())
	client.CloseIdleConnections()
	fmt.Println(resp.StatusCode)
	// Output:
	// key order-4711
	// key order-4711
	// 200
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
