package httpidem_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// short makes what ends with a lease end soon.
var short = dedup.Config{Lease: 500 * time.Millisecond}

func TestStoreDownBeforeTheHandler(t *testing.T) {
	t.Parallel()
	store := newFaulty()
	store.set(true, "acquire")
	s := serve(t, store, httpidem.Config{StoreRetryAfter: 1500 * time.Millisecond}, created)
	a := s.post("k", "x")
	assert.Equal(t, http.StatusServiceUnavailable, a.status)
	assert.Equal(t, httpidem.ProblemStoreDown, a.problem(t))
	assert.Equal(t, "2", a.header.Get("Retry-After"))
	assert.Empty(t, a.header.Get(httpidem.UnrecordedHeader))
	assert.Zero(t, s.runs.Load())
	store.set(false, "acquire")
	assert.Equal(t, http.StatusCreated, s.post("k", "x").status)
	assert.Equal(t, []httpidem.Event{httpidem.StoreDown, httpidem.Executed}, s.seen())
}

func TestStoreDownAndOpen(t *testing.T) {
	t.Parallel()
	store := newFaulty()
	store.set(true, "acquire")
	s := serve(t, store, httpidem.Config{StoreDown: httpidem.StoreOpen}, func(w http.ResponseWriter, r *http.Request) {
		assert.True(t, dedup.Untracked(r.Context()))
		assert.Equal(t, "k", dedup.KeyFrom(r.Context()).ID)
		created(w, r)
	})
	for range 2 {
		a := s.post("k", "x")
		assert.Equal(t, http.StatusCreated, a.status)
		assert.Equal(t, "created x", a.body)
		assert.Equal(t, "true", a.header.Get(httpidem.UntrackedHeader))
	}
	assert.Equal(t, []httpidem.Event{httpidem.Untracked, httpidem.Untracked}, s.seen())
}

// The effect is done and cannot be recorded: the client must hear that, and nothing else.
func TestStoreDownAfterTheHandler(t *testing.T) {
	t.Parallel()
	store := newFaulty()
	s := serveWith(t, store, short, httpidem.Config{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Down") != "" {
			store.set(true, "settle", "extend", "release")
		}
		w.Header().Set("X-Handler", "yes")
		created(w, r)
	})
	r := s.request(http.MethodPost, "/items", "k", "x")
	r.Header.Set("X-Down", "yes")
	a := s.do(r)
	assert.Equal(t, http.StatusServiceUnavailable, a.status)
	assert.Equal(t, httpidem.ProblemUnrecorded, a.problem(t))
	assert.Contains(t, a.body, "may repeat its effect")
	assert.Equal(t, "true", a.header.Get(httpidem.UnrecordedHeader))
	assert.Empty(t, a.header.Get("X-Handler"))
	assert.Empty(t, a.header.Get("Location"))
	store.set(false, "settle", "extend", "release")
	require.Eventually(t, func() bool { return s.post("k", "x").status == http.StatusCreated }, patience, 20*time.Millisecond)
	assert.EqualValues(t, 2, s.runs.Load(), "that is what the detail warns of")
	assert.True(t, s.post("k", "x").replayed())
}

// A settlement that succeeds a little later is a settlement.
func TestStoreDownForAMomentAfterTheHandler(t *testing.T) {
	t.Parallel()
	store := newFaulty()
	s := serve(t, store, httpidem.Config{}, func(w http.ResponseWriter, r *http.Request) {
		store.set(true, "settle")
		time.AfterFunc(50*time.Millisecond, func() { store.set(false, "settle") })
		created(w, r)
	})
	assert.Equal(t, http.StatusCreated, s.post("k", "x").status)
	assert.True(t, s.post("k", "x").replayed())
}

// A stream whose settlement failed must not look complete.
func TestStoreDownAfterAStream(t *testing.T) {
	t.Parallel()
	store := newFaulty()
	s := serveWith(t, store, short, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		store.set(true, "settle", "extend", "release")
	})
	a, err := s.try(s.request(http.MethodPost, "/", "k", ""))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Equal(t, "part", a.body)
	assert.Equal(t, []httpidem.Event{httpidem.Unrecorded}, s.seen())
}

// What was to be released will be free when its lease is over: the handler's answer holds.
func TestReleaseFails(t *testing.T) {
	t.Parallel()
	store := newFaulty()
	store.set(true, "release")
	s := serveWith(t, store, short, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusInternalServerError)
	})
	a := s.post("k", "x")
	assert.Equal(t, http.StatusInternalServerError, a.status)
	assert.Equal(t, "no\n", a.body)
}

func TestLostLeaseCancelsTheHandler(t *testing.T) {
	t.Parallel()
	store := newFaulty()
	s := serveWith(t, store, short, httpidem.Config{}, func(w http.ResponseWriter, r *http.Request) {
		store.set(true, "extend")
		<-r.Context().Done()
		created(w, r)
	})
	a := s.post("k", "x")
	assert.Equal(t, httpidem.ProblemUnrecorded, a.problem(t))
	assert.Equal(t, []httpidem.Event{httpidem.Unrecorded}, s.seen())
}

func TestHeartbeatKeepsALongHandler(t *testing.T) {
	t.Parallel()
	s := serveWith(t, nil, dedup.Config{Lease: 2 * time.Second}, httpidem.Config{}, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(3 * time.Second): // longer than a lease, which a busy machine must be able to extend
			created(w, r)
		case <-r.Context().Done():
		}
	})
	assert.Equal(t, http.StatusCreated, s.post("k", "x").status)
	assert.True(t, s.post("k", "x").replayed())
}

func TestRedisGoesDownBetweenAcquireAndSettle(t *testing.T) {
	t.Parallel()
	srv := testserver.PrivateRedis(t)
	store := redisstore.New(srv.Client(t), redisstore.Config{})
	s := serveWith(t, store, dedup.Config{Lease: 3 * time.Second}, httpidem.Config{}, func(w http.ResponseWriter, r *http.Request) {
		srv.Kill()
		created(w, r)
	})
	assert.Equal(t, httpidem.ProblemUnrecorded, s.post("k", "x").problem(t))
	assert.Equal(t, httpidem.ProblemStoreDown, s.post("k", "x").problem(t))
	assert.EqualValues(t, 1, s.runs.Load())
}

type unreadable struct{ dedup.Store }

func (unreadable) Acquire(_ context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	return 0, dedup.Record{}, dedup.UnreadableError(c.Key, "it is not a record")
}

// The policy "open" is for a store that is down; a record that cannot be read may say that the effect is done.
func TestUnreadableRecordNeverRuns(t *testing.T) {
	t.Parallel()
	s := serve(t, unreadable{}, httpidem.Config{StoreDown: httpidem.StoreOpen}, created)
	a := s.post("k", "x")
	assert.Equal(t, http.StatusServiceUnavailable, a.status)
	assert.Equal(t, httpidem.ProblemUnreadable, a.problem(t))
	assert.Zero(t, s.runs.Load())
}

// What another version, or another program, has stored is never taken for an answer, and never runs again.
func TestUnreadableAnswers(t *testing.T) {
	t.Parallel()
	store := memstore.New(memstore.Config{})
	d, err := dedup.New(store, dedup.Config{})
	require.NoError(t, err)
	s := serve(t, store, httpidem.Config{StoreDown: httpidem.StoreOpen}, created)
	for id, result := range map[string]string{"later": "\x02...", "garbage": "{}", "short": "\x01"} {
		g, _, err := d.Begin(t.Context(), dedup.Key{Scope: "http::-:POST:/items", ID: id}, dedup.Fingerprint{})
		require.NoError(t, err)
		require.NoError(t, g.Consume(t.Context(), []byte(result)))
		a := s.post(id, "x")
		assert.Equal(t, http.StatusServiceUnavailable, a.status)
		assert.Equal(t, httpidem.ProblemUnreadable, a.problem(t))
		assert.NotEmpty(t, a.header.Get("Retry-After"))
	}
	g, _, err := d.Begin(t.Context(), dedup.Key{Scope: "http::-:POST:/items", ID: "bare"}, dedup.Fingerprint{})
	require.NoError(t, err)
	require.NoError(t, g.Consume(t.Context(), nil))
	a := s.post("bare", "x")
	assert.Equal(t, http.StatusOK, a.status)
	assert.Equal(t, "not-stored", a.header.Get(httpidem.IncompleteHeader))
	assert.Zero(t, s.runs.Load())
}
