package httpidem

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/idemq/idemq/dedup"
)

// KeyHeader is the header that carries the idempotency key.
const KeyHeader = "Idempotency-Key"

var errNoKey = errors.New("send the header " + KeyHeader + " with a value of your own choice, the same on every retry of the operation and a new one for each new operation")

// keyOf returns the key in h. A raw key and the same key as a quoted string (RFC 8941, section 3.3.3) are one key. The
// error never repeats the key unescaped.
func keyOf(h http.Header) (string, error) {
	values := h[KeyHeader]
	switch {
	case len(values) == 0:
		return "", errNoKey
	case len(values) > 1:
		return "", fmt.Errorf("there are %d headers %s; send one", len(values), KeyHeader)
	}
	key, err := unquote(values[0])
	if err != nil {
		return "", err
	}
	return key, dedup.ValidateID(key)
}

// unquote returns the content of a quoted string, and anything that does not begin with a quote as it is.
func unquote(s string) (string, error) {
	if s == "" || s[0] != '"' {
		return s, nil
	}
	const malformed = `the quoted string in the header ` + KeyHeader + ` is malformed at byte %d: it ends with its second quote, and \ stands before \ and " alone; there are no parameters`
	content := make([]byte, 0, len(s))
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			if i != len(s)-1 {
				return "", fmt.Errorf(malformed, i+1)
			}
			return string(content), nil
		case '\\':
			i++
			if i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", fmt.Errorf(malformed, i)
			}
			content = append(content, s[i])
		default:
			content = append(content, c)
		}
	}
	return "", fmt.Errorf(malformed, len(s))
}
