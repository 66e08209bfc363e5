package httpidem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// The format of a stored answer. All numbers but the status are uvarints; strings have their length in front.
//
//	version (1 byte) | missing (1 byte) | status (2 bytes, big endian) | number of fields | name, value … | body
//
// A name with several values is there several times. The body is the rest.
const (
	storedVersion = 1
	missingAt     = 1 // so that it can be changed when the end of the answer is known
	statusAt      = 2
	fieldsAt      = 4
	minField      = 3 // bytes: two lengths and a name of one
	usualFields   = 16
)

// missing says why an answer was stored without its body.
type missing byte

const (
	nothing missing = iota
	tooLarge
	hijacked
	notStored // only when decoded: the key was consumed by something else than this middleware
)

var missingNames = [...]string{"", "too-large", "hijacked", "not-stored"}

var errStored = errors.New("httpidem: the stored answer is unreadable")

// stored is a decoded answer.
type stored struct {
	status  int
	missing missing
	header  http.Header
	body    []byte // shares memory with what was decoded
}

// appendHead appends the encoded answer up to the body. Fields that are in before, with the same values, belong to
// somebody further out, who sets them for each answer anew.
func appendHead(b []byte, status int, h, before http.Header) []byte {
	b = append(b, storedVersion, byte(nothing))
	b = binary.BigEndian.AppendUint16(b, uint16(status)) //nolint:gosec // 200 to 999
	fields := 0
	connection := h["Connection"]
	for name, values := range h {
		if storable(name, connection) && !slices.Equal(values, before[name]) {
			fields += len(values)
		}
	}
	b = binary.AppendUvarint(b, uint64(fields)) //nolint:gosec // a count
	for name, values := range h {
		if !storable(name, connection) || slices.Equal(values, before[name]) {
			continue
		}
		for _, value := range values {
			b = appendString(appendString(b, name), value)
		}
	}
	return b
}

// storable says whether a field belongs to the answer and not to one connection, one client or one moment.
func storable(name string, connection []string) bool {
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "", "Set-Cookie", "Set-Cookie2", // one client's
		"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", // one connection's
		"Content-Length", "Date", // the server's
		ReplayedHeader, IncompleteHeader, UntrackedHeader, UnrecordedHeader: // ours
		return false
	}
	if strings.HasPrefix(name, http.TrailerPrefix) {
		return false
	}
	for _, list := range connection {
		for named := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(named), name) {
				return false
			}
		}
	}
	return true
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decode reads what appendHead and the body after it wrote. Anything else, a later version included, is an error; nothing
// is guessed. A key without any result was consumed by something else.
func decode(b []byte) (stored, error) {
	switch {
	case len(b) == 0:
		return stored{status: http.StatusOK, missing: notStored}, nil
	case b[0] > storedVersion:
		return stored{}, fmt.Errorf("%w: it has format version %d, this build knows %d", errStored, b[0], storedVersion)
	case b[0] != storedVersion || len(b) < fieldsAt:
		return stored{}, fmt.Errorf("%w: it is not an answer", errStored)
	}
	s := stored{status: int(binary.BigEndian.Uint16(b[statusAt:])), missing: missing(b[missingAt])}
	if s.status < http.StatusOK || s.status > maxStatus || s.missing >= notStored {
		return stored{}, fmt.Errorf("%w: status %d, missing %d", errStored, s.status, s.missing)
	}
	fields, n := binary.Uvarint(b[fieldsAt:])
	if n <= 0 || fields > uint64(len(b)/minField) {
		return stored{}, fmt.Errorf("%w: its number of fields is malformed", errStored)
	}
	s.header = make(http.Header, min(fields, usualFields))
	rest := b[fieldsAt+n:]
	for range fields {
		var name, value string
		var ok bool
		if name, rest, ok = cutString(rest); !ok || name == "" {
			return stored{}, fmt.Errorf("%w: the name of a field is malformed", errStored)
		}
		if value, rest, ok = cutString(rest); !ok {
			return stored{}, fmt.Errorf("%w: the value of a field is malformed", errStored)
		}
		s.header[name] = append(s.header[name], value)
	}
	s.body = rest
	return s, nil
}

func cutString(b []byte) (s string, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return "", nil, false
	}
	end := size + int(n) //nolint:gosec // at most len(b)
	return string(b[size:end]), b[end:], true
}

// replay sends a stored answer.
func (s stored) replay(w http.ResponseWriter, originalStatus bool) {
	h := w.Header()
	for name, values := range s.header {
		h[name] = values
	}
	h[ReplayedHeader] = []string{"true"}
	if s.missing != nothing {
		h[IncompleteHeader] = []string{missingNames[s.missing]}
	}
	status := s.status
	if status == http.StatusCreated && !originalStatus {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	if len(s.body) > 0 {
		_, _ = w.Write(s.body) // who has gone away can ask again
	}
}
