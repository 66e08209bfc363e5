package httpidem_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

const parallel = 200

// unhurried is for many requests at once on a machine that may be busy with other tests: a time limit that runs out would be
// an answer of its own.
var unhurried = dedup.Config{Lease: time.Minute, StoreTimeout: 20 * time.Second}

// together sends the same request from many clients to the services in turn.
func together(t *testing.T, services []*service, key string) []answer {
	t.Helper()
	answers := make([]answer, parallel)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			<-start
			s := services[i%len(services)]
			a, err := s.try(s.request(http.MethodPost, "/items", key, "x"))
			assert.NoError(t, err)
			answers[i] = a
		})
	}
	close(start)
	wg.Wait()
	return answers
}

// slowly answers when the gate is opened.
func slowly(g gate) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		g.pass()
		created(w, r)
	}
}

func TestParallelRequestsRunOnce(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, nil, httpidem.Config{}, slowly(g))
	go func() {
		<-g.entered
		s.awaitAcquires(parallel/2 + 1)
		close(g.open)
	}()
	counts := map[int]int{}
	for _, a := range together(t, []*service{s}, "k") {
		counts[a.status]++
	}
	assert.EqualValues(t, 1, s.runs.Load())
	assert.Equal(t, 1, counts[http.StatusCreated])
	assert.Equal(t, parallel-1, counts[http.StatusOK]+counts[http.StatusConflict])
	assert.GreaterOrEqual(t, counts[http.StatusConflict], parallel/2)
}

func TestParallelRequestsWaitForOneAnswer(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, nil, httpidem.Config{OnBusy: httpidem.Wait(patience), ReplayOriginalStatus: true}, slowly(g))
	go func() {
		<-g.entered
		s.awaitAcquires(parallel / 2)
		close(g.open)
	}()
	for _, a := range together(t, []*service{s}, "k") {
		assert.Equal(t, http.StatusCreated, a.status)
		assert.Equal(t, "created x", a.body)
		assert.Equal(t, "/items/1", a.header.Get("Location"))
	}
	assert.EqualValues(t, 1, s.runs.Load())
}

// Two servers with one Redis: a duplicate that goes to the other one is caught.
func TestTwoServersShareOneStore(t *testing.T) {
	t.Parallel()
	srv := testserver.Redis(t)
	for name, c := range map[string]struct {
		cfg httpidem.Config
	}{
		"refuse": {httpidem.Config{Service: "refuse"}},
		"wait":   {httpidem.Config{Service: "wait", OnBusy: httpidem.Wait(patience)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			services := make([]*service, 2)
			for i := range services {
				store := redisstore.New(srv.Client(t), redisstore.Config{Prefix: "httpidem-test-" + name})
				services[i] = serveWith(t, store, unhurried, c.cfg, created)
			}
			key := "k" + time.Now().Format("150405.000000000") // the server may be somebody's who keeps it
			ran := 0
			for _, a := range together(t, services, key) {
				switch a.status {
				case http.StatusCreated:
					ran++
				case http.StatusOK:
					assert.True(t, a.replayed())
				default:
					assert.Equal(t, "refuse", name)
					assert.Equal(t, http.StatusConflict, a.status)
					continue
				}
				assert.Equal(t, "created x", a.body)
			}
			assert.Equal(t, 1, ran)
			assert.EqualValues(t, 1, services[0].runs.Load()+services[1].runs.Load())
			for _, s := range services {
				assert.True(t, s.post(key, "x").replayed())
			}
		})
	}
}

func TestWaitersGetTheFirstOnesFailure(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, nil, httpidem.Config{OnBusy: httpidem.Wait(patience)}, func(w http.ResponseWriter, _ *http.Request) {
		g.pass()
		http.Error(w, "no", http.StatusBadGateway)
	})
	answers := make(chan answer, 2)
	send := func() { a, _ := s.try(s.request(http.MethodPost, "/", "k", "")); answers <- a }
	go send()
	await(t, g.entered, "the handler")
	waiting := s.waiter(send)
	await(t, waiting, "the duplicate")
	close(g.open)
	for range 2 {
		assert.Equal(t, http.StatusBadGateway, await(t, answers, "an answer").status)
	}
	assert.EqualValues(t, 1, s.runs.Load())
}

func TestWaitEnds(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, nil, httpidem.Config{OnBusy: httpidem.Wait(50 * time.Millisecond)}, func(w http.ResponseWriter, r *http.Request) {
		g.pass()
		if r.URL.Path == "/panic" {
			panic("no answer")
		}
	})
	first := make(chan error, 1)
	go func() { _, err := s.try(s.request(http.MethodPost, "/panic", "k", "")); first <- err }()
	await(t, g.entered, "the handler")
	a := s.do(s.request(http.MethodPost, "/panic", "k", ""))
	assert.Equal(t, httpidem.ProblemBusy, a.problem(t))
	assert.NotEmpty(t, a.header.Get("Retry-After"))
	assert.Equal(t, httpidem.ProblemConflict, s.do(s.request(http.MethodPost, "/panic", "k", "other")).problem(t))
	close(g.open)
	assert.Error(t, await(t, first, "the panic"))
}

func TestWaitersOfAPanicAreToldToRetry(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, nil, httpidem.Config{OnBusy: httpidem.Wait(patience)}, func(http.ResponseWriter, *http.Request) {
		g.pass()
		panic("no answer")
	})
	first := make(chan error, 1)
	go func() { _, err := s.try(s.request(http.MethodPost, "/", "k", "")); first <- err }()
	await(t, g.entered, "the handler")
	second := make(chan answer, 1)
	await(t, s.waiter(func() { second <- s.do(s.request(http.MethodPost, "/", "k", "")) }), "the duplicate")
	close(g.open)
	a := await(t, second, "the duplicate's answer")
	assert.Equal(t, httpidem.ProblemBusy, a.problem(t))
	assert.Equal(t, "1", a.header.Get("Retry-After"))
	assert.Error(t, await(t, first, "the panic"))
	assert.EqualValues(t, 1, s.runs.Load())
}

// waiter runs send and says when its request has been claimed once more than before, which is when it waits.
func (s *service) waiter(send func()) <-chan struct{} {
	before := s.store.acquires.Load()
	go send()
	waits := make(chan struct{})
	go func() { defer close(waits); s.awaitAcquires(before + 1) }()
	return waits
}

func (s *service) awaitAcquires(n int64) {
	for s.store.acquires.Load() < n {
		select {
		case <-s.t.Context().Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// The client goes away while the handler is at work: the effect is not left half way, and the retry finds it done.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	g := newGate()
	alive := make(chan error, 1)
	s := serve(t, nil, httpidem.Config{}, func(w http.ResponseWriter, r *http.Request) {
		g.pass()
		alive <- r.Context().Err()
		created(w, r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := s.try(s.request(http.MethodPost, "/items", "k", "x").WithContext(ctx))
		gone <- err
	}()
	await(t, g.entered, "the handler")
	cancel()
	assert.ErrorIs(t, await(t, gone, "the client"), context.Canceled)
	close(g.open)
	assert.NoError(t, await(t, alive, "the handler's context"))
	require.Eventually(t, func() bool { return len(s.seen()) == 1 }, patience, time.Millisecond)
	a := s.post("k", "x")
	assert.True(t, a.replayed())
	assert.Equal(t, "created x", a.body)
	assert.EqualValues(t, 1, s.runs.Load())
}

func TestCancelWithClient(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{}, 1)
	cfg := httpidem.Config{CancelWithClient: true}
	s := serveWith(t, nil, dedup.Config{MaxAttempts: 1}, cfg, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Stay") != "" {
			created(w, r)
			return
		}
		entered <- struct{}{}
		<-r.Context().Done()
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	for range 3 { // none of them counts
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := s.try(s.request(http.MethodPost, "/items", "k", "x").WithContext(ctx))
			gone <- err
		}()
		await(t, entered, "the handler")
		before := len(s.seen())
		cancel()
		assert.ErrorIs(t, await(t, gone, "the client"), context.Canceled)
		require.Eventually(t, func() bool { return len(s.seen()) > before }, patience, time.Millisecond)
	}
	r := s.request(http.MethodPost, "/items", "k", "x")
	r.Header.Set("X-Stay", "yes")
	assert.Equal(t, http.StatusCreated, s.do(r).status)
}

// A waiting client that goes away leaves nothing behind; the leak check of this package would find it.
func TestWaitingClientGoesAway(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, nil, httpidem.Config{OnBusy: httpidem.Wait(time.Hour)}, func(http.ResponseWriter, *http.Request) { g.pass() })
	first := make(chan answer, 1)
	go func() { a, _ := s.try(s.request(http.MethodPost, "/", "k", "")); first <- a }()
	await(t, g.entered, "the handler")
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	await(t, s.waiter(func() {
		_, err := s.try(s.request(http.MethodPost, "/", "k", "").WithContext(ctx))
		gone <- err
	}), "the duplicate")
	cancel()
	assert.ErrorIs(t, await(t, gone, "the client"), context.Canceled)
	close(g.open)
	assert.Equal(t, http.StatusOK, await(t, first, "the first answer").status)
}
