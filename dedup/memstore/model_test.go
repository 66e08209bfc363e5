package memstore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// row is a record as the model sees it: written from the contract's table, not from package transition.
type row struct {
	state                                    string // "" is absent
	fence                                    dedup.Fence
	nonce                                    dedup.Nonce
	print                                    dedup.Fingerprint
	attempt, abandoned, interrupted, deaths  int
	result, why                              string
	class                                    dedup.Class
	until, due, forgotten, failedAt, changed time.Time
	memory                                   time.Duration
}

type model struct {
	rows  map[dedup.Key]*row
	fence map[dedup.Key]dedup.Fence // the largest ever seen of each key
	now   time.Time
}

func (m *model) row(k dedup.Key) *row {
	if r := m.rows[k]; r != nil && m.now.Before(r.forgotten) {
		return r
	}
	m.rows[k] = &row{}
	return m.rows[k]
}

// remember says how long a changed record is kept; only a settlement of the first generation may shorten that.
func (m *model) remember(r *row, d time.Duration, mayShorten bool) {
	end := m.now.Add(d)
	if mayShorten || end.After(r.forgotten) {
		r.forgotten = end
	}
	r.changed = m.now
}

func (m *model) acquire(r *row, c dedup.Claim) (verdict string, newFence bool) {
	zero := dedup.Fingerprint{}
	if r.state != "" && r.print != zero && c.Fingerprint != zero && r.print != c.Fingerprint {
		return "conflict", false
	}
	class, lost := dedup.Class(""), false
	switch r.state {
	case "consumed":
		return "duplicate", false
	case "dead":
		return "dead", false
	case "dead-owed":
		return "letter-owed", false
	case "acquired":
		lost = true
		if m.now.Before(r.until) {
			if c.Nonce == r.nonce {
				return "granted", false
			}
			return "busy", false
		}
		r.abandoned++
		if r.failedAt.IsZero() {
			r.failedAt = r.until
		}
		if c.MaxAttempts > 0 && r.attempt >= c.MaxAttempts {
			class = dedup.Exhausted
		}
		if c.MaxAbandoned > 0 && r.abandoned >= c.MaxAbandoned {
			class = dedup.Abandoned
		}
	case "failed":
		if m.now.Before(r.due) || c.Nonce == r.nonce {
			return "busy", false
		}
		if c.MaxAttempts > 0 && r.attempt >= c.MaxAttempts {
			class = dedup.Exhausted
		}
	case "":
		*r = row{print: c.Fingerprint, deaths: 1}
	}
	r.nonce, r.due = c.Nonce, time.Time{}
	if class != "" {
		verdict, r.state = "dead", "dead"
		if c.Letters {
			verdict, r.state = "letter-owed", "dead-owed"
		}
		r.class, r.until, r.memory = class, time.Time{}, c.DeadRetention
		if lost {
			r.why = "the owner vanished" // in the store's own words
		}
		if r.failedAt.IsZero() {
			r.failedAt = m.now
		}
		m.remember(r, c.DeadRetention, r.deaths == 1)
		return verdict, true
	}
	if r.print == zero {
		r.print = c.Fingerprint
	}
	r.state, r.until, r.memory = "acquired", m.now.Add(c.Lease), c.Retention
	r.attempt++
	m.remember(r, c.Lease+c.Retention, false)
	return "granted", true
}

func (r *row) holder(h dedup.Hold) bool {
	return r.state != "" && h.Nonce != "" && r.nonce == h.Nonce && r.fence == h.Fence
}

func (m *model) extend(r *row, h dedup.Hold, lease time.Duration) bool {
	if !r.holder(h) || r.state != "acquired" {
		return false
	}
	r.until = m.now.Add(lease)
	m.remember(r, lease+r.memory, false)
	return true
}

func (m *model) settle(r *row, h dedup.Hold, s dedup.Settlement) bool {
	if !r.holder(h) {
		return false
	}
	if r.state != "acquired" {
		return r.state == s.State.String() || r.state == "dead" && s.State == dedup.DeadOwed
	}
	r.state, r.until, r.memory = s.State.String(), time.Time{}, s.Retention
	if s.State == dedup.Consumed {
		r.result, r.class, r.why = string(s.Result), "", ""
	} else {
		r.class, r.why = s.Cause.Class, s.Cause.Message
		if r.failedAt.IsZero() {
			r.failedAt = m.now
		}
	}
	m.remember(r, s.Retention, r.deaths == 1)
	return true
}

func (m *model) release(r *row, h dedup.Hold, rel dedup.Release) bool {
	if !r.holder(h) || r.state != "acquired" {
		return r.holder(h) && r.state == "failed"
	}
	counts := true
	if rel.Uncounted {
		r.interrupted++
		counts = rel.MaxInterrupted > 0 && r.interrupted > rel.MaxInterrupted
	} else if r.failedAt.IsZero() {
		r.failedAt = m.now
	}
	if !counts {
		r.attempt--
	}
	r.state, r.until, r.due = "failed", time.Time{}, m.now.Add(rel.Delay)
	r.class, r.why = rel.Cause.Class, rel.Cause.Message
	m.remember(r, rel.Delay+r.memory, false)
	return true
}

func (m *model) letterSent(r *row, f dedup.Fence) bool {
	if r.fence != f || r.state != "dead-owed" && r.state != "dead" {
		return false
	}
	if r.state == "dead-owed" {
		r.state = "dead"
		m.remember(r, r.memory, false)
	}
	return true
}

func (m *model) reopen(r *row, q dedup.ReopenRequest) (answer string, newFence bool) {
	own := r.fence == q.Fence
	switch {
	case r.state == "" || r.state == "dead" && own:
		print := r.print //nolint:predeclared // short for fingerprint
		if r.state == "" || q.Rebind {
			print = q.Fingerprint
		}
		*r = row{state: "failed", print: print, deaths: q.Generation + 1, due: m.now, memory: q.Retention, forgotten: r.forgotten}
		m.remember(r, q.Retention, false)
		return "reopened", true
	case r.state == "consumed" || r.state == "dead" && r.fence > q.Fence:
		return "resolved", false
	case own || r.state == "dead":
		return "not-settled", false
	}
	if r.state == "failed" && q.Rebind && r.print != q.Fingerprint {
		r.print = q.Fingerprint
		m.remember(r, r.memory, false)
	}
	return "already-open", false
}

// same compares everything but the time of creation, which the model does not have.
func (m *model) same(t *rapid.T, k dedup.Key, r *row, got dedup.Record) {
	want := fmt.Sprintln(k, r.state, r.fence, r.nonce, r.print, r.attempt, r.abandoned, r.interrupted, r.deaths, r.result, r.class, r.why != "",
		r.until, r.due, r.forgotten, r.failedAt, r.changed, r.memory, m.now)
	have := fmt.Sprintln(got.Key, got.State, got.Fence, got.Nonce, got.Fingerprint, got.Attempt, got.Abandoned, got.Interrupted, got.Generation,
		string(got.Result), got.Cause.Class, got.Cause.Message != "", got.LeaseUntil, got.NotBefore, got.ExpiresAt, got.FailedAt, got.UpdatedAt,
		got.Retention, got.ReadAt)
	if want != have {
		t.Fatalf("the model has\n%s\nand the store\n%s", want, have)
	}
}

func TestRandomCallsMatchAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		s := memstore.New(memstore.Config{Clock: c.now})
		m := &model{rows: map[dedup.Key]*row{}, fence: map[dedup.Key]dedup.Fence{}, now: c.now()}
		ctx := t.Context()
		keys := []dedup.Key{{Scope: "s", ID: "a"}, {Scope: "s", ID: "b"}}
		seen := map[dedup.Key][]dedup.Fence{keys[0]: {0}, keys[1]: {0}}
		key := rapid.SampledFrom(keys)
		nonce := rapid.SampledFrom([]dedup.Nonce{"x", "y", "z"})
		span := rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour})
		print := rapid.SampledFrom([]dedup.Fingerprint{{}, {1}, {1}, {1}, {2}}) //nolint:predeclared // short for fingerprint
		fence := func(t *rapid.T, k dedup.Key) dedup.Fence { return rapid.SampledFrom(seen[k]).Draw(t, "fence") }
		hold := func(t *rapid.T) (dedup.Hold, *row) {
			k := key.Draw(t, "key")
			r := m.row(k)
			h := dedup.Hold{Key: k, Fence: r.fence, Nonce: r.nonce}
			if rapid.IntRange(0, 2).Draw(t, "other fence") == 0 {
				h.Fence = fence(t, k)
			}
			if rapid.IntRange(0, 2).Draw(t, "other nonce") == 0 {
				h.Nonce = nonce.Draw(t, "nonce")
			}
			return h, r
		}
		// adopt takes over the fence that the store chose, which must be larger than every earlier one (I1).
		adopt := func(t *rapid.T, k dedup.Key, r *row, f dedup.Fence) {
			if f <= m.fence[k] {
				t.Fatalf("fence %d of %s after %d", f, k, m.fence[k])
			}
			r.fence, m.fence[k], seen[k] = f, f, append(seen[k], f)
		}
		owner := func(t *rapid.T, ok bool, err error) {
			if ok != (err == nil) || err != nil && !errors.Is(err, dedup.ErrLeaseLost) {
				t.Fatalf("the store says %v, the model allows it: %v", err, ok)
			}
		}
		cause := dedup.Cause{Class: dedup.Permanent, Message: "down"}
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				cl := dedup.Claim{
					Key: key.Draw(t, "key"), Nonce: nonce.Draw(t, "nonce"), Fingerprint: print.Draw(t, "print"), Lease: span.Draw(t, "lease"),
					Retention: span.Draw(t, "retention"), DeadRetention: span.Draw(t, "dead"), MaxAttempts: rapid.IntRange(0, 3).Draw(t, "attempts"),
					MaxAbandoned: rapid.IntRange(0, 2).Draw(t, "abandoned"), Letters: rapid.Bool().Draw(t, "letters"),
				}
				r := m.row(cl.Key)
				want, fresh := m.acquire(r, cl)
				v, got, err := s.Acquire(ctx, cl)
				if err != nil || v.String() != want {
					t.Fatalf("the store says %v, %v, the model %s", v, err, want)
				}
				if fresh {
					adopt(t, cl.Key, r, got.Fence)
				}
				m.same(t, cl.Key, r, got)
			},
			"extend": func(t *rapid.T) {
				h, r := hold(t)
				d := span.Draw(t, "lease")
				owner(t, m.extend(r, h, d), s.Extend(ctx, h, d))
			},
			"settle": func(t *rapid.T) {
				h, r := hold(t)
				st := dedup.Settlement{
					State: rapid.SampledFrom([]dedup.State{dedup.Consumed, dedup.DeadOwed, dedup.DeadSent}).Draw(t, "state"), Cause: cause,
					Result: rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "result"), Retention: span.Draw(t, "retention"),
				}
				owner(t, m.settle(r, h, st), s.Settle(ctx, h, st))
			},
			"release": func(t *rapid.T) {
				h, r := hold(t)
				rel := dedup.Release{
					Cause: dedup.Cause{Message: "down"}, Delay: rapid.SampledFrom([]time.Duration{0, time.Second, time.Hour}).Draw(t, "delay"),
					Uncounted: rapid.Bool().Draw(t, "uncounted"), MaxInterrupted: rapid.IntRange(0, 2).Draw(t, "limit"),
				}
				owner(t, m.release(r, h, rel), s.Release(ctx, h, rel))
			},
			"letter sent": func(t *rapid.T) {
				h, r := hold(t)
				owner(t, m.letterSent(r, h.Fence), s.LetterSent(ctx, h.Key, h.Fence))
			},
			"reopen": func(t *rapid.T) {
				h, r := hold(t)
				q := dedup.ReopenRequest{
					Key: h.Key, Fence: h.Fence, Generation: rapid.IntRange(1, 3).Draw(t, "generation"), Fingerprint: print.Draw(t, "print"),
					Rebind: rapid.Bool().Draw(t, "rebind"), Retention: span.Draw(t, "retention"),
				}
				want, fresh := m.reopen(r, q)
				got, err := s.Reopen(ctx, q)
				if err != nil || got.String() != want {
					t.Fatalf("the store says %v, %v, the model %s", got, err, want)
				}
				if fresh {
					rec, _ := s.Get(ctx, q.Key)
					adopt(t, q.Key, r, rec.Fence)
				}
			},
			"forget": func(t *rapid.T) {
				k, force := key.Draw(t, "key"), rapid.Bool().Draw(t, "force")
				r := m.row(k)
				var want error
				switch {
				case r.state == "":
					want = dedup.ErrNotFound
				case r.state == "acquired" && m.now.Before(r.until) && !force:
					want = dedup.ErrLeaseRunning
				default:
					*r = row{}
				}
				if err := s.Forget(ctx, k, force); !errors.Is(err, want) {
					t.Fatalf("the store says %v, the model %v", err, want)
				}
			},
			"time": func(t *rapid.T) {
				c.advance(rapid.SampledFrom([]time.Duration{time.Microsecond, time.Second, time.Minute, time.Hour}).Draw(t, "passes"))
				m.now = c.now()
			},
			"": func(t *rapid.T) {
				live := 0
				for _, k := range keys {
					r := m.row(k)
					got, err := s.Get(ctx, k)
					if r.state == "" {
						if !errors.Is(err, dedup.ErrNotFound) {
							t.Fatalf("the store has %+v, %v, the model nothing", got, err)
						}
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					live++
					m.same(t, k, r, got)
				}
				for rec, err := range s.List(ctx, dedup.Filter{}) {
					if err != nil {
						t.Fatal(err)
					}
					live--
					m.same(t, rec.Key, m.row(rec.Key), rec)
				}
				if live != 0 {
					t.Fatalf("a listing shows %d records too few", live)
				}
			},
		})
	})
}
