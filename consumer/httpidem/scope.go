package httpidem

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/idemq/idemq/dedup"
)

// scopeOf returns the scope of a request: "http:service:principal:METHOD:route", each part escaped, so that no two
// requests of different parts share a scope. One that is too long for a store is "http:sha256:digest".
func scopeOf(service, principal string, r *http.Request) string {
	b := make([]byte, 0, dedup.MaxKeyLength)
	b = append(b, "http:"...)
	b = appendEscaped(b, service, "")
	b = append(b, ':')
	b = appendEscaped(b, principal, "")
	b = append(b, ':')
	b = appendEscaped(b, r.Method, "")
	b = append(b, ':')
	if route, ok := routeOf(r.Pattern); ok {
		b = appendEscaped(b, route, "{}")
	} else {
		b = appendEscaped(b, r.URL.Path, "") // braces are escaped, so that a path never looks like a pattern
	}
	if len(b) > dedup.MaxKeyLength {
		sum := sha256.Sum256(b)
		return "http:sha256:" + hex.EncodeToString(sum[:])
	}
	return string(b)
}

// routeOf returns a pattern without its method, and whether it names one route. One that names a subtree stands where a
// mux hands on to another one, whose routes must not share their keys.
func routeOf(pattern string) (route string, ok bool) {
	if i := strings.IndexAny(pattern, " \t"); i >= 0 {
		pattern = strings.TrimLeft(pattern[i:], " \t")
	}
	subtree := strings.HasSuffix(pattern, "/") || strings.HasSuffix(pattern, "...}") || strings.HasSuffix(pattern, "*")
	return pattern, pattern != "" && !subtree
}

// appendEscaped appends s with everything but visible ASCII, and what separates or looks like something else, in
// hexadecimal.
func appendEscaped(b []byte, s, plain string) []byte {
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		c := s[i]
		special := c < 0x21 || c > 0x7E || c == '%' || c == ':' || (c == '{' || c == '}') && plain == ""
		if special {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}
