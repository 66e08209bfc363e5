package consumer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/idemq/idemq/dedup"
)

// The headers of an encoded letter. Their values are percent-encoded wherever a header could not carry them.
const (
	LetterPrefix = "Idemq-" // of all headers that describe the letter
	OrigPrefix   = "Orig-"  // before original names that begin with Nats-, Idemq- or Orig-, in any case

	letterClass        = LetterPrefix + "Class"
	letterError        = LetterPrefix + "Error"
	letterStack        = LetterPrefix + "Stack"
	letterAttempts     = LetterPrefix + "Attempts"
	letterGeneration   = LetterPrefix + "Generation"
	letterFirstFailure = LetterPrefix + "First-Failure"
	letterLastFailure  = LetterPrefix + "Last-Failure"
	letterScope        = LetterPrefix + "Scope"
	letterKey          = LetterPrefix + "Key"
	letterFence        = LetterPrefix + "Fence"
	letterFingerprint  = LetterPrefix + "Fingerprint"
	letterHistory      = LetterPrefix + "History" // one value for each earlier death
	letterSize         = LetterPrefix + "Size"
	letterSubject      = LetterPrefix + "Subject"
	letterStream       = LetterPrefix + "Stream"
	letterDurable      = LetterPrefix + "Durable"
	letterSequence     = LetterPrefix + "Sequence"
	letterTime         = LetterPrefix + "Time"
	letterRawHeader    = LetterPrefix + "Raw-Header" // base64
	letterOdd          = LetterPrefix + "Header"     // name=value of original headers that cannot travel as they are
)

// What a letter keeps of the diagnostics, in bytes before encoding. The rest is in the logs.
const (
	MaxLetterError = 4 << 10
	MaxLetterStack = 16 << 10
)

// ErrNotLetter says that headers are not those of a letter, or were damaged.
var ErrNotLetter = errors.New("consumer: not a readable dead letter")

// EncodeHeader returns the headers with which a letter is stored; the body is l.Data. Original headers are copied. Those
// that begin with Nats- (they are orders to the server: TTL, schedule, rollup) are moved behind "Orig-", as are those
// that begin with Idemq- or Orig-. Those that NATS cannot carry (a line break in the value, a colon in the name) go
// percent-encoded into Idemq-Header, one "name=value" each. Everything in the result is valid UTF-8 without line breaks.
// Error and Stack are cut to [MaxLetterError] and [MaxLetterStack], the history to the latest [MaxLetterHistory] deaths
// with [MaxLetterDeathError] bytes of error each. It shares no slice with l.
func (l *Letter) EncodeHeader() map[string][]string {
	h := make(map[string][]string, len(l.Header)+16)
	for _, name := range slices.Sorted(maps.Keys(l.Header)) {
		values := l.Header[name]
		if !letterNameSafe(name) || slices.ContainsFunc(values, func(v string) bool { return !letterValueSafe(v) }) {
			for _, v := range values {
				h[letterOdd] = append(h[letterOdd], letterEscape(name, "=")+"="+letterEscape(v, ""))
			}
			continue
		}
		if len(values) > 0 {
			h[letterMoved(name)] = slices.Clone(values)
		}
	}
	h[letterClass] = []string{letterEscape(string(l.Class), "")}
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{letterEscape(value, "")}
		}
	}
	set(letterError, letterCut(l.Error, MaxLetterError))
	set(letterStack, letterCut(l.Stack, MaxLetterStack))
	set(letterScope, l.Scope)
	set(letterKey, l.Key)
	set(letterFingerprint, l.Fingerprint.String())
	set(letterSize, strconv.Itoa(len(l.Data)))
	if lines := encodeHistory(l.History); len(lines) > 0 {
		h[letterHistory] = lines
	}
	set(letterSubject, l.Subject)
	set(letterStream, l.Stream)
	set(letterDurable, l.Durable)
	set(letterRawHeader, base64.StdEncoding.EncodeToString(l.RawHeader))
	set(letterFirstFailure, letterFormatTime(l.FirstFailure))
	set(letterLastFailure, letterFormatTime(l.LastFailure))
	set(letterTime, letterFormatTime(l.Time))
	for name, n := range map[string]uint64{letterFence: uint64(l.Fence), letterSequence: l.Sequence} {
		if n != 0 {
			set(name, strconv.FormatUint(n, 10))
		}
	}
	for name, n := range map[string]int{letterAttempts: l.Attempts, letterGeneration: l.Generation} {
		if n != 0 {
			set(name, strconv.Itoa(n))
		}
	}
	return h
}

// DecodeLetter reads what [Letter.EncodeHeader] wrote; data becomes the letter's Data. Headers of the server and of later
// versions are ignored. The error wraps [ErrNotLetter] and names the header. Any input is safe. The letter shares data.
func DecodeLetter(header map[string][]string, data []byte) (*Letter, error) {
	if len(header[letterClass]) == 0 {
		return nil, fmt.Errorf("%w: it has no header %s", ErrNotLetter, letterClass)
	}
	header = unflatten(header)
	r := letterReader{header: header}
	size := len(data) // of a letter that was written before there was a header for it
	if len(header[letterSize]) > 0 {
		size = int(r.number(letterSize, 32))
	}
	l := &Letter{
		Class: dedup.Class(r.text(letterClass)), Error: r.text(letterError), Stack: r.text(letterStack),
		Attempts: int(r.number(letterAttempts, 32)), Generation: int(r.number(letterGeneration, 32)),
		FirstFailure: r.time(letterFirstFailure), LastFailure: r.time(letterLastFailure),
		Scope: r.text(letterScope), Key: r.text(letterKey), Fence: dedup.Fence(r.number(letterFence, 64)),
		Subject: r.text(letterSubject), Stream: r.text(letterStream), Durable: r.text(letterDurable),
		Sequence: r.number(letterSequence, 64), Time: r.time(letterTime), RawHeader: r.base64(letterRawHeader),
		Fingerprint: r.fingerprint(letterFingerprint), History: r.history(letterHistory),
		Header: r.original(), Data: data, Size: size,
	}
	if r.err != nil {
		return nil, r.err
	}
	return l, nil
}

// letterReader keeps the first error.
type letterReader struct {
	header map[string][]string
	err    error
}

func (r *letterReader) fail(name, reason string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: header %s %s", ErrNotLetter, name, reason)
	}
}

func (r *letterReader) text(name string) string {
	values := r.header[name]
	if len(values) == 0 {
		return ""
	}
	if len(values) > 1 {
		r.fail(name, "has several values")
	}
	s, err := url.PathUnescape(values[0])
	if err != nil {
		r.fail(name, "is not percent-encoded")
	}
	return s
}

func (r *letterReader) number(name string, bits int) uint64 {
	s := r.text(name)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, bits-1)
	if bits == 64 {
		n, err = strconv.ParseUint(s, 10, bits)
	}
	if err != nil {
		r.fail(name, "is not a number in range")
	}
	return n
}

func (r *letterReader) time(name string) time.Time {
	return r.parseTime(name, r.text(name))
}

func (r *letterReader) parseTime(name, s string) time.Time {
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		r.fail(name, "is not a time")
	}
	if letterFormatTime(t) == "" { // it can be read and not be written again
		return time.Time{}
	}
	return t.UTC()
}

func (r *letterReader) fingerprint(name string) dedup.Fingerprint {
	f, err := dedup.ParseFingerprint(r.text(name))
	if err != nil {
		r.fail(name, "is not a fingerprint")
	}
	return f
}

func (r *letterReader) base64(name string) []byte {
	s := r.text(name)
	if s == "" {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		r.fail(name, "is not base64")
	}
	return b
}

func (r *letterReader) original() map[string][]string {
	h := map[string][]string{}
	for name, values := range r.header {
		orig, moved := strings.CutPrefix(name, OrigPrefix)
		switch {
		case len(values) == 0:
		case moved: // before one of that name which is the letter's own
			h[orig] = append([]string(nil), values...)
		case letterMoved(name) == name && len(r.header[OrigPrefix+name]) == 0:
			h[name] = append([]string(nil), values...)
		}
	}
	for _, line := range r.header[letterOdd] {
		name, value, ok := strings.Cut(line, "=")
		n, errName := url.PathUnescape(name)
		v, errValue := url.PathUnescape(value)
		if !ok || errName != nil || errValue != nil {
			r.fail(letterOdd, "is not a percent-encoded name=value")
			continue
		}
		h[n] = append(h[n], v)
	}
	if len(h) == 0 {
		return nil
	}
	return h
}

// letterMoved is the name under which an original header travels.
func letterMoved(name string) string {
	for _, prefix := range [...]string{"Nats-", LetterPrefix, OrigPrefix} {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return OrigPrefix + name
		}
	}
	return name
}

// letterNameSafe is a little stricter than the protocol, like the Go client that has to send it.
func letterNameSafe(name string) bool {
	for i := 0; i < len(name); i++ {
		if name[i] < 0x21 || name[i] > 0x7E || strings.IndexByte("\"()/,:;<=>?@[\\]{}", name[i]) >= 0 {
			return false
		}
	}
	return name != ""
}

// letterValueSafe says whether a value comes back the same: clients trim it and replace line breaks.
func letterValueSafe(v string) bool {
	return utf8.ValidString(v) && !strings.ContainsAny(v, "\r\n") && strings.Trim(v, " \t") == v
}

// letterEscape percent-encodes all that is not printable, spaces at both ends, the percent sign and the bytes in extra.
func letterEscape(s, extra string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		ok := unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) && r != '%' && !strings.ContainsRune(extra, r)
		if r == ' ' && (i == 0 || i == len(s)-1) {
			ok = false
		}
		for _, c := range []byte(s[i : i+n]) {
			if ok {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		i += n
	}
	return b.String()
}

// letterCut shortens a text without breaking a character, and shows that it did.
func letterCut(s string, limit int) string {
	const mark = "…"
	if len(s) <= limit {
		return s
	}
	n := limit - len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}

// letterFormatTime gives nothing for a time that RFC 3339 cannot write.
func letterFormatTime(t time.Time) string {
	if t = t.UTC(); t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}
