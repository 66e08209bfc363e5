package redisstore

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/idemq/idemq/dedup"
)

const (
	// maxKeys is how many keys one script touches: other clients wait for it.
	maxKeys = 256
	// maxBytes is how much one round trip carries, unless a single request is larger: the request is in memory here and at
	// the server until all of it is there.
	maxBytes = 1 << 20
)

// scriptKeys is how many keys one script may touch: many where one server holds all keys, else one, for a Cluster wants the
// keys of a script in one slot.
func (s *Store) scriptKeys() int {
	if s.single {
		return maxKeys
	}
	return 1
}

// chunks returns how n items are spread over scripts.
func (s *Store) chunks(n int) [][2]int {
	size := s.scriptKeys()
	var out [][2]int
	for from := 0; from < n; from += size {
		out = append(out, [2]int{from, min(from+size, n)})
	}
	return out
}

// AcquireMany claims the keys in one round trip (on a Cluster, one for each server). Claims with different settings are
// allowed; they go in scripts of their own.
func (s *Store) AcquireMany(ctx context.Context, claims []dedup.Claim) []dedup.Acquisition {
	out := make([]dedup.Acquisition, len(claims))
	valid := make([]*dedup.Claim, 0, len(claims))
	places := make([]int, 0, len(claims))
	for i := range claims {
		if err := invalidNonce(claims[i].Nonce); err != nil {
			out[i].Err = s.failure(ctx, "acquire", claims[i].Key, err)
			continue
		}
		valid, places = append(valid, &claims[i]), append(places, i)
	}
	var calls []call
	var sizes []int
	for rest := valid; len(rest) > 0; {
		n := 1
		for n < min(len(rest), s.scriptKeys()) && sameSettings(rest[0], rest[n]) {
			n++
		}
		calls, sizes = append(calls, s.acquireCall(rest[:n])), append(sizes, n)
		rest = rest[n:]
	}
	at := 0
	for i, rep := range s.runCalls(ctx, calls) {
		for n := range sizes[i] {
			out[places[at]] = s.acquisition(ctx, valid[at], rep, n)
			at++
		}
	}
	return out
}

func sameSettings(a, b *dedup.Claim) bool {
	return a.Lease == b.Lease && a.Retention == b.Retention && a.DeadRetention == b.DeadRetention &&
		a.MaxAttempts == b.MaxAttempts && a.MaxAbandoned == b.MaxAbandoned && a.Letters == b.Letters
}

// acquireCall is one run of acquire.lua for claims with the same settings.
//
// A script claims also where a native command (SET … NX GET) could: the fence of a new record has to be larger than every
// earlier one of its key, also than one that is expired or forgotten, of which nothing is left to compare with. The server's
// clock, read where the record is written, gives that. A client could only guess the clock from an offset that it has
// measured, and a guess that is behind by a round trip makes a fence smaller than that of a claim just forgotten.
func (s *Store) acquireCall(claims []*dedup.Claim) call {
	c := claims[0]
	state := dedup.DeadSent
	if c.Letters {
		state = dedup.DeadOwed
	}
	out := call{script: acquireScript, keys: make([]string, 0, len(claims)), args: make([]any, 0, 7+len(claims))}
	out.args = append(out.args, millis(c.Lease), millis(c.Retention), millis(c.DeadRetention), c.MaxAttempts, c.MaxAbandoned,
		string(dedup.StateLetter(state)), flag(s.cfg.WaitReplicas > 0))
	text := make([]byte, 0, claimSize*len(claims))
	for _, c := range claims {
		out.keys = append(out.keys, s.name(c.Key))
		from := len(text)
		text = append(append(text, c.Nonce...), firstCounts...)
		text = appendFingerprint(text, c.Fingerprint)
		out.args = append(out.args, text[from:len(text):len(text)])
	}
	return out
}

// firstCounts are the attempt, abandonments, interruptions and generation of a key that was not known.
const firstCounts = " 1 0 0 1 "

// claimSize is about what a claim takes in the request, in bytes.
const claimSize = maxText + len(firstCounts) + 2*dedup.FingerprintSize

func appendFingerprint(b []byte, fp dedup.Fingerprint) []byte {
	if fp.IsZero() {
		return append(b, '-')
	}
	return hex.AppendEncode(b, fp[:])
}

var verdicts = map[any]dedup.Verdict{
	"granted": dedup.Granted, "busy": dedup.Busy, "duplicate": dedup.Duplicate, "dead": dedup.Dead,
	"owed": dedup.LetterOwed, "conflict": dedup.Conflict,
}

// grantedAnew is what acquire.lua answers for a key that was not known.
const grantedAnew = int64(1)

// acquisition reads answer i of a reply of acquire.lua.
func (s *Store) acquisition(ctx context.Context, c *dedup.Claim, rep reply, i int) dedup.Acquisition {
	if rep.err != nil {
		return dedup.Acquisition{Err: s.failure(ctx, "acquire", c.Key, rep.err)}
	}
	list, _ := rep.value.([]any)
	if len(list) < 2+i {
		return dedup.Acquisition{Err: statusError("acquire", c.Key, rep.value)}
	}
	if list[1+i] == grantedAnew {
		if rep.short != nil {
			return dedup.Acquisition{Err: s.failure(ctx, "acquire", c.Key, rep.short)}
		}
		r, err := newRecord(c, list[0])
		if err == nil {
			s.granted.add(&r, c)
		}
		return dedup.Acquisition{Verdict: dedup.Granted, Record: r, Err: err}
	}
	answer, _ := list[1+i].([]any)
	if len(answer) != 3 {
		return dedup.Acquisition{Err: statusError("acquire", c.Key, list[1+i])}
	}
	v, known := verdicts[answer[0]]
	if !known {
		return dedup.Acquisition{Err: statusError("acquire", c.Key, answer[0])}
	}
	// Busy and Conflict tell of nothing that this call wrote, or that the caller relies on.
	if rep.short != nil && v != dedup.Busy && v != dedup.Conflict {
		return dedup.Acquisition{Err: s.failure(ctx, "acquire", c.Key, rep.short)}
	}
	r, err := decode(c.Key, answer[1], answer[2], list[0])
	if err != nil {
		return dedup.Acquisition{Err: err}
	}
	return dedup.Acquisition{Verdict: v, Record: r}
}

// newRecord is the record that acquire.lua writes for a key that is not known, at this time of the server's.
func newRecord(c *dedup.Claim, now any) (dedup.Record, error) {
	at, err := serverTime(c.Key, now)
	if err != nil {
		return dedup.Record{}, err
	}
	lease, retention := time.Duration(millis(c.Lease))*time.Millisecond, time.Duration(millis(c.Retention))*time.Millisecond
	return dedup.Record{
		Key: c.Key, State: dedup.Acquired, Fence: dedup.Fence(at.UnixMicro()), Nonce: c.Nonce, Attempt: 1, Generation: 1,
		Fingerprint: c.Fingerprint, LeaseUntil: at.Add(lease), Retention: retention, CreatedAt: at, UpdatedAt: at, ReadAt: at,
		ExpiresAt: at.Add(max(retention+lease, time.Millisecond)),
	}, nil
}

// decode reads a record, its time to live in milliseconds and the store's time in microseconds.
func decode(k dedup.Key, raw, ttl, now any) (dedup.Record, error) {
	text, _ := raw.(string)
	r, err := dedup.DecodeRecord(k, []byte(text))
	if err != nil {
		return r, err
	}
	if r.ReadAt, err = serverTime(k, now); err != nil {
		return r, err
	}
	if ms, ok := ttl.(int64); ok && ms > 0 {
		r.ExpiresAt = r.ReadAt.Add(time.Duration(ms) * time.Millisecond)
		if r.UpdatedAt.IsZero() { // it was consumed without a script; see compareCall
			r.UpdatedAt = r.ExpiresAt.Add(-r.Retention)
		}
	}
	return r, nil
}

// serverTime reads the microseconds that stand in front of a reply.
func serverTime(k dedup.Key, now any) (time.Time, error) {
	text, _ := now.(string)
	us, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, &dedup.StoreError{Op: "decode", Key: k, Indeterminate: true, Err: fmt.Errorf("malformed time in a reply: %w", err)}
	}
	return time.UnixMicro(us).UTC(), nil
}
