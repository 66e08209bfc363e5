package httppub_test

import (
	"context"
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

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/httppub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick retries without long pauses.
var quick = publisher.Retry{Initial: time.Millisecond, Max: 5 * time.Millisecond}

// got is what a server has seen.
type got struct{ key, body string }

// recorder is a server whose answers are scripted; the last one is repeated.
type recorder struct {
	srv *httptest.Server
	mu  sync.Mutex
	got []got
}

func serve(t *testing.T, answers ...http.HandlerFunc) *recorder {
	t.Helper()
	s := &recorder{}
	s.srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.got = append(s.got, got{strings.Join(r.Header.Values("Idempotency-Key"), "|"), string(body)})
		n := len(s.got)
		s.mu.Unlock()
		answers[min(n, len(answers))-1](w, r)
	}))
	s.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.srv.Start()
	t.Cleanup(s.srv.Close)
	return s
}

func (s *recorder) seen() []got {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]got(nil), s.got...)
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "answer")
	}
}

func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func client(t *testing.T, cfg httppub.Config) *http.Client {
	t.Helper()
	if cfg.Retry.Initial == 0 {
		cfg.Retry.Initial, cfg.Retry.Max = quick.Initial, quick.Max
	}
	c := &http.Client{Transport: httppub.New(&http.Transport{DisableKeepAlives: true}, cfg)}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func request(t *testing.T, method, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	return r
}

func send(t *testing.T, c *http.Client, r *http.Request) (code int, body string) {
	t.Helper()
	resp, err := c.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func TestKeysAreStamped(t *testing.T) {
	t.Parallel()
	s := serve(t, status(200))
	c := client(t, httppub.Config{})
	for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete} {
		r := request(t, method, s.srv.URL, "x")
		send(t, c, r)
		assert.Empty(t, r.Header, "a RoundTripper must not change the request")
	}
	send(t, c, request(t, http.MethodGet, s.srv.URL, ""))
	keys := map[string]bool{}
	for _, g := range s.seen()[:4] {
		assert.NoError(t, uuid.Validate(g.key))
		keys[g.key] = true
	}
	assert.Len(t, keys, 4)
	assert.Empty(t, s.seen()[4].key)
}

func TestKeySources(t *testing.T) {
	t.Parallel()
	s := serve(t, status(200))
	derived := httppub.Config{KeyFunc: func(r *http.Request) (string, error) { return "derived" + r.URL.Path, nil }}
	withHeader := func(values ...string) *http.Request {
		r := request(t, http.MethodPost, s.srv.URL+"/p", "")
		r.Header[publisher.KeyHeader] = values
		return r
	}
	withContext := func(r *http.Request, key string) *http.Request {
		return r.WithContext(httppub.WithKey(r.Context(), key))
	}
	bare := func() *http.Request { return request(t, http.MethodPost, s.srv.URL+"/p", "") }
	quoted := derived
	quoted.Quoted = true
	for _, c := range []struct {
		cfg  httppub.Config
		r    *http.Request
		want string
	}{
		{derived, bare(), "derived/p"},
		{quoted, bare(), `"derived/p"`},
		{derived, withContext(bare(), "context"), "context"},
		{derived, withHeader("header"), "header"},
		{quoted, withHeader("header"), "header"},
		{derived, withContext(withHeader("same"), "same"), "same"},
		{derived, withContext(withHeader(`"same"`), "same"), `"same"`},
		{derived, withContext(bare(), `"a\`), `"\"a\\"`},
	} {
		before := len(s.seen())
		send(t, client(t, c.cfg), c.r)
		assert.Equal(t, c.want, s.seen()[before].key)
	}
	before := len(s.seen())
	broken := errors.New("broken")
	for _, c := range []struct {
		cfg  httppub.Config
		r    *http.Request
		want error
	}{
		{derived, withHeader("a", "a"), publisher.ErrMalformedKey},
		{derived, withHeader(""), publisher.ErrMalformedKey},
		{derived, withContext(bare(), ""), publisher.ErrMalformedKey},
		{derived, withContext(bare(), "a b"), publisher.ErrMalformedKey},
		{derived, withContext(withHeader("one"), "other"), publisher.ErrKeyConflict},
		{httppub.Config{KeyFunc: func(*http.Request) (string, error) { return "", broken }}, bare(), broken},
	} {
		body := &closing{Reader: strings.NewReader("x")}
		c.r.Body = body
		resp, err := client(t, c.cfg).Do(c.r)
		if err == nil {
			_ = resp.Body.Close()
		}
		assert.ErrorIs(t, err, c.want)
		assert.True(t, body.closed.Load(), "a refused request's, too")
	}
	assert.Len(t, s.seen(), before)
}

type closing struct {
	io.Reader
	closed atomic.Bool
}

func (c *closing) Close() error { c.closed.Store(true); return nil }

func TestRetriesKeepKeyAndBody(t *testing.T) {
	t.Parallel()
	s := serve(t, cut, status(503), status(502), status(409, "Retry-After", "0"), status(201))
	code, body := send(t, client(t, httppub.Config{}), request(t, http.MethodPost, s.srv.URL, "the body"))
	assert.Equal(t, 201, code)
	assert.Equal(t, "answer", body)
	require.Len(t, s.seen(), 5)
	for _, g := range s.seen() {
		assert.Equal(t, s.seen()[0], g)
		assert.Equal(t, "the body", g.body)
	}
}

func TestWhatIsNotRetried(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"success": status(200), "refusal": status(422), "failure": status(500), "too many": status(429),
		"dead":               status(409),
		"409 with a bad one": status(409, "Retry-After", "soon"),
		"too long":           status(503, "Retry-After", "31"),
		"unrecorded":         status(503, httpidem.UnrecordedHeader, "true"),
	} {
		s := serve(t, h)
		_, body := send(t, client(t, httppub.Config{}), request(t, http.MethodPost, s.srv.URL, ""))
		assert.Equal(t, "answer", body, name)
		assert.Len(t, s.seen(), 1, name)
	}
	s := serve(t, status(503))
	code, _ := send(t, client(t, httppub.Config{}), request(t, http.MethodGet, s.srv.URL, ""))
	assert.Equal(t, 503, code)
	assert.Len(t, s.seen(), 1, "what has no key is not ours")
}

func TestAttemptsEnd(t *testing.T) {
	t.Parallel()
	s := serve(t, status(503))
	code, body := send(t, client(t, httppub.Config{}), request(t, http.MethodPost, s.srv.URL, ""))
	assert.Equal(t, 503, code)
	assert.Equal(t, "answer", body, "the last answer is the caller's")
	assert.Len(t, s.seen(), 5)

	s = serve(t, cut)
	resp, err := client(t, httppub.Config{Retry: publisher.Retry{Attempts: 2}}).Do(request(t, http.MethodPost, s.srv.URL, ""))
	if err == nil {
		_ = resp.Body.Close()
	}
	assert.ErrorIs(t, err, publisher.ErrUnconfirmed)
	assert.Len(t, s.seen(), 2)
}

func TestRetryAfterIsObeyed(t *testing.T) {
	t.Parallel()
	for _, h := range []http.HandlerFunc{
		status(409, "Retry-After", "1"),
		func(w http.ResponseWriter, r *http.Request) {
			status(503, "Retry-After", time.Now().Add(2*time.Second).UTC().Format(http.TimeFormat))(w, r)
		},
	} {
		s := serve(t, h, status(200))
		begun := time.Now()
		code, _ := send(t, client(t, httppub.Config{}), request(t, http.MethodPost, s.srv.URL, ""))
		assert.Equal(t, 200, code)
		assert.GreaterOrEqual(t, time.Since(begun), time.Second)
	}
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	// While it waits.
	ctx, cancel := context.WithCancel(t.Context())
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status(503, "Retry-After", "20")(w, r)
		time.AfterFunc(20*time.Millisecond, cancel)
	})
	begun := time.Now()
	resp, err := client(t, httppub.Config{}).Do(request(t, http.MethodPost, s.srv.URL, "").WithContext(ctx))
	if err == nil {
		_ = resp.Body.Close()
	}
	assert.ErrorIs(t, err, context.Canceled)
	assert.Less(t, time.Since(begun), 10*time.Second)
	assert.Len(t, s.seen(), 1)

	// A deadline that leaves no time for the wait: the answer is more than an error would be.
	s = serve(t, status(503, "Retry-After", "20"))
	limited, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	code, body := send(t, client(t, httppub.Config{}), request(t, http.MethodPost, s.srv.URL, "").WithContext(limited))
	assert.Equal(t, 503, code)
	assert.Equal(t, "answer", body)
}

func TestAttemptTimeout(t *testing.T) {
	t.Parallel()
	slow := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	slowBody := func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-time.After(300 * time.Millisecond)
		_, _ = io.WriteString(w, "late")
	}
	s := serve(t, slow, slowBody)
	c := client(t, httppub.Config{Retry: publisher.Retry{AttemptTimeout: 150 * time.Millisecond}})
	code, body := send(t, c, request(t, http.MethodPost, s.srv.URL, ""))
	assert.Equal(t, 200, code)
	assert.Equal(t, "late", body, "the time is for the header")
	assert.Len(t, s.seen(), 2)
}

func TestBodiesWithoutGetBody(t *testing.T) {
	t.Parallel()
	for size, tries := range map[int]int{10: 2, 11: 1} {
		s := serve(t, status(503), status(200))
		body := &closing{Reader: strings.NewReader(strings.Repeat("x", size))}
		r := request(t, http.MethodPost, s.srv.URL, "")
		r.Body, r.GetBody, r.ContentLength = body, nil, int64(size)
		send(t, client(t, httppub.Config{BodyLimit: 10}), r)
		require.Len(t, s.seen(), tries)
		for _, g := range s.seen() {
			assert.Len(t, g.body, size)
		}
		assert.Eventually(t, body.closed.Load, time.Minute, time.Millisecond, "net/http closes it when it likes")
	}
	s := serve(t, status(200))
	r := request(t, http.MethodPost, s.srv.URL, "")
	broken := errors.New("broken")
	r.Body, r.GetBody, r.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("x"), failing{broken})), nil, -1
	resp, err := client(t, httppub.Config{}).Do(r)
	if err == nil {
		_ = resp.Body.Close()
	}
	assert.ErrorIs(t, err, broken)
	assert.Empty(t, s.seen(), "half a body is not sent")
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Both ends together: answers are lost on the way, duplicates meet the first one at work, and the effect comes once.
func TestWithTheMiddleware(t *testing.T) {
	t.Parallel()
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	idem, err := httpidem.New(d, httpidem.Config{Principal: httpidem.SingleTenant, MaxRetryAfter: time.Second})
	require.NoError(t, err)
	var runs, tries atomic.Int64
	guarded := idem(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		<-time.After(400 * time.Millisecond) // longer than the first tries
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "made")
	}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		guarded.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	c := client(t, httppub.Config{Quoted: true, Retry: publisher.Retry{AttemptTimeout: 200 * time.Millisecond}})
	code, body := send(t, c, request(t, http.MethodPost, srv.URL, "x"))
	assert.Equal(t, http.StatusOK, code)
	assert.Equal(t, "made", body)
	assert.EqualValues(t, 1, runs.Load())
	assert.GreaterOrEqual(t, tries.Load(), int64(3), "cut off, busy, replayed")
}
