package httpidem

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
)

const maxStatus = 999 // what net/http takes

// response holds a handler's answer back until its key is settled, and encodes it for the store as it is written. It is
// not safe for concurrent use, like any http.ResponseWriter.
type response struct {
	w      http.ResponseWriter
	limit  int
	before http.Header // what outer handlers had set

	status int     // 0 until the handler has said it
	header []field // as it was when the handler said the status
	stored []byte  // head and body, as appendHead has it
	bodyAt int     // where the body begins in stored

	few [4]field // room for the header of most answers

	streaming bool // what is written goes to the client at once
	hijacked  bool
}

type field struct {
	name   string
	values []string
}

func (r *response) begin(w http.ResponseWriter, limit int) {
	r.w, r.limit = w, limit
	if h := w.Header(); len(h) > 0 {
		r.before = maps.Clone(h)
	}
}

// Header returns the underlying writer's, so that a handler sees what outer ones have set.
func (r *response) Header() http.Header { return r.w.Header() }

// Unwrap lets http.ResponseController set deadlines.
func (r *response) Unwrap() http.ResponseWriter { return r.w }

func (r *response) WriteHeader(status int) {
	switch {
	case status < 100 || status > maxStatus:
		panic(fmt.Sprintf("httpidem: invalid status %d; it has three digits", status)) // as net/http does
	case r.hijacked || r.status != 0: // net/http logs and ignores it
		return
	case status < http.StatusOK && status != http.StatusSwitchingProtocols:
		r.w.WriteHeader(status) // informational ones are no answer yet
		return
	}
	r.status = status
	h := r.w.Header()
	r.header = r.few[:0]
	for name, values := range h {
		r.header = append(r.header, field{name, values})
	}
	r.stored = appendHead(make([]byte, 0, initialStored), max(status, http.StatusOK), h, r.before)
	r.bodyAt = len(r.stored)
}

const initialStored = 512 // bytes; most answers of an API fit

func (r *response) Write(p []byte) (int, error) {
	if r.hijacked {
		return 0, http.ErrHijacked
	}
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if !bodyAllowed(r.status) {
		return 0, http.ErrBodyNotAllowed
	}
	switch {
	case missing(r.stored[missingAt]) == tooLarge:
	case len(r.stored)-r.bodyAt+len(p) <= r.limit:
		r.stored = append(r.stored, p...)
		if !r.streaming {
			return len(p), nil
		}
	default:
		if err := r.stream(); err != nil {
			return 0, err
		}
		r.stored[missingAt] = byte(tooLarge)
		r.stored = r.stored[:r.bodyAt:r.bodyAt]
	}
	return r.w.Write(p)
}

func bodyAllowed(status int) bool {
	return status >= http.StatusOK && status != http.StatusNoContent && status != http.StatusNotModified
}

// stream sends what was held back, and lets what follows go at once. Fields that were set after the status are trailers,
// or nothing; net/http knows which.
func (r *response) stream() error {
	if r.streaming {
		return nil
	}
	r.streaming = true
	if h := r.w.Header(); r.unchanged(h) {
		r.w.WriteHeader(r.status)
	} else {
		late := maps.Clone(h)
		clear(h)
		for _, f := range r.header {
			h[f.name] = f.values
		}
		r.w.WriteHeader(r.status)
		maps.Copy(h, late)
	}
	if body := r.stored[r.bodyAt:]; len(body) > 0 {
		_, err := r.w.Write(body)
		return err
	}
	return nil
}

func (r *response) unchanged(h http.Header) bool {
	if len(h) != len(r.header) {
		return false
	}
	for _, f := range r.header {
		if values, ok := h[f.name]; !ok || !slices.Equal(values, f.values) {
			return false
		}
	}
	return true
}

// Flush is FlushError for handlers that look for an http.Flusher.
func (r *response) Flush() { _ = r.FlushError() }

// FlushError makes the answer a stream: what leaves now is outside of what the settlement protects.
func (r *response) FlushError() error {
	if r.hijacked {
		return http.ErrHijacked
	}
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if err := r.stream(); err != nil {
		return err
	}
	return http.NewResponseController(r.w).Flush()
}

// Hijack hands the connection over; what goes over it is not recorded.
func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(r.w).Hijack()
	if err == nil {
		r.hijacked = true
	}
	return conn, rw, err
}

// result is what the store keeps. A handler that writes nothing has answered 200.
func (r *response) result() []byte {
	if r.hijacked {
		b := appendHead(nil, http.StatusOK, nil, nil)
		b[missingAt] = byte(hijacked)
		return b
	}
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	return r.stored
}

// send gives the client the answer that was held back.
func (r *response) send() {
	if !r.hijacked {
		_ = r.stream() // who has gone away can ask again
	}
}

// sent says whether something has reached the client that cannot be taken back.
func (r *response) sent() bool { return r.streaming || r.hijacked }

// discard takes the handler's fields back, so that another answer can be given.
func (r *response) discard() {
	if !r.sent() {
		h := r.w.Header()
		clear(h)
		maps.Copy(h, r.before)
	}
}
