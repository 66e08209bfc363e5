package redisstore

import (
	"net/url"
	"strings"

	"github.com/idemq/idemq/dedup"
)

// escaper encodes what would move the hash tag or the border between scope and key.
var escaper = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D", "|", "%7C")

func (s *Store) name(k dedup.Key) string {
	return s.cfg.Prefix + "{" + escaper.Replace(k.Scope) + "|" + escaper.Replace(k.ID) + "}"
}

// parseName is the inverse of name; ok is false for a name that we did not make.
func (s *Store) parseName(name string) (k dedup.Key, ok bool) {
	rest, ok := strings.CutPrefix(name, s.cfg.Prefix+"{")
	if !ok {
		return k, false
	}
	rest, ok = strings.CutSuffix(rest, "}")
	if !ok {
		return k, false
	}
	scope, id, ok := strings.Cut(rest, "|")
	if !ok {
		return k, false
	}
	var err error
	if k.Scope, err = url.PathUnescape(scope); err != nil {
		return k, false
	}
	if k.ID, err = url.PathUnescape(id); err != nil {
		return k, false
	}
	return k, s.name(k) == name
}

// globber makes a text stand for itself in a pattern of SCAN.
var globber = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`, "^", `\^`)

func (s *Store) pattern(scope string) string {
	p := globber.Replace(s.cfg.Prefix) + "{"
	if scope != "" {
		p += globber.Replace(escaper.Replace(scope)) + "|"
	}
	return p + "*}"
}
