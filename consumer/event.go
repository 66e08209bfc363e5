package consumer

import (
	"sync/atomic"
	"time"
)

// EventKind says what happened to a delivery.
type EventKind uint8

// The kinds.
const (
	Delivered    EventKind = iota // a delivery arrived
	Executed                      // a handler ran, and the store knows that the key is consumed
	DuplicateAck                  // a duplicate of a consumed or dead key was acknowledged, the handler not run
	DeadAck                       // that the key was dead (also counted as DuplicateAck)
	Parked                        // kept aside until the claim on its key in this process ends
	Busy                          // given back: the key is held elsewhere, or not due yet
	Redelivered                   // the same message is already at work in this process: nothing was done
	Retried                       // the handler failed; it will be tried again
	Scheduled                     // a retry was published anew for its time (also counted as Retried)
	Interrupted                   // given back uncounted because of a shutdown
	DeadLettered                  // a dead letter was published and the message terminated
	LetterFailed                  // a dead letter could not be published; the record owes it
	LeaseLost                     // the claim was lost: nothing was sent
	Unconfirmed                   // the store did not confirm the end of a claim: nothing was sent
	Unreadable                    // the stored record means nothing to this build: given back
	StoreDown                     // the store could not be asked: given back (policy StoreClosed)
	Untracked                     // the handler ran although the store could not be asked (policy StoreOpen)
	AnswerFailed                  // an ack, nak or term could not be sent: the broker will deliver again
	Returned                      // given back before its handler began, because no worker became free in time
	Remembered                    // that the duplicate was known here, without asking the store (also counted as DuplicateAck)
	eventKinds
)

var eventNames = [...]string{
	"delivered", "executed", "duplicate_ack", "dead_ack", "parked", "busy", "redelivered", "retried", "scheduled", "interrupted",
	"dead_lettered", "letter_failed", "lease_lost", "unconfirmed", "unreadable", "store_down", "untracked", "answer_failed", "returned", "remembered",
}

// String returns the kind's name for logs and metrics.
func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return "unknown"
}

// Event is told to an [Observer].
type Event struct {
	Kind    EventKind
	Message *Message
	// Err is the cause, if there is one.
	Err error
	// Duration is how long the handler ran, for Executed, Retried, Interrupted, LeaseLost, Unconfirmed and Untracked.
	Duration time.Duration
}

// Observer is the hook for metrics. Observe is called from several goroutines, on the path of the message: it must be
// safe for concurrent use and return soon.
type Observer interface {
	Observe(e Event)
}

// Stats counts events since the pipeline was made.
type Stats struct {
	Delivered, Executed, DuplicateAcks, DeadAcks, Parked, Busy, Redelivered, Retried, Interrupted uint64
	DeadLettered, LettersFailed, LeaseLost, Unconfirmed, Unreadable, StoreDown, Untracked         uint64
	AnswersFailed, Scheduled, Returned, Remembered                                                uint64
}

// HitRate is the part of the acknowledged duplicates that this process knew without asking the store, between 0 and 1.
func (s Stats) HitRate() float64 {
	if s.DuplicateAcks == 0 {
		return 0
	}
	return float64(s.Remembered) / float64(s.DuplicateAcks)
}

type counters [eventKinds]atomic.Uint64

func (c *counters) stats() Stats {
	n := func(k EventKind) uint64 { return c[k].Load() }
	return Stats{
		Delivered: n(Delivered), Executed: n(Executed), DuplicateAcks: n(DuplicateAck), DeadAcks: n(DeadAck),
		Parked: n(Parked), Busy: n(Busy), Redelivered: n(Redelivered), Retried: n(Retried), Interrupted: n(Interrupted),
		DeadLettered: n(DeadLettered), LettersFailed: n(LetterFailed), LeaseLost: n(LeaseLost), Unconfirmed: n(Unconfirmed),
		Unreadable: n(Unreadable), StoreDown: n(StoreDown), Untracked: n(Untracked), AnswersFailed: n(AnswerFailed), Scheduled: n(Scheduled),
		Returned: n(Returned), Remembered: n(Remembered),
	}
}
