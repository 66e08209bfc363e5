package idemtest_test

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/idemtest"
)

// failNow is a test that ends the goroutine, as testing's does.
type failNow struct{}

func (failNow) Errorf(string, ...any) {}
func (failNow) FailNow()              { runtime.Goexit() }

func noEffect(*idemtest.Effects) consumer.Handler {
	return consumer.HandlerFunc(func(context.Context, *consumer.Message) error { return nil })
}
func noHandler(*idemtest.Effects) consumer.Handler { return nil }
func noTable(*idemtest.Effects) consumer.Handler   { panic("no table") }

func TestMistakesOfTheTestAreNamed(t *testing.T) {
	t.Parallel()
	good, long := idemtest.Message("k", "x"), idemtest.Message(strings.Repeat("k", 300), "x")
	for name, c := range map[string]struct {
		build func(*idemtest.Effects) consumer.Handler
		with  []idemtest.Option
		want  string
	}{
		"no message":       {noEffect, nil, "there is no message"},
		"no handler":       {nil, []idemtest.Option{good}, "the function that makes the handler is nil"},
		"nil handler":      {noHandler, []idemtest.Option{good}, "returned nil"},
		"panic":            {noTable, []idemtest.Option{good}, "panicked: no table"},
		"nil option":       {noEffect, []idemtest.Option{nil}, "an option is nil"},
		"nil message":      {noEffect, []idemtest.Option{idemtest.MessageOf(nil)}, "a message is nil"},
		"empty key":        {noEffect, []idemtest.Option{idemtest.Message("", "x")}, "invalid idempotency key"},
		"long key":         {noEffect, []idemtest.Option{long}, "invalid idempotency key"},
		"key twice":        {noEffect, []idemtest.Option{good, good}, `two messages have the key "k"`},
		"unknown scenario": {noEffect, []idemtest.Option{good, idemtest.Without("craash")}, `there is no scenario "craash"`},
		"no effect":        {noEffect, []idemtest.Option{good}, "no effect was recorded for any message"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder()
			idemtest.Run(r, c.build, c.with...)
			assert.Contains(t, r.said[""], c.want)
			assert.Empty(t, r.ran)
		})
	}
}

func TestTheHandlerGetsTheWholeMessage(t *testing.T) {
	t.Parallel()
	m := &consumer.Message{
		Key: "k", Subject: "orders.created", Header: map[string][]string{"Tenant": {"t1"}}, Data: []byte("x"),
	}
	idemtest.Run(t, func(e *idemtest.Effects) consumer.Handler {
		return consumer.HandlerFunc(func(ctx context.Context, got *consumer.Message) error {
			assert.Equal(t, "orders.created", got.Subject)
			assert.Equal(t, []string{"t1"}, got.Header["Tenant"])
			e.Record(ctx)
			return nil
		})
	}, idemtest.MessageOf(m), idemtest.Without(idemtest.Crash, idemtest.LostLease))
	assert.Len(t, m.Header, 1, "the message that was given is not changed")
}
