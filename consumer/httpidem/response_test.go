package httpidem_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

func TestHandlersThatWriteOddly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		status  int
		body    string
	}{
		"nothing": {func(http.ResponseWriter, *http.Request) {}, 200, ""},
		"body only": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "a")
			_, _ = io.WriteString(w, "b")
		}, 200, "ab"},
		"status twice": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			w.WriteHeader(500)
			_, _ = w.Write([]byte("first"))
		}, 202, "first"},
		"header too late": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			w.Header().Set("X-Late", "yes")
		}, 202, ""},
		"body that must not be": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			_, err := w.Write([]byte("x"))
			assert.ErrorIs(t, err, http.ErrBodyNotAllowed)
		}, 204, ""},
		"early hints": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(202)
		}, 202, ""},
		"short of its length": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1")
			_, _ = w.Write([]byte("x"))
		}, 200, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, nil, httpidem.Config{}, c.handler)
			for try := range 2 {
				a := s.post("k", "")
				assert.Equal(t, c.status, a.status)
				assert.Equal(t, c.body, a.body)
				assert.Equal(t, try > 0, a.replayed())
				assert.Empty(t, a.header.Get("X-Late"))
			}
			assert.EqualValues(t, 1, s.runs.Load())
		})
	}
	s := serveWith(t, nil, dedup.Config{MaxAttempts: 1}, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(7) })
	_, err := s.try(s.request(http.MethodPost, "/", "k", ""))
	assert.Error(t, err, "net/http panics at such a status, too")
	assert.Equal(t, httpidem.ProblemDead, s.do(s.request(http.MethodPost, "/", "k", "")).problem(t))
}

func TestHeadersOfOneClientOrConnectionAreNotReplayed(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Set-Cookie", "session=secret")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("Connection", "close, X-Named")
		h.Set("X-Named", "hop")
		h.Set("Trailer", "X-Sum")
		h["X-Two"] = []string{"a", "b"}
		_, _ = w.Write([]byte("body"))
		h.Set("X-Sum", "42")
	})
	resp, err := s.srv.Client().Do(s.request(http.MethodPost, "/", "k", ""))
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, "session=secret", resp.Header.Get("Set-Cookie"))
	assert.Equal(t, "42", resp.Trailer.Get("X-Sum"), "trailers arrive")

	a := s.do(s.request(http.MethodPost, "/", "k", ""))
	assert.True(t, a.replayed())
	assert.Equal(t, []string{"a", "b"}, a.header["X-Two"])
	for _, name := range []string{"Set-Cookie", "Keep-Alive", "Proxy-Authenticate", "Connection", "X-Named", "Trailer", "X-Sum"} {
		assert.NotContains(t, a.header, name)
	}
}

// What an outer handler sets belongs to each request.
func TestOuterHeadersAreEachRequestsOwn(t *testing.T) {
	t.Parallel()
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	idem, err := httpidem.New(d, httpidem.Config{Principal: httpidem.SingleTenant})
	require.NoError(t, err)
	inner := idem(http.HandlerFunc(created))
	n := 0
	s := &service{t: t, srv: newServer(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("X-Request-Id", fmt.Sprint(n))
		inner.ServeHTTP(w, r)
	})}
	assert.Equal(t, "1", s.post("k", "").header.Get("X-Request-Id"))
	again := s.post("k", "")
	assert.True(t, again.replayed())
	assert.Equal(t, "2", again.header.Get("X-Request-Id"))
}

func TestAnswerAboveTheLimitIsNotStored(t *testing.T) {
	t.Parallel()
	const limit = 1000
	s := serve(t, nil, httpidem.Config{ResponseLimit: limit}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Kept", "yes")
		if r.URL.Path == "/declared" {
			w.Header().Set("Content-Length", "1001")
		}
		for range limit / 100 {
			_, _ = io.WriteString(w, strings.Repeat("x", 100))
		}
		if r.URL.Path != "/exact" {
			_, _ = io.WriteString(w, "x")
		}
	})
	for path, size := range map[string]int{"/exact": limit, "/above": limit + 1, "/declared": limit + 1} {
		first := s.do(s.request(http.MethodPost, path, "k", ""))
		assert.Len(t, first.body, size)
		again := s.do(s.request(http.MethodPost, path, "k", ""))
		assert.Equal(t, http.StatusOK, again.status)
		assert.True(t, again.replayed())
		assert.Equal(t, "yes", again.header.Get("X-Kept"))
		if path == "/exact" {
			assert.Len(t, again.body, size)
			assert.Empty(t, again.header.Get(httpidem.IncompleteHeader))
		} else {
			assert.Empty(t, again.body)
			assert.Equal(t, "too-large", again.header.Get(httpidem.IncompleteHeader))
		}
	}
	assert.EqualValues(t, 3, s.runs.Load())
}

func TestFlushStreams(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, nil, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "one ")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		g.pass()
		_, _ = io.WriteString(w, "two")
		w.(http.Flusher).Flush()
	})
	resp, err := s.srv.Client().Do(s.request(http.MethodPost, "/", "k", ""))
	require.NoError(t, err)
	defer resp.Body.Close()
	buf := make([]byte, 4)
	_, err = io.ReadFull(resp.Body, buf)
	require.NoError(t, err)
	assert.Equal(t, "one ", string(buf), "it comes while the handler is at work")
	close(g.open)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "two", string(rest))
	again := s.do(s.request(http.MethodPost, "/", "k", ""))
	assert.True(t, again.replayed())
	assert.Equal(t, "one two", again.body)
}

// Nothing reaches the client before the key is settled, unless the handler streams.
func TestAnswerWaitsForTheSettlement(t *testing.T) {
	t.Parallel()
	store := &slowSettle{Store: memstore.New(memstore.Config{}), g: newGate()}
	s := serve(t, store, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, strings.Repeat("more than net/http holds back by itself", 1000))
	})
	conn, err := net.Dial("tcp", s.srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nIdempotency-Key: k\r\n\r\n")
	require.NoError(t, err)
	await(t, store.g.entered, "the settlement")
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	n, err := conn.Read(make([]byte, 1))
	assert.Zero(t, n)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "a byte came before the settlement")
	close(store.g.open)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	assert.Contains(t, line, "201 Created")
}

type slowSettle struct {
	dedup.Store
	g gate
}

func (s *slowSettle) Settle(ctx context.Context, h dedup.Hold, st dedup.Settlement) error {
	s.g.pass()
	return s.Store.Settle(ctx, h, st)
}

// Nobody may take a stream that ends with a panic for complete, and the key is free again.
func TestPanicAfterAFlush(t *testing.T) {
	t.Parallel()
	fails := true
	s := serve(t, nil, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		if fails {
			fails = false
			panic("in the middle")
		}
	})
	s.srv.Client().Transport.(*http.Transport).DisableKeepAlives = true // else net/http sends it again by itself
	a, err := s.try(s.request(http.MethodPost, "/", "k", ""))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Equal(t, "part", a.body)
	a = s.do(s.request(http.MethodPost, "/", "k", ""))
	assert.Equal(t, "part", a.body)
	assert.False(t, a.replayed())
	assert.Equal(t, []httpidem.Event{httpidem.Released, httpidem.Executed}, s.seen())
}

func TestHijack(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, err = w.Write([]byte("x"))
		assert.ErrorIs(t, err, http.ErrHijacked)
		assert.ErrorIs(t, http.NewResponseController(w).Flush(), http.ErrHijacked)
		w.WriteHeader(http.StatusTeapot)
		_, _ = rw.WriteString("HTTP/1.1 201 Created\r\nContent-Length: 3\r\nConnection: close\r\n\r\nraw")
		_ = rw.Flush()
	})
	first := s.post("k", "")
	assert.Equal(t, http.StatusCreated, first.status)
	assert.Equal(t, "raw", first.body)
	assert.Eventually(t, func() bool { return len(s.seen()) == 1 }, patience, time.Millisecond)
	again := s.post("k", "")
	assert.Equal(t, http.StatusOK, again.status)
	assert.Equal(t, "hijacked", again.header.Get(httpidem.IncompleteHeader))
	assert.EqualValues(t, 1, s.runs.Load())
}

func TestBodies(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	s := serve(t, nil, httpidem.Config{BodyLimit: limit}, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = fmt.Fprint(w, n)
	})
	for name, c := range map[string]struct {
		size    int
		chunked bool
		status  int
	}{
		"empty": {0, false, 200}, "empty chunked": {0, true, 200}, "at the limit": {limit, false, 200},
		"chunked at the limit": {limit, true, 200}, "above": {limit + 1, false, 413}, "chunked above": {limit + 1, true, 413},
	} {
		r := s.request(http.MethodPost, "/", strings.ReplaceAll(name, " ", "-"), strings.Repeat("x", c.size))
		if c.chunked {
			r.ContentLength, r.Body = -1, io.NopCloser(strings.NewReader(strings.Repeat("x", c.size)))
		}
		a := s.do(r)
		assert.Equal(t, c.status, a.status, name)
		if c.status == http.StatusOK {
			assert.Equal(t, fmt.Sprint(c.size), a.body, name)
		} else {
			assert.Equal(t, httpidem.ProblemBodyTooLarge, a.problem(t), name)
		}
	}
	assert.EqualValues(t, 4, s.runs.Load())
}

func TestBodyThatIsCutOffDoesNotRun(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{}, created)
	for name, request := range map[string]string{
		"length":    "Content-Length: 100\r\n\r\nonly this",
		"chunked":   "Transfer-Encoding: chunked\r\n\r\n64\r\nonly this",
		"malformed": "Transfer-Encoding: chunked\r\n\r\nno chunk\r\n",
	} {
		conn, err := net.Dial("tcp", s.srv.Listener.Addr().String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "POST /items HTTP/1.1\r\nHost: x\r\nIdempotency-Key: %s\r\n%s", name, request)
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if !errors.Is(err, io.ErrUnexpectedEOF) { // the server may close at once
			require.NoError(t, err, name)
			assert.Equal(t, http.StatusBadRequest, resp.StatusCode, name)
			_ = resp.Body.Close()
		}
		_ = conn.Close()
		assert.Equal(t, http.StatusCreated, s.post(name, "all of it").status, "the key is as new")
	}
	assert.EqualValues(t, 3, s.runs.Load())
}
