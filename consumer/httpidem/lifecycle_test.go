package httpidem_test

import (
	"database/sql"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	_, err = httpidem.New(nil, httpidem.Config{Principal: httpidem.SingleTenant})
	assert.ErrorIs(t, err, httpidem.ErrConfig)
	for name, change := range map[string]func(*httpidem.Config){
		"Principal":       func(c *httpidem.Config) { c.Principal = nil },
		"MaxRetryAfter":   func(c *httpidem.Config) { c.MaxRetryAfter = -1 },
		"StoreRetryAfter": func(c *httpidem.Config) { c.StoreRetryAfter = -1 },
		"OnBusy":          func(c *httpidem.Config) { c.OnBusy = httpidem.Wait(-1) },
		"BodyLimit":       func(c *httpidem.Config) { c.BodyLimit = -1 },
		"ResponseLimit":   func(c *httpidem.Config) { c.ResponseLimit = -1 },
		"StoreDown":       func(c *httpidem.Config) { c.StoreDown = 7 },
	} {
		cfg := httpidem.Config{Principal: httpidem.SingleTenant}
		change(&cfg)
		_, err := httpidem.New(d, cfg)
		assert.ErrorIs(t, err, httpidem.ErrConfig, name)
		assert.ErrorContains(t, err, name)
	}
}

// txStore says that it can settle in a transaction.
type txStore struct {
	dedup.Store
	dedup.TxSettler
}

func TestAHandlerCannotSettleInItsTransaction(t *testing.T) {
	t.Parallel()
	store := txStore{Store: memstore.New(memstore.Config{})}
	d, err := dedup.New(store, dedup.Config{SettleInTx: true})
	require.NoError(t, err)
	_, err = httpidem.New(d, httpidem.Config{Principal: httpidem.SingleTenant})
	assert.ErrorIs(t, err, httpidem.ErrConfig)
	assert.ErrorContains(t, err, "SettleInTx")

	s := serve(t, store, httpidem.Config{}, func(w http.ResponseWriter, r *http.Request) {
		assert.ErrorIs(t, dedup.SettleTx(r.Context(), new(sql.Tx)), dedup.ErrConfig)
		created(w, r)
	})
	assert.Equal(t, http.StatusCreated, s.post("k1", "a").status)
	assert.True(t, s.post("k1", "a").replayed())
}

func TestDuplicateGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{}, created)
	first := s.post("k1", "a")
	assert.Equal(t, http.StatusCreated, first.status)
	assert.False(t, first.replayed())
	for _, key := range []string{"k1", `"k1"`} {
		again := s.post(key, "a")
		assert.Equal(t, http.StatusOK, again.status)
		assert.True(t, again.replayed())
		assert.Equal(t, first.body, again.body)
		assert.Equal(t, "/items/1", again.header.Get("Location"))
		assert.Equal(t, first.header.Get("Content-Type"), again.header.Get("Content-Type"))
	}
	assert.EqualValues(t, 1, s.runs.Load())
	assert.Equal(t, []httpidem.Event{httpidem.Executed, httpidem.Replayed, httpidem.Replayed}, s.seen())

	other := s.post("k1", "b")
	assert.Equal(t, http.StatusUnprocessableEntity, other.status)
	assert.Equal(t, httpidem.ProblemConflict, other.problem(t))
	assert.Equal(t, http.StatusCreated, s.post("k2", "b").status)
	assert.EqualValues(t, 2, s.runs.Load())
}

func TestReplayKeepsStatuses(t *testing.T) {
	t.Parallel()
	status := func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("status"))
		w.WriteHeader(n)
	}
	s := serve(t, nil, httpidem.Config{}, status)
	original := serve(t, nil, httpidem.Config{ReplayOriginalStatus: true}, status)
	for _, n := range []int{200, 201, 202, 204, 302, 304, 400, 404, 409, 422} {
		key, path := "k"+strconv.Itoa(n), "/items?status="+strconv.Itoa(n)
		for try := range 2 {
			for _, s := range []*service{s, original} {
				s.srv.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				want := n
				if s != original && try > 0 && n == 201 {
					want = 200
				}
				a := s.do(s.request(http.MethodPost, path, key, ""))
				assert.Equal(t, want, a.status)
				assert.Equal(t, try > 0, a.replayed(), n)
			}
		}
	}
	assert.EqualValues(t, 10, s.runs.Load())
}

func TestBusyIs409WithRetryAfter(t *testing.T) {
	t.Parallel()
	for lease, want := range map[time.Duration]string{30 * time.Second: "5", 2 * time.Second: "2", 900 * time.Millisecond: "1"} {
		g := newGate()
		s := serveWith(t, nil, dedup.Config{Lease: lease}, httpidem.Config{}, func(http.ResponseWriter, *http.Request) { g.pass() })
		first := make(chan answer, 1)
		go func() { a, _ := s.try(s.request(http.MethodPost, "/items", "k", "")); first <- a }()
		await(t, g.entered, "the handler")
		a := s.post("k", "")
		assert.Equal(t, http.StatusConflict, a.status)
		assert.Equal(t, httpidem.ProblemBusy, a.problem(t))
		assert.Equal(t, want, a.header.Get("Retry-After"))
		other := s.post("k", "another payload")
		assert.Equal(t, http.StatusUnprocessableEntity, other.status, "the fingerprint comes first")
		close(g.open)
		assert.Equal(t, http.StatusOK, await(t, first, "the first answer").status)
		assert.True(t, s.post("k", "").replayed())
		assert.EqualValues(t, 1, s.runs.Load())
	}
}

func TestFailuresAreReleasedUntilTheKeyIsDead(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"panic": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte("a lie"))
			panic("after writing")
		},
		"abort": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveWith(t, nil, dedup.Config{MaxAttempts: 3}, httpidem.Config{}, fail)
			for range 3 {
				a, err := s.try(s.request(http.MethodPost, "/items", "k", ""))
				if name == "panic" || name == "abort" {
					assert.Error(t, err, "nothing of a panicking handler's answer may arrive")
				} else {
					assert.GreaterOrEqual(t, a.status, 500)
				}
			}
			a := s.post("k", "")
			assert.Equal(t, http.StatusConflict, a.status)
			assert.Equal(t, httpidem.ProblemDead, a.problem(t))
			assert.Empty(t, a.header.Get("Retry-After"))
			assert.EqualValues(t, 3, s.runs.Load())
			assert.Equal(t, []httpidem.Event{httpidem.Released, httpidem.Released, httpidem.Released, httpidem.Dead}, s.seen())
		})
	}
}

// A key that died of its attempts has no letter to publish over HTTP: it is dead and sent.
func TestDeadWithoutLetters(t *testing.T) {
	t.Parallel()
	store := memstore.New(memstore.Config{})
	kill := func(_ *http.Request, a httpidem.Answer) httpidem.Action {
		if a.Status == http.StatusBadRequest {
			return httpidem.Kill
		}
		return httpidem.DefaultClassify(nil, a)
	}
	s := serveWith(t, store, dedup.Config{MaxAttempts: 1}, httpidem.Config{Classify: kill}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(map[string]int{"/kill": 400, "/fail": 500}[r.URL.Path])
	})
	for path, status := range map[string]int{"/kill": 400, "/fail": 500} {
		assert.Equal(t, status, s.do(s.request(http.MethodPost, path, "k", "")).status)
		assert.Equal(t, httpidem.ProblemDead, s.do(s.request(http.MethodPost, path, "k", "")).problem(t))
		r, err := store.Get(t.Context(), dedup.Key{Scope: "http::-:POST:" + path, ID: "k"})
		require.NoError(t, err)
		assert.Equal(t, dedup.DeadSent, r.State)
	}
	assert.EqualValues(t, 2, s.runs.Load())
}

func TestTooManyRequestsDoesNotCount(t *testing.T) {
	t.Parallel()
	s := serveWith(t, nil, dedup.Config{MaxAttempts: 2}, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	for range 4 {
		a := s.post("k", "")
		assert.Equal(t, http.StatusTooManyRequests, a.status)
		assert.Equal(t, "7", a.header.Get("Retry-After"))
	}
	assert.EqualValues(t, 4, s.runs.Load())
}

// A 500 that follows the effect must not run again, and neither must a panic.
func TestClassifierKeepsFailures(t *testing.T) {
	t.Parallel()
	keep := func(*http.Request, httpidem.Answer) httpidem.Action { return httpidem.Keep }
	s := serve(t, nil, httpidem.Config{Classify: keep}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("after the effect")
		}
		http.Error(w, "charged, but not booked", http.StatusInternalServerError)
	})
	for try := range 2 {
		a := s.post("k", "")
		assert.Equal(t, http.StatusInternalServerError, a.status)
		assert.Equal(t, "charged, but not booked\n", a.body)
		assert.Equal(t, try > 0, a.replayed())
	}
	s.srv.CloseClientConnections() // net/http repeats a request with a key by itself, if a used connection breaks
	_, err := s.try(s.request(http.MethodPost, "/panic", "k", ""))
	assert.Error(t, err)
	a := s.do(s.request(http.MethodPost, "/panic", "k", ""))
	assert.Equal(t, http.StatusInternalServerError, a.status)
	assert.True(t, a.replayed())
	assert.EqualValues(t, 2, s.runs.Load())
}

func TestOtherMethodsPass(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{}, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Method)) })
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		for range 2 {
			a := s.do(s.request(method, "/items", "k", ""))
			assert.Equal(t, method, a.body)
			assert.False(t, a.replayed())
		}
	}
	assert.Equal(t, http.StatusBadRequest, s.do(s.request(http.MethodPatch, "/items", "", "")).status)
	assert.Equal(t, http.StatusOK, s.do(s.request(http.MethodPatch, "/items", "k", "")).status)
	assert.True(t, s.do(s.request(http.MethodPatch, "/items", "k", "")).replayed())

	put := serve(t, nil, httpidem.Config{Methods: []string{http.MethodPut}}, created)
	put.do(put.request(http.MethodPut, "/items", "k", ""))
	assert.True(t, put.do(put.request(http.MethodPut, "/items", "k", "")).replayed())
	assert.Equal(t, http.StatusCreated, put.post("", "").status)
}
