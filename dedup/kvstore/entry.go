package kvstore

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
)

const (
	// expiresHeader holds the end of a record's memory in microseconds since 1970; the server's time to live is coarser,
	// and rounding it up with every write would let a record that is confirmed often live for ever.
	expiresHeader = "Idemq-Expires"

	// stepsHeader holds how many of the last bytes of the data are the steps of the record, as dedup.EncodeSteps gives
	// them. In one entry with the record they live and end with it.
	stepsHeader = "Idemq-Steps"

	operationHeader = "KV-Operation" // marks an entry as deleted, for every client of the bucket
	purgeOperation  = "PURGE"

	// markerTTL is how long the marker of a forgotten record stays. Nobody needs it: revisions grow all the same.
	markerTTL = time.Second
	// maxTTL keeps the server's arithmetic in nanoseconds from overflowing.
	maxTTL = 100 * 365 * 24 * time.Hour
)

// token encodes one half of a key. Base64 for URLs has only letters that a subject's token and a bucket's key may have.
var token = base64.RawURLEncoding.Strict()

// keyToken returns the key's name in the bucket: both halves, encoded, with a dot between, so that a scope is a subject
// filter. Two keys never share a name.
func keyToken(k dedup.Key) string {
	return token.EncodeToString([]byte(k.Scope)) + "." + token.EncodeToString([]byte(k.ID))
}

// parseKeyToken is the inverse of keyToken; ok is false for a name that it never gives.
func parseKeyToken(s string) (k dedup.Key, ok bool) {
	scope, id, two := strings.Cut(s, ".")
	a, errScope := token.DecodeString(scope)
	b, errID := token.DecodeString(id)
	k = dedup.Key{Scope: string(a), ID: string(b)}
	return k, two && errScope == nil && errID == nil && k.Validate() == nil
}

// entry is what the bucket holds under a key.
type entry struct {
	key      dedup.Key
	revision uint64 // that the next write expects; 0 if there is nothing
	deleted  bool   // it is only a marker
	data     []byte
	steps    []byte    // of the record in data
	expires  time.Time // zero if it stays for ever
}

// newEntry reads a stored message.
func newEntry(k dedup.Key, revision uint64, stored time.Time, h nats.Header, data []byte) entry {
	data, steps := splitSteps(h, data)
	return entry{
		key: k, revision: revision, data: data, steps: steps,
		deleted: h.Get(operationHeader) != "" || h.Get(jetstream.MarkerReasonHeader) != "",
		expires: expiry(stored, h),
	}
}

// splitSteps takes the steps off the data. A number that cannot be is somebody else's, and the data decides whether this
// is a record.
func splitSteps(h nats.Header, data []byte) (record, steps []byte) {
	n, err := strconv.Atoi(h.Get(stepsHeader))
	if err != nil || n <= 0 || n > len(data) {
		return data, nil
	}
	at := len(data) - n
	return data[:at:at], data[at:]
}

// expiry reads our own header, and the server's if somebody else wrote the entry.
func expiry(stored time.Time, h nats.Header) time.Time {
	if n, err := strconv.ParseInt(h.Get(expiresHeader), 10, 64); err == nil && n > 0 {
		return time.UnixMicro(n).UTC()
	}
	ttl := h.Get(jetstream.MsgTTLHeader)
	if d, err := time.ParseDuration(ttl); err == nil && d > 0 {
		return stored.Add(d).UTC()
	}
	if n, err := strconv.ParseInt(ttl, 10, 32); err == nil && n > 0 {
		return stored.Add(time.Duration(n) * time.Second).UTC()
	}
	return time.Time{}
}

// record returns the record that counts at the time now. Its zero value stands for an absent key.
func (e *entry) record(now time.Time) (dedup.Record, error) {
	if e.revision == 0 || e.deleted || !e.expires.IsZero() && !e.expires.After(now) {
		return dedup.Record{}, nil
	}
	r, err := dedup.DecodeRecord(e.key, e.data)
	if err != nil {
		return dedup.Record{}, err
	}
	finish(&r, e.revision, e.expires, now)
	return r, nil
}

// finish fills in what the stored form leaves out. A fence of 0 stands for the revision of the very write, which that
// write could not know.
func finish(r *dedup.Record, revision uint64, expires, now time.Time) {
	if r.Fence == 0 {
		r.Fence = dedup.Fence(revision)
	}
	r.ExpiresAt, r.ReadAt = expires, now
}

// ttl is the time to live of a record that is remembered until expires: whole seconds, rounded up.
func ttl(expires, now time.Time) time.Duration {
	left := min(expires.Sub(now), maxTTL)
	return max(time.Second, (left + time.Second - 1).Truncate(time.Second))
}
