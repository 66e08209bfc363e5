package httpidem_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/idemq/idemq/consumer/httpidem"
)

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{}, created)
	for name, values := range map[string][]string{
		"missing":            nil,
		"empty":              {""},
		"two":                {"a", "a"},
		"quoted empty":       {`""`},
		"one quote":          {`"`},
		"no closing quote":   {`"abc`},
		"after the quote":    {`"abc"d`},
		"parameters":         {`"abc";p=1`},
		"list of strings":    {`"abc", "def"`},
		"list":               {"abc, def"},
		"bad escape":         {`"a\b"`},
		"escape at the end":  {`"a\`},
		"space":              {"a b"},
		"quoted space":       {`"a b"`},
		"not ASCII":          {"ключ"},
		"quoted not ASCII":   {`"ключ"`},
		"256 characters":     {strings.Repeat("k", 256)},
		"256 quoted":         {`"` + strings.Repeat("k", 256) + `"`},
		"10 kB":              {strings.Repeat("k", 10<<10)},
		"10 kB of escapes":   {`"` + strings.Repeat(`\"`, 5<<10) + `"`},
		"control characters": {"a\x7Fb"},
	} {
		r := s.request(http.MethodPost, "/items", "", "x")
		if values != nil {
			r.Header[httpidem.KeyHeader] = values
		}
		a, err := s.try(r)
		if name == "control characters" { // the client refuses to send them
			assert.Error(t, err)
			continue
		}
		assert.NoError(t, err)
		assert.Equal(t, http.StatusBadRequest, a.status, name)
		want := httpidem.ProblemMalformedKey
		if name == "missing" {
			want = httpidem.ProblemMissingKey
		}
		assert.Equal(t, want, a.problem(t), name)
		assert.NotContains(t, a.body, "dedup", name)
		assert.Less(t, len(a.body), 500, "the key must not be repeated")
	}
	assert.Zero(t, s.runs.Load())
}

func TestRawAndQuotedAreOneKey(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{}, created)
	for raw, quoted := range map[string]string{
		"order-4711":             `"order-4711"`,
		"a,b;c=d{}":              `"a,b;c=d{}"`,
		`a"b\c`:                  `"a\"b\\c"`,
		strings.Repeat("k", 255): `"` + strings.Repeat("k", 255) + `"`,
	} {
		assert.Equal(t, http.StatusCreated, s.post(raw, "x").status, raw)
		assert.True(t, s.post(quoted, "x").replayed(), quoted)
	}
	assert.EqualValues(t, 4, s.runs.Load())
}

func TestOptionalKey(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{KeyOptional: true}, created)
	for range 2 {
		assert.Equal(t, http.StatusCreated, s.post("", "x").status)
	}
	assert.Equal(t, http.StatusBadRequest, s.post("a b", "x").status)
	assert.EqualValues(t, 2, s.runs.Load())
}
