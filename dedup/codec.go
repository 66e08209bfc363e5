package dedup

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"time"
)

// RecordVersion is the version of the format that [EncodeRecord] writes. A reader of version N reads N−1 too, so that a
// rolling upgrade can be rolled back by one step; a format before the first one does not exist yet.
const RecordVersion = 1

// The format: one header line of fields separated by single spaces, then the cause's message and the result, as they
// are. It is text so that redis-cli shows something a person understands, and so that a Lua pattern takes it apart.
//
//	1 state fence nonce attempt abandoned interrupted generation fingerprint lease_until not_before retention created failed updated class message_length\n
//
// States are one letter each; times are microseconds since 1970 by the store's clock, 0 if none; the retention is in
// milliseconds; "-" stands for an empty nonce, fingerprint or class.
const recordFields = 17

const stateLetters = "-afcod" // in the order of the states

const maxRecordHeader = 512 // bytes; what we write has at most 300

// StateLetter returns the letter that stands for s in a stored record.
func StateLetter(s State) byte { return stateLetters[s] }

// EncodeRecord returns the stored form of r, without its key, ExpiresAt and ReadAt, which the store knows by itself.
func EncodeRecord(r *Record) []byte {
	b := make([]byte, 0, 160+len(r.Cause.Message)+len(r.Result))
	b = strconv.AppendInt(b, RecordVersion, 10)
	b = append(b, ' ', StateLetter(r.State), ' ')
	b = strconv.AppendUint(b, uint64(r.Fence), 10)
	b = appendText(b, string(r.Nonce))
	for _, n := range [...]int64{int64(r.Attempt), int64(r.Abandoned), int64(r.Interrupted), int64(r.Generation)} {
		b = append(b, ' ')
		b = strconv.AppendInt(b, n, 10)
	}
	b = appendText(b, r.Fingerprint.String())
	for _, n := range [...]int64{
		micros(r.LeaseUntil), micros(r.NotBefore), r.Retention.Milliseconds(),
		micros(r.CreatedAt), micros(r.FailedAt), micros(r.UpdatedAt),
	} {
		b = append(b, ' ')
		b = strconv.AppendInt(b, n, 10)
	}
	b = appendText(b, string(r.Cause.Class))
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(r.Cause.Message)), 10)
	b = append(b, '\n')
	b = append(b, r.Cause.Message...)
	return append(b, r.Result...)
}

// DecodeRecord reads what [EncodeRecord] wrote. Anything else, a later version included, is an error that wraps
// [ErrUnreadable]; nothing is guessed. The record shares no memory with b.
func DecodeRecord(k Key, b []byte) (Record, error) {
	line := b[:min(len(b), maxRecordHeader)]
	end := bytes.IndexByte(line, '\n')
	version, _, spaced := bytes.Cut(line, []byte{' '})
	if n, err := strconv.Atoi(string(version)); spaced && err == nil && n > RecordVersion {
		return Record{}, UnreadableError(k, fmt.Sprintf("it has format version %d, this build knows %d", n, RecordVersion))
	}
	if end < 0 || string(version) != strconv.Itoa(RecordVersion) {
		return Record{}, UnreadableError(k, "it is not a record")
	}
	f := bytes.Split(line[:end], []byte{' '})
	if len(f) != recordFields {
		return Record{}, UnreadableError(k, fmt.Sprintf("it has %d fields, not %d", len(f), recordFields))
	}
	p := parser{}
	r := Record{
		Key:         k,
		State:       p.state(f[1]),
		Fence:       Fence(p.number(f[2])),
		Nonce:       Nonce(p.text(f[3])),
		Attempt:     p.count(f[4]),
		Abandoned:   p.count(f[5]),
		Interrupted: p.count(f[6]),
		Generation:  p.count(f[7]),
		Fingerprint: p.fingerprint(f[8]),
		LeaseUntil:  p.time(f[9]),
		NotBefore:   p.time(f[10]),
		Retention:   p.duration(f[11]),
		CreatedAt:   p.time(f[12]),
		FailedAt:    p.time(f[13]),
		UpdatedAt:   p.time(f[14]),
		Cause:       Cause{Class: Class(p.text(f[15]))},
	}
	n, body := p.count(f[16]), b[end+1:]
	if p.bad || n > len(body) {
		return Record{}, UnreadableError(k, "one of its fields is malformed")
	}
	r.Cause.Message = string(body[:n])
	if n < len(body) {
		r.Result = bytes.Clone(body[n:])
	}
	return r, nil
}

func appendText(b []byte, s string) []byte {
	if s == "" {
		return append(b, ' ', '-')
	}
	return append(append(b, ' '), s...)
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// parser remembers that something was wrong, so that a record is read without an error check per field.
type parser struct{ bad bool }

const maxNumber = 1 << 53 // what a Lua number holds exactly

// number reads an unsigned decimal in its only spelling, so that two different byte strings never mean the same record.
func (p *parser) number(b []byte) int64 {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || n < 0 || n > maxNumber || string(b) != strconv.FormatInt(n, 10) {
		p.bad = true
	}
	return n
}

func (p *parser) count(b []byte) int {
	n := p.number(b)
	if n > 1<<31-1 {
		p.bad = true
	}
	return int(n)
}

func (p *parser) duration(b []byte) time.Duration {
	n := p.number(b)
	if n > int64(math.MaxInt64/time.Millisecond) {
		p.bad = true
	}
	return time.Duration(n) * time.Millisecond
}

func (p *parser) state(b []byte) State {
	if len(b) == 1 && b[0] != '-' {
		if i := bytes.IndexByte([]byte(stateLetters), b[0]); i > 0 {
			return State(i)
		}
	}
	p.bad = true
	return Absent
}

func (p *parser) text(b []byte) string {
	if len(b) == 1 && b[0] == '-' {
		return ""
	}
	if len(b) == 0 || len(b) > 64 {
		p.bad = true
	}
	for _, c := range b {
		if c < 0x21 || c > 0x7E {
			p.bad = true
		}
	}
	return string(b)
}

func (p *parser) fingerprint(b []byte) Fingerprint {
	s := p.text(b)
	f, err := ParseFingerprint(s)
	if err != nil || f.String() != s { // only zeros would mean "not taken", which is spelled otherwise
		p.bad = true
	}
	return f
}

func (p *parser) time(b []byte) time.Time {
	n := p.number(b)
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
