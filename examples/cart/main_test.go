package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup/memstore"
)

// serve returns a server with an empty memory of keys over the rows of a file.
func serve(t *testing.T, file string) http.Handler {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	h, err := newHandler(t.Context(), memstore.New(memstore.Config{}), db)
	require.NoError(t, err)
	return h
}

func call(t *testing.T, h http.Handler, method, path, key, body string) (status int, answer string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code >= http.StatusBadRequest {
		var p struct {
			Type, Title, Detail string
			Status              int
		}
		assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p), w.Body.String())
		assert.Equal(t, w.Code, p.Status)
		assert.NotEmpty(t, p.Type)
		assert.NotEmpty(t, p.Title)
		return w.Code, p.Detail
	}
	assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func post(t *testing.T, h http.Handler, key, body string) (int, string) {
	t.Helper()
	return call(t, h, http.MethodPost, "/cart/items", key, body)
}

func listed(t *testing.T, h http.Handler) string {
	t.Helper()
	status, answer := call(t, h, http.MethodGet, "/cart", "", "")
	require.Equal(t, http.StatusOK, status, answer)
	return answer
}

func TestCounters(t *testing.T) {
	t.Parallel()
	h := serve(t, filepath.Join(t.TempDir(), "cart.db"))
	assert.JSONEq(t, `{"items":[]}`, listed(t, h))
	for _, c := range []struct {
		key, body, answer string
		status            int
	}{
		{"k1", `{"product":"p1","quantity":1}`, `{"product":"p1","quantity":1}`, 201},
		{"k2", `{"product":"p1","quantity":2}`, `{"product":"p1","quantity":3}`, 201},
		{"k3", `{"product":"p0","quantity":1000}`, `{"product":"p0","quantity":1000}`, 201},
		{"k1", `{"product":"p1","quantity":1}`, `{"product":"p1","quantity":1}`, 200},
		{"k2", `{"product":"p1","quantity":2}`, `{"product":"p1","quantity":3}`, 200},
	} {
		status, answer := post(t, h, c.key, c.body)
		assert.Equal(t, c.status, status, c)
		assert.Equal(t, c.answer, answer, c)
	}
	status, _ := post(t, h, "k1", `{"product":"p1","quantity":2}`)
	assert.Equal(t, http.StatusUnprocessableEntity, status)
	assert.JSONEq(t, `{"items":[{"product":"p0","quantity":1000},{"product":"p1","quantity":3}]}`, listed(t, h))
}

// A server that died between the change and its record knows the key from its rows.
func TestAKeyThatOnlyTheRowsKnowAddsNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "cart.db")
	const body = `{"product":"p1","quantity":2}`
	status, _ := post(t, serve(t, file), "k1", body)
	require.Equal(t, http.StatusCreated, status)

	again := serve(t, file)
	status, answer := post(t, again, "k1", body)
	assert.Equal(t, http.StatusCreated, status)
	assert.JSONEq(t, body, answer)
	assert.JSONEq(t, `{"items":[{"product":"p1","quantity":2}]}`, listed(t, again))
}

func TestParallelDuplicates(t *testing.T) {
	t.Parallel()
	h := serve(t, ":memory:")
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			status, answer := post(t, h, fmt.Sprint("k", n%4), `{"product":"p1","quantity":1}`)
			assert.Contains(t, []int{http.StatusCreated, http.StatusOK, http.StatusConflict}, status, answer)
		})
	}
	all.Wait()
	assert.JSONEq(t, `{"items":[{"product":"p1","quantity":4}]}`, listed(t, h))
}

func TestBadItems(t *testing.T) {
	t.Parallel()
	h := serve(t, ":memory:")
	for n, c := range []struct{ body, want string }{
		{``, "EOF"},
		{`{"product":"p1",`, "unexpected EOF"},
		{`[]`, "cannot unmarshal"},
		{`null`, "a product has"},
		{`{}`, "a product has"},
		{`{"product":"p1"}`, "a quantity is"},
		{`{"product":"p1","quantity":0}`, "a quantity is"},
		{`{"product":"p1","quantity":-1}`, "a quantity is"},
		{`{"product":"p1","quantity":1001}`, "a quantity is"},
		{`{"product":"p1","quantity":1.5}`, "cannot unmarshal"},
		{`{"product":"p1","quantity":99999999999999999999}`, "cannot unmarshal"},
		{`{"product":"p1","quantity":"1"}`, "cannot unmarshal"},
		{`{"product":"p1","quantity":1,"price":1}`, `unknown field "price"`},
		{`{"product":"p1","quantity":1}}`, "send {"},
		{`{"product":"p1","quantity":1}{"product":"p1","quantity":1}`, "send {"},
		{`{"product":"","quantity":1}`, "a product has"},
		{`{"product":"p\u0000","quantity":1}`, "a product has"},
		{`{"product":"p 1","quantity":1}`, "a product has"},
		{"{\"product\":\"\xff\",\"quantity\":1}", "a product has"},
		{`{"product":"` + strings.Repeat("x", 65) + `","quantity":1}`, "a product has"},
		{`{"product":"` + strings.Repeat("x", 500_000) + `","quantity":1}`, "a product has"},
	} {
		status, detail := post(t, h, fmt.Sprint("k", n), c.body)
		assert.Equal(t, http.StatusBadRequest, status, n)
		assert.Contains(t, detail, c.want, n)
	}
	status, _ := post(t, h, "", `{"product":"p1","quantity":1}`)
	assert.Equal(t, http.StatusBadRequest, status)
	assert.JSONEq(t, `{"items":[]}`, listed(t, h))
	status, _ = post(t, h, "fits", `{"product":"`+strings.Repeat("x", 64)+`","quantity":1}`)
	assert.Equal(t, http.StatusCreated, status)
}

func TestWhatCannotWorkIsSaid(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	const free = "127.0.0.1:0"
	for _, c := range []struct{ addr, store, file, want string }{
		{"127.0.0.1:99999", "memory", ":memory:", "invalid port; choose another --addr"},
		{"nonsense", "memory", ":memory:", "missing port in address; choose another --addr"},
		{taken.Addr().String(), "memory", ":memory:", "address already in use; choose another --addr"},
		{free, "memory", t.TempDir(), "give --db a file of its own"},
		{free, "memory", filepath.Join(t.TempDir(), "no", "folder"), "unable to open database file"},
		{free, "memory", "main_test.go", "file is not a database"},
		{free, "nonsense", ":memory:", "--store is neither memory nor the URL of a Redis"},
		{free, "redis://me:secret@127.0.0.1:1", ":memory:", "the store does not answer"},
	} {
		err := run(t.Context(), c.addr, c.store, c.file)
		require.ErrorContains(t, err, c.want)
		assert.NotContains(t, err.Error(), "secret")
	}
}
