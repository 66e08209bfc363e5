package httpidem

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
)

func TestStoredAnswersComeBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		status := rapid.IntRange(200, 999).Draw(t, "status")
		names := rapid.StringMatching(`X-[A-Z][a-z]{0,3}`)
		values := rapid.SliceOfN(rapid.String(), 1, 3)
		h := http.Header(rapid.MapOf(names, values).Draw(t, "header"))
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		s, err := decode(append(appendHead(nil, status, h, nil), body...))
		require.NoError(t, err)
		require.Equal(t, status, s.status)
		require.True(t, bytes.Equal(body, s.body))
		require.Len(t, s.header, len(h))
		for name, v := range h {
			require.Equal(t, v, s.header[name])
		}
	})
}

func TestStoredAnswersOfOtherVersions(t *testing.T) {
	t.Parallel()
	good := append(appendHead(nil, 201, http.Header{"A": {"b"}}, nil), "body"...)
	for name, change := range map[string]func(b []byte) []byte{
		"later version":    func(b []byte) []byte { b[0] = storedVersion + 1; return b },
		"no version":       func(b []byte) []byte { b[0] = 0; return b },
		"unknown missing":  func(b []byte) []byte { b[missingAt] = byte(notStored); return b },
		"informational":    func(b []byte) []byte { b[statusAt], b[statusAt+1] = 0, 100; return b },
		"status too large": func(b []byte) []byte { b[statusAt] = 0xFF; return b },
		"too many fields":  func(b []byte) []byte { b[fieldsAt] = 100; return b },
		"huge number":      func(b []byte) []byte { return append(b[:fieldsAt], bytes.Repeat([]byte{0xFF}, 20)...) },
		"empty name":       func(b []byte) []byte { b[fieldsAt+1] = 0; return b },
		"name cut off":     func(b []byte) []byte { b[fieldsAt+1] = 100; return b },
		"value cut off":    func(b []byte) []byte { b[fieldsAt+3] = 100; return b },
		"head cut off":     func(b []byte) []byte { return b[:fieldsAt] },
	} {
		_, err := decode(change(bytes.Clone(good)))
		assert.ErrorIs(t, err, errStored, name)
	}
	for n := 1; n < len(good)-len("body"); n++ {
		_, err := decode(good[:n])
		assert.ErrorIs(t, err, errStored, n)
	}
}

// Nobody waits on a run with another payload, whatever the store's verdict was a moment ago.
func TestFlightsKnowTheirPayload(t *testing.T) {
	t.Parallel()
	f := &flights{runs: map[dedup.Key]*flight{}}
	k, a, b := dedup.Key{Scope: "s", ID: "k"}, dedup.FingerprintOf([]byte("a")), dedup.FingerprintOf([]byte("b"))
	run := f.begin(k, a)
	assert.Equal(t, run, f.find(k, a))
	assert.Nil(t, f.find(k, b))
	successor := f.begin(k, a)
	f.end(run, nil)
	assert.Equal(t, successor, f.find(k, a), "who was overtaken takes nothing away")
	f.end(successor, []byte("answer"))
	f.end(successor, nil)
	assert.Nil(t, f.find(k, a))
	assert.Equal(t, "answer", string(successor.answer))
}

func FuzzDecodeStored(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendHead(nil, 200, nil, nil))
	f.Add(append(appendHead(nil, 201, http.Header{"Content-Type": {"text/plain"}, "X-Two": {"a", ""}}, nil), "body"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(b)
		if err != nil {
			assert.ErrorIs(t, err, errStored)
			return
		}
		again := append(appendHead(nil, s.status, s.header, nil), s.body...)
		if len(b) > 0 {
			again[missingAt] = byte(s.missing)
			s2, err := decode(again)
			require.NoError(t, err)
			require.Equal(t, s.status, s2.status)
			require.Equal(t, s.missing, s2.missing)
			require.True(t, bytes.Equal(s.body, s2.body))
			for name, values := range s2.header { // names that are never stored are gone
				require.Equal(t, s.header[name], values)
			}
		}
		s.replay(httptest.NewRecorder(), false) // nothing in the store may make net/http panic
	})
}

func FuzzKeyOf(f *testing.F) {
	for _, s := range []string{"", "k", `"k"`, `"a\"b"`, `"`, `"\`, `"a";p`, "a b", "ключ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, err := keyOf(http.Header{KeyHeader: {s}})
		if err != nil {
			return
		}
		quoted := []byte{'"'}
		for i := range len(key) {
			if key[i] == '"' || key[i] == '\\' {
				quoted = append(quoted, '\\')
			}
			quoted = append(quoted, key[i])
		}
		again, err := keyOf(http.Header{KeyHeader: {string(append(quoted, '"'))}})
		require.NoError(t, err)
		require.Equal(t, key, again)
	})
}
