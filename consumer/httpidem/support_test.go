package httpidem_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

const patience = 60 * time.Second

// service is one server with a guarded handler.
type service struct {
	t      *testing.T
	srv    *httptest.Server
	client *http.Client // nil for the server's own
	store  *counting
	runs   atomic.Int64

	mu     sync.Mutex
	events []httpidem.Event
}

// serve starts a server whose handler is guarded, with memstore unless store is given.
func serve(t *testing.T, store dedup.Store, cfg httpidem.Config, h http.HandlerFunc) *service {
	t.Helper()
	return serveWith(t, store, dedup.Config{}, cfg, h)
}

func serveWith(t *testing.T, store dedup.Store, core dedup.Config, cfg httpidem.Config, h http.HandlerFunc) *service {
	t.Helper()
	if store == nil {
		store = memstore.New(memstore.Config{})
	}
	s := &service{t: t, store: &counting{Store: store}}
	d, err := dedup.New(s.store.asAble(), core)
	require.NoError(t, err)
	if cfg.Principal == nil {
		cfg.Principal = httpidem.SingleTenant
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Observe = func(_ *http.Request, e httpidem.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, e)
	}
	idem, err := httpidem.New(d, cfg)
	require.NoError(t, err)
	s.srv = httptest.NewUnstartedServer(idem(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.runs.Add(1)
		h(w, r)
	})))
	s.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.srv.Start()
	t.Cleanup(s.srv.Close)
	return s
}

func (s *service) seen() []httpidem.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]httpidem.Event(nil), s.events...)
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) replayed() bool { return a.header.Get(httpidem.ReplayedHeader) == "true" }

// problem returns the type of the problem that the answer is, and checks its form.
func (a answer) problem(t *testing.T) string {
	t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), a.body)
	require.NoError(t, json.Unmarshal([]byte(a.body), &p))
	assert.NotEmpty(t, p.Title)
	assert.NotEmpty(t, p.Detail)
	assert.Equal(t, a.status, p.Status)
	return p.Type
}

func (s *service) request(method, path, key, body string) *http.Request {
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.srv.URL+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if key != "" {
		r.Header.Set(httpidem.KeyHeader, key)
	}
	return r
}

func (s *service) try(r *http.Request) (answer, error) {
	client := s.client
	if client == nil {
		client = s.srv.Client()
	}
	resp, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}, err
}

func (s *service) do(r *http.Request) answer {
	s.t.Helper()
	a, err := s.try(r)
	require.NoError(s.t, err)
	return a
}

func (s *service) post(key, body string) answer {
	s.t.Helper()
	return s.do(s.request(http.MethodPost, "/items", key, body))
}

// created answers 201 with what was sent.
func created(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Location", "/items/1")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(append([]byte("created "), body...))
}

// gate lets a test hold handlers.
type gate struct{ entered, open chan struct{} }

func newGate() gate { return gate{entered: make(chan struct{}, 1000), open: make(chan struct{})} }

func (g gate) pass() { g.entered <- struct{}{}; <-g.open }

// await waits for a signal.
func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came: "+what)
		panic("unreachable")
	}
}

// counting is a store that counts claims, so that a test sees when a duplicate has come.
type counting struct {
	dedup.Store
	acquires atomic.Int64
}

func (c *counting) Acquire(ctx context.Context, claim dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	defer c.acquires.Add(1)
	return c.Store.Acquire(ctx, claim)
}

// asAble returns the store with what it can do beyond a dedup.Store, as far as waiting needs it.
func (c *counting) asAble() dedup.Store {
	i, inspects := c.Store.(dedup.Inspector)
	w, watches := c.Store.(dedup.Watcher)
	if !inspects || !watches {
		return c
	}
	return struct {
		*counting
		dedup.Inspector
		dedup.Watcher
	}{c, i, w}
}

// faulty is a store whose operations can be made to fail.
type faulty struct {
	dedup.Store

	mu   sync.Mutex
	down map[string]bool
}

func newFaulty() *faulty {
	return &faulty{Store: memstore.New(memstore.Config{}), down: map[string]bool{}}
}

var errDown = errors.New("the store is down")

func (f *faulty) set(down bool, ops ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range ops {
		f.down[op] = down
	}
}

func (f *faulty) fail(op string, k dedup.Key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down[op] {
		return &dedup.StoreError{Op: op, Key: k, Err: errDown}
	}
	return nil
}

func (f *faulty) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	if err := f.fail("acquire", c.Key); err != nil {
		return 0, dedup.Record{}, err
	}
	return f.Store.Acquire(ctx, c)
}

func (f *faulty) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	if err := f.fail("extend", h.Key); err != nil {
		return err
	}
	return f.Store.Extend(ctx, h, lease)
}

func (f *faulty) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	if err := f.fail("settle", h.Key); err != nil {
		return err
	}
	return f.Store.Settle(ctx, h, s)
}

func (f *faulty) Release(ctx context.Context, h dedup.Hold, r dedup.Release) error {
	if err := f.fail("release", h.Key); err != nil {
		return err
	}
	return f.Store.Release(ctx, h, r)
}

func newServer(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}
