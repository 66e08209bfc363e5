package idemtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// Scenario is what [Run] does to a handler. It is the name of a subtest, so that go test -run can choose, too.
type Scenario string

// The scenarios.
const (
	// Redelivery: the ack of the message gets lost, and an hour later its producer sends it again.
	Redelivery Scenario = "redelivery"
	// Crash: the process dies when the handler has run, before that is recorded; another one gets the message.
	Crash Scenario = "crash"
	// LostLease: the worker is stopped for longer than its lease, and goes on when another one has taken over; and the
	// lease is lost while the handler works, if it takes any time.
	LostLease Scenario = "lost-lease"
	// Parallel: every message comes eight times at once, to two workers.
	Parallel Scenario = "parallel"
	// Poison: payloads that are empty, cut off in the middle, and garbage. The handler must not panic either.
	Poison Scenario = "poison"
	// Slow: the run takes longer than lease and deadline, and a duplicate comes meanwhile; and a shutdown cancels it with
	// consumer.ErrShutdown on its way to the effect, and after that, if the handler takes any time.
	Slow Scenario = "slow"
)

// TB is what [Run] needs of a test. A *testing.T is one; another may stand in its place, in an example or in a test of
// failures.
type TB[T any] interface {
	Helper()
	Errorf(format string, args ...any)
	Run(name string, f func(t T)) bool
}

// Option is a message to test with, or a setting.
type Option func(*config) error

// Message is a message with a key and a payload. Give at least one that the handler has an effect for, and each key once:
// the duplicates are made by Run.
func Message(key, data string) Option {
	return MessageOf(&consumer.Message{Key: key, Data: []byte(data)})
}

// MessageOf is a message with a subject and headers, too. m.Key is its key; m is copied.
func MessageOf(m *consumer.Message) Option {
	return func(c *config) error {
		if m == nil {
			return errors.New("a message is nil")
		}
		return c.add(*m)
	}
}

// Without leaves scenarios out.
func Without(scenarios ...Scenario) Option {
	return func(c *config) error {
		for _, s := range scenarios {
			if !slices.ContainsFunc(stories, func(st story) bool { return st.name == s }) {
				return fmt.Errorf("there is no scenario %q", s)
			}
			c.without = append(c.without, s)
		}
		return nil
	}
}

type config struct {
	build    func(*Effects) consumer.Handler
	messages []consumer.Message
	without  []Scenario
}

func (c *config) add(m consumer.Message) error {
	if err := dedup.ValidateID(m.Key); err != nil {
		return err
	}
	if slices.ContainsFunc(c.messages, func(o consumer.Message) bool { return o.Key == m.Key }) {
		return fmt.Errorf("two messages have the key %q; give each once, the duplicates are made here", m.Key)
	}
	if m.Subject == "" {
		m.Subject = "idemtest"
	}
	header := maps.Clone(m.Header)
	if header == nil {
		header = map[string][]string{}
	}
	if err := publisher.SetKey(header, m.Key); err != nil {
		return err
	}
	m.Header, m.Data = header, slices.Clone(m.Data)
	c.messages = append(c.messages, m)
	return nil
}

// measure is what one undisturbed run of each message comes to.
type measure struct {
	once  map[effect]int     // how often each effect happens
	times map[string]moments // by key
}

// moments of a run, counted from its beginning.
type moments struct{ effect, end time.Duration }

// Run takes handlers that build makes through every scenario, in a subtest each. build is called for each world that a
// scenario needs and must return a new handler with new fakes every time, which report to these effects. The messages are
// delivered one after another, so that a later one may depend on an earlier one.
//
// The test fails if an effect happens more often than in one undisturbed run, or less often; if a message never comes to
// an end; if a poisoned payload makes the handler panic; and if no effect is recorded at all, since Run would see nothing.
func Run[T TB[T]](t T, build func(effects *Effects) consumer.Handler, with ...Option) {
	t.Helper()
	c := &config{build: build}
	if err := c.apply(with); err != nil {
		t.Errorf("idemtest: %v", err)
		return
	}
	var m measure
	problems := bubble(t, func() (problems []string) {
		m, problems = c.measure()
		return problems
	})
	for _, p := range problems {
		t.Errorf("idemtest: undisturbed: %s", p)
	}
	if len(problems) > 0 {
		return // everything else would say the same again
	}
	for _, s := range stories {
		if slices.Contains(c.without, s.name) {
			continue
		}
		t.Run(string(s.name), func(t T) {
			t.Helper()
			for _, p := range bubble(t, func() []string { return s.tell(c, m) }) {
				t.Errorf("idemtest: %s: %s", s.name, p)
			}
		})
	}
}

func (c *config) apply(with []Option) error {
	if c.build == nil {
		return errors.New("the function that makes the handler is nil")
	}
	for _, o := range with {
		if o == nil {
			return errors.New("an option is nil")
		}
		if err := o(c); err != nil {
			return err
		}
	}
	if len(c.messages) == 0 {
		return errors.New("there is no message; give one with idemtest.Message(key, payload)")
	}
	return nil
}

// measure runs every message without trouble.
func (c *config) measure() (measure, []string) {
	w := c.newWorld(c.messages)
	w.each(c.messages, func(m consumer.Message) { w.publish(m) })
	m := measure{once: w.onceEach(), times: map[string]moments{}}
	for _, r := range w.finished() {
		if _, known := m.times[r.key]; !known && len(r.effects) > 0 && r.took > 0 {
			m.times[r.key] = moments{effect: r.firstEffect, end: r.took}
		}
	}
	if len(w.found()) == 0 && len(m.once) == 0 {
		w.problem("no effect was recorded for any message, so nothing that the handler repeats could be seen; let the " +
			"fake of its sink call effects.Record(ctx) or effects.RecordKey(key), and give a message that has an effect" +
			w.history(""))
	}
	return m, w.found()
}
