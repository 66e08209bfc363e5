package httpidem

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Headers of answers.
const (
	// ReplayedHeader is "true" on an answer that another request with the same key has produced.
	ReplayedHeader = "Idempotent-Replayed"
	// IncompleteHeader says on a replay why it has no body: "too-large", "hijacked" or "not-stored".
	IncompleteHeader = "Idempotent-Replay-Incomplete"
	// UntrackedHeader is "true" on the answer of a run without record (StoreOpen).
	UntrackedHeader = "Idempotent-Untracked"
	// UnrecordedHeader is "true" on a 503 after which a retry may repeat the effect.
	UnrecordedHeader = "Idempotent-Unrecorded"
)

// The types of the problems that the middleware answers with (RFC 9457).
const (
	ProblemMissingKey   = "urn:idemq:problem:missing-key"
	ProblemMalformedKey = "urn:idemq:problem:malformed-key"
	ProblemPrincipal    = "urn:idemq:problem:no-principal"
	ProblemBody         = "urn:idemq:problem:unreadable-body"
	ProblemBodyTooLarge = "urn:idemq:problem:body-too-large"
	ProblemBusy         = "urn:idemq:problem:busy"
	ProblemConflict     = "urn:idemq:problem:conflict"
	ProblemDead         = "urn:idemq:problem:dead"
	ProblemStoreDown    = "urn:idemq:problem:store-down"
	ProblemUnreadable   = "urn:idemq:problem:unreadable-record"
	ProblemUnrecorded   = "urn:idemq:problem:unrecorded"
)

// problem is an answer of the middleware itself.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`

	retryAfter time.Duration // 0 for none
}

func (p problem) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(wholeSeconds(p.retryAfter), 10))
	}
	body, err := json.Marshal(p)
	if err != nil { // three strings and a number
		panic(err)
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // who does not want the answer does not get it
}

// wholeSeconds rounds up, so that nobody comes too early, and never says 0, which would be "at once".
func wholeSeconds(d time.Duration) int64 {
	return max(1, int64((d+time.Second-1)/time.Second))
}

var (
	problemPrincipal = problem{
		Type: ProblemPrincipal, Title: "No principal", Status: http.StatusForbidden,
		Detail: "The request belongs to nobody known, so its key cannot be kept apart from others'.",
	}
	problemBody = problem{
		Type: ProblemBody, Title: "The body could not be read", Status: http.StatusBadRequest,
		Detail: "The body ended early or is malformed. Nothing was done.",
	}
	problemBusy = problem{
		Type: ProblemBusy, Title: "The operation is at work", Status: http.StatusConflict,
		Detail: "A request with this key is being handled, or was not finished. Send it again with the same key after the time in Retry-After.",
	}
	problemConflict = problem{
		Type: ProblemConflict, Title: "The key belongs to another request", Status: http.StatusUnprocessableEntity,
		Detail: "This key was used for a request with another path, query or body. A new operation needs a new key; a retry must not change the request.",
	}
	problemDead = problem{
		Type: ProblemDead, Title: "The operation has failed for good", Status: http.StatusConflict,
		Detail: "Requests with this key have failed too often, or could not succeed. It will not be tried again under this key.",
	}
	problemStoreDown = problem{
		Type: ProblemStoreDown, Title: "The key could not be looked up", Status: http.StatusServiceUnavailable,
		Detail: "Nothing was done. Send the request again with the same key after the time in Retry-After.",
	}
	problemUnreadable = problem{
		Type: ProblemUnreadable, Title: "What is stored under the key cannot be read", Status: http.StatusServiceUnavailable,
		Detail: "Nothing was done. What is stored was written by a later version, or is damaged. Send the request again with the same key later.",
	}
	problemUnrecorded = problem{
		Type: ProblemUnrecorded, Title: "The outcome could not be recorded", Status: http.StatusServiceUnavailable,
		Detail: "The operation was carried out, but that could not be recorded. A retry, even with the same key, may repeat its effect; find out first whether it took place.",
	}
)

func problemBodyTooLarge(limit int64) problem {
	return problem{
		Type: ProblemBodyTooLarge, Title: "The body is too large", Status: http.StatusRequestEntityTooLarge,
		Detail: fmt.Sprintf("A request with an idempotency key may have a body of %d bytes. Nothing was done.", limit),
	}
}
