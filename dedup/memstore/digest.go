package memstore

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"time"

	"github.com/idemq/idemq/dedup"
)

// digest names a consumed key: half of a SHA-256, so that nobody who chooses keys can make two of them one.
type digest [digestSize]byte

const digestSize = 16 // bytes

// trace is what is left of a consumed key.
type trace struct {
	expires int64  // microseconds since 1970
	print   uint64 // the first half of its fingerprint; 0 if none
}

// leastMemory is how much longer than a lease a key must be remembered to be worth a digest.
const leastMemory = 2 * time.Second

func digestOf(k dedup.Key) digest {
	var room [256]byte // in one piece it needs no memory
	b := binary.BigEndian.AppendUint32(room[:0], uint32(len(k.Scope)))
	b = append(append(b, k.Scope...), k.ID...)
	sum := sha256.Sum256(b)
	return digest(sum[:])
}

func half(f dedup.Fingerprint) uint64 { return binary.BigEndian.Uint64(f[:]) }

// recall completes what the shard knows of a key by its digest: it may be remembered longer than its record, or without. The
// fingerprint is that of the claim if it begins like what is left of the key's own.
func (sh *shard) recall(r *dedup.Record, k dedup.Key, d digest, claimed dedup.Fingerprint, now time.Time) {
	t, ok := sh.traces[d]
	until := time.UnixMicro(t.expires).UTC()
	switch {
	case !ok || !until.After(now):
	case r.State == dedup.Consumed:
		r.ExpiresAt = until
	case r.State == dedup.Absent:
		*r = dedup.Record{Key: k, State: dedup.Consumed, Attempt: 1, Generation: 1, ExpiresAt: until}
		binary.BigEndian.PutUint64(r.Fingerprint[:], t.print)
		if half(claimed) == t.print {
			r.Fingerprint = claimed
		}
	}
}

// condense leaves a trace of a record that has just been consumed, and lets the record itself live for one lease more, so
// that a repeated Settle still finds its owner. What has more to say stays a record.
func (sh *shard) condense(r *dedup.Record, d digest, before *dedup.Record, now time.Time) {
	lease := before.LeaseUntil.Sub(before.UpdatedAt)
	_, steps := sh.steps[r.Key]
	if before.State != dedup.Acquired || r.State != dedup.Consumed || len(r.Result) > 0 || r.Generation != 1 || steps ||
		r.Retention < lease+leastMemory {
		delete(sh.traces, d) // of what was there before
		return
	}
	if sh.traces == nil {
		sh.traces = map[digest]trace{}
	}
	sh.traces[d] = trace{expires: r.ExpiresAt.UnixMicro(), print: half(r.Fingerprint)}
	r.ExpiresAt = now.Add(lease)
}

// sweepTraces does for traces what sweep does for records.
func (sh *shard) sweepTraces(now time.Time) {
	sh.peakTraces = max(sh.peakTraces, len(sh.traces))
	n := 0
	for d, t := range sh.traces {
		if t.expires <= now.UnixMicro() {
			delete(sh.traces, d)
		}
		if n++; n == sweepSteps {
			break
		}
	}
	if sh.peakTraces >= shrinkFrom && len(sh.traces) < sh.peakTraces/shrinkTo {
		moved := make(map[digest]trace, len(sh.traces))
		maps.Copy(moved, sh.traces)
		sh.traces, sh.peakTraces = moved, len(moved)
	}
}
