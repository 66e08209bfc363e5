package httpidem

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/idemq/idemq/dedup"
)

// BodyFingerprint is taken over the method, the path, the query and the bytes of the body. A client that writes its body
// anew for each try may order or space it differently; see [JSONFingerprint].
func BodyFingerprint(r *http.Request, body []byte) dedup.Fingerprint {
	return fingerprint(r, "", body)
}

// JSONFingerprint ignores the order of keys and white space of a body that is JSON; 1 and 1.0 still differ. A body that is
// not JSON, or means different things to different readers (a key twice in one object, invalid UTF-8), is taken as it is.
func JSONFingerprint(r *http.Request, body []byte) dedup.Fingerprint {
	if canonical, err := canonicalJSON(body); err == nil {
		return fingerprint(r, "json", canonical)
	}
	return fingerprint(r, "", body)
}

func fingerprint(r *http.Request, form string, body []byte) dedup.Fingerprint {
	return dedup.FingerprintOf([]byte(r.Method), []byte(r.URL.EscapedPath()), []byte(r.URL.RawQuery), []byte(form), body)
}

var errNotCanonical = errors.New("httpidem: not one unambiguous JSON value")

func canonicalJSON(body []byte) ([]byte, error) {
	if !utf8.Valid(body) || !json.Valid(body) { // the latter bounds the depth, too
		return nil, errNotCanonical
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	return appendCanonical(nil, dec)
}

func appendCanonical(b []byte, dec *json.Decoder) ([]byte, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		return appendArray(b, dec)
	case json.Delim('{'):
		return appendObject(b, dec)
	}
	scalar, err := json.Marshal(token)
	return append(b, scalar...), err
}

func appendArray(b []byte, dec *json.Decoder) (_ []byte, err error) {
	b = append(b, '[')
	for dec.More() {
		if b, err = appendCanonical(b, dec); err != nil {
			return nil, err
		}
		b = append(b, ',')
	}
	_, err = dec.Token()
	return append(b, ']'), err
}

func appendObject(b []byte, dec *json.Decoder) ([]byte, error) {
	members := map[string][]byte{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string) // the decoder lets nothing else be a name
		if _, twice := members[name]; twice {
			return nil, errNotCanonical
		}
		if members[name], err = appendCanonical(nil, dec); err != nil {
			return nil, err
		}
	}
	b = append(b, '{')
	for _, name := range slices.Sorted(maps.Keys(members)) {
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		b = append(append(append(append(b, quoted...), ':'), members[name]...), ',')
	}
	_, err := dec.Token()
	return append(b, '}'), err
}
