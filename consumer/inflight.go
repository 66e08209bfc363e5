package consumer

import (
	"sync"
	"sync/atomic"

	"github.com/idemq/idemq/dedup"
)

// inflight is the table of what runs and what is parked in this process. It spares the store a question, and the broker
// a delivery, where the answer is known here.
type inflight struct {
	mu        sync.Mutex
	keys      map[string]*entry
	sequences map[sequence]struct{}
	runs      *Attempt // the last one that began, and through it the others
	parked    int
	max       int

	deliveries atomic.Uint64
}

type sequence struct {
	stream string
	number uint64
	replay uint64
	local  uint64 // the delivery, where the transport has no sequences
}

func sequenceOf(m *Message) sequence {
	return sequence{stream: m.Stream, number: m.Sequence, replay: m.ReplaySequence, local: m.local}
}

// number makes a delivery of a transport without sequences one of its own, so that two messages are not taken for one.
func (t *inflight) number(m *Message) {
	if m.Stream == "" && m.Sequence == 0 && m.ReplaySequence == 0 && m.local == 0 {
		m.local = t.deliveries.Add(1)
	}
}

// entry is the claim on one key in this process, from before its Acquire until its message is answered or its lease lost.
type entry struct {
	id          string
	sequence    sequence
	fingerprint dedup.Fingerprint
	granted     bool // the store has said that this payload is the record's
	parked      []Delivery
}

type admission uint8

const (
	first        admission = iota // nobody in this process is at this key
	sameMessage                   // this very message is running or parked here
	otherPayload                  // the key is at work here with another payload
	undecided                     // the same, but the store has not said yet which of them is the record's
	aside                         // parked: the first one's outcome decides
	tooMany                       // it should be parked, but there is no room
)

func newInflight(maxParked int) *inflight {
	return &inflight{keys: map[string]*entry{}, sequences: map[sequence]struct{}{}, max: maxParked}
}

// enter takes a delivery into the table. Only with first it gets an entry of its own, which leave must end.
func (t *inflight) enter(d Delivery, id string, fp dedup.Fingerprint) (*entry, admission) {
	seq := sequenceOf(d.Message())
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.sequences[seq]; ok {
		return nil, sameMessage
	}
	if e, ok := t.keys[id]; ok {
		switch {
		case !e.fingerprint.Matches(fp) && !e.granted:
			return nil, undecided
		case !e.fingerprint.Matches(fp):
			return nil, otherPayload
		case t.parked >= t.max:
			return nil, tooMany
		}
		e.parked = append(e.parked, d)
		t.add(seq)
		t.parked++
		return e, aside
	}
	e := &entry{id: id, sequence: seq, fingerprint: fp}
	t.keys[id] = e
	t.add(seq)
	return e, first
}

// add notes that a delivery is here. One with a number of this process comes only once. The caller holds mu.
func (t *inflight) add(seq sequence) {
	if seq.local == 0 {
		t.sequences[seq] = struct{}{}
	}
}

// leave ends the entry and returns the deliveries that were parked on it, for the caller to answer and then pass to
// answered. It may be called repeatedly.
func (t *inflight) leave(e *entry) []Delivery {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keys[e.id] == e {
		delete(t.keys, e.id)
		delete(t.sequences, e.sequence)
	}
	parked := e.parked
	e.parked = nil
	return parked
}

func (t *inflight) answered(d Delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sequences, sequenceOf(d.Message()))
	t.parked--
}

func (t *inflight) parkedOn(e *entry) []Delivery {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Delivery(nil), e.parked...)
}

// grant notes that the store has granted the entry's claim.
func (t *inflight) grant(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.granted = true
}

// run notes that a handler runs, until stopped is called. A handler whose lease was lost still runs, although its entry
// has gone.
func (t *inflight) run(a *Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.earlier = t.runs; a.earlier != nil {
		a.earlier.later = a
	}
	t.runs = a
}

func (t *inflight) stopped(a *Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.later != nil {
		a.later.earlier = a.earlier
	} else {
		t.runs = a.earlier
	}
	if a.earlier != nil {
		a.earlier.later = a.later
	}
	a.earlier, a.later = nil, nil
}

func (t *inflight) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.keys) + t.parked
}

func (t *inflight) running() []*Message {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ms []*Message
	for a := t.runs; a != nil; a = a.earlier {
		ms = append(ms, a.message)
	}
	return ms
}
