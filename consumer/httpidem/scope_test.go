package httpidem_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

func tenant(r *http.Request) string { return r.Header.Get("X-Tenant") }

func TestTenantsNeverSeeEachOthersAnswers(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{Principal: tenant}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("secret of " + tenant(r)))
	})
	send := func(tenant string) answer {
		r := s.request(http.MethodPost, "/items", "the same key", "the same body")
		r.Header.Set(httpidem.KeyHeader, "same")
		r.Header.Set("X-Tenant", tenant)
		return s.do(r)
	}
	for try := range 2 {
		for _, name := range []string{"a", "b", "a:POST", "a%3APOST", "a b", strings.Repeat("long", 100), strings.Repeat("long", 100) + "!"} {
			a := send(name)
			assert.Equal(t, "secret of "+name, a.body)
			assert.Equal(t, try > 0, a.replayed())
		}
	}
	a := send("")
	assert.Equal(t, http.StatusForbidden, a.status)
	assert.Equal(t, httpidem.ProblemPrincipal, a.problem(t))
	assert.EqualValues(t, 7, s.runs.Load())
}

// scopes says under which scopes the requests to h are recorded.
func scopes(t *testing.T, handler func(idem func(http.Handler) http.Handler, h http.Handler) http.Handler, cfg httpidem.Config, paths ...string) []string {
	t.Helper()
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	cfg.Principal = httpidem.SingleTenant
	idem, err := httpidem.New(d, cfg)
	require.NoError(t, err)
	var seen []string
	s := &service{t: t, srv: newServer(t, handler(idem, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, dedup.KeyFrom(r.Context()).Scope)
	})).ServeHTTP)}
	for _, path := range paths {
		require.Equal(t, http.StatusOK, s.do(s.request(http.MethodPost, path, "k", "")).status)
	}
	return seen
}

func TestScopes(t *testing.T) {
	t.Parallel()
	type wrap = func(http.Handler) http.Handler
	bare := func(idem wrap, h http.Handler) http.Handler { return idem(h) }
	assert.Equal(t, []string{"http::-:POST:/a/b", "http::-:POST:/a%20b%3A%7Bx%7D%25"},
		scopes(t, bare, httpidem.Config{}, "/a/b", "/a%20b:%7Bx%7D%25"))
	assert.Equal(t, []string{"http:shop:-:POST:/a"}, scopes(t, bare, httpidem.Config{Service: "shop"}, "/a"))

	// One route is one scope, whatever its wildcards are; another path under the same key is another request, and refused.
	mux := func(idem wrap, h http.Handler) http.Handler {
		m := http.NewServeMux()
		m.Handle("POST /carts/{id}/items", idem(h))
		m.Handle("/any/", idem(h))
		m.Handle("/rest/{path...}", idem(h))
		m.Handle("/end/{$}", idem(h))
		return m
	}
	assert.Equal(t, []string{"http::-:POST:/carts/{id}/items", "http::-:POST:/any/one", "http::-:POST:/rest/of/it", "http::-:POST:/end/{$}"},
		scopes(t, mux, httpidem.Config{}, "/carts/1/items", "/any/one", "/rest/of/it", "/end/"))

	router := func(idem wrap, h http.Handler) http.Handler {
		r := chi.NewRouter()
		r.With(idem).Method(http.MethodPost, "/carts/{id}/items", h)
		r.Route("/sub", func(r chi.Router) {
			r.Use(idem)
			r.Method(http.MethodPost, "/one", h)
			r.Method(http.MethodPost, "/two", h)
		})
		return r
	}
	assert.Equal(t, []string{"http::-:POST:/carts/{id}/items", "http::-:POST:/sub/one", "http::-:POST:/sub/two"},
		scopes(t, router, httpidem.Config{}, "/carts/1/items", "/sub/one", "/sub/two"))

	long := "/" + strings.Repeat("x", 300)
	digests := scopes(t, bare, httpidem.Config{}, long, long+"y")
	require.Len(t, digests, 2)
	assert.NotEqual(t, digests[0], digests[1])
	for _, scope := range digests {
		assert.Regexp(t, `^http:sha256:[0-9a-f]{64}$`, scope)
	}
}

func TestHandlerSeesItsRequest(t *testing.T) {
	t.Parallel()
	type contextKey struct{}
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	idem, err := httpidem.New(d, httpidem.Config{Principal: httpidem.SingleTenant})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("POST /carts/{id}", idem(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "7", r.PathValue("id"))
		assert.Equal(t, "outer", r.Context().Value(contextKey{}))
		assert.Equal(t, "k", dedup.KeyFrom(r.Context()).ID)
		assert.Positive(t, dedup.FenceFrom(r.Context()))
		assert.Equal(t, 1, dedup.AttemptFrom(r.Context()))
		assert.Equal(t, "x", r.FormValue("field"))
	})))
	s := &service{t: t, srv: newServer(t, func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, "outer")))
	})}
	r := s.request(http.MethodPost, "/carts/7", "k", "field=x")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	assert.Equal(t, http.StatusOK, s.do(r).status)
}

func TestFingerprints(t *testing.T) {
	t.Parallel()
	request := func(method, target string) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), method, target, http.NoBody)
		require.NoError(t, err)
		return r
	}
	post := request(http.MethodPost, "/items")
	seen := map[dedup.Fingerprint]string{}
	for _, c := range []struct{ method, target, body string }{
		{"POST", "/items", ""}, {"PATCH", "/items", ""}, {"POST", "/item", "s"}, {"POST", "/items?a", ""}, {"POST", "/items", "a"},
		{"POST", "/items%2Fa", ""}, {"POST", "/items/a", ""},
	} {
		fp := httpidem.BodyFingerprint(request(c.method, c.target), []byte(c.body))
		assert.Empty(t, seen[fp], c)
		seen[fp] = c.target
	}
	same := func(a, b string) bool {
		return httpidem.JSONFingerprint(post, []byte(a)) == httpidem.JSONFingerprint(post, []byte(b))
	}
	assert.True(t, same(`{"a":1,"b":[{"c":null,"d":true}]}`, " {\n\"b\" : [ {\"d\":true, \"c\":null} ], \"\\u0061\":1 }"))
	assert.NotEqual(t, httpidem.JSONFingerprint(post, []byte(`{}`)), httpidem.JSONFingerprint(request("PATCH", "/items"), []byte(`{}`)))
	for _, pair := range [][2]string{
		{`[1,2]`, `[2,1]`}, {`{"a":1}`, `{"a":"1"}`}, {`{"a":{"b":1}}`, `{"a":{},"b":1}`}, {`1`, `1.0`}, {`[[],1]`, `[[1]]`},
		{`{"a":1,"a":2}`, `{"a":2}`}, {`{"a":1,"a":2}`, `{"a":2,"a":1}`}, {`[1`, `[1]`}, {`1 2`, `12`}, {"\"\xff\"", "\"\xfe\""},
		{`12345678901234567890`, `12345678901234567891`}, {``, `null`},
	} {
		assert.False(t, same(pair[0], pair[1]), pair)
	}
	deep := strings.Repeat("[", 1_000_000)
	assert.False(t, same(deep, deep+"["))

	s := serve(t, nil, httpidem.Config{Fingerprint: httpidem.JSONFingerprint}, created)
	s.post("k", `{"a":1,"b":2}`)
	assert.True(t, s.post("k", `{"b": 2, "a": 1}`).replayed())
	assert.Equal(t, http.StatusUnprocessableEntity, s.post("k", `{"b": 2, "a": 3}`).status)
}
