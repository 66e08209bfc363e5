package natsidem_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/internal/testserver"
)

// pullServer plays the part of JetStream that answers pulls: what a test sends with each is the answer to the next one.
type pullServer struct {
	t       *testing.T
	srv     *testserver.NATSServer
	api     *nats.Conn
	inboxes chan string
	p       *natsidem.Puller
	asked   atomic.Int64 // messages handed out as asked for
	extra   atomic.Int64 // others
}

func newPullServer(t *testing.T) *pullServer {
	t.Helper()
	s := &pullServer{t: t, srv: testserver.NATS(t), inboxes: make(chan string, 16)}
	s.api = s.srv.Conn(t)
	_, err := s.api.Subscribe("API.CONSUMER.MSG.NEXT.S.D", func(m *nats.Msg) { s.inboxes <- m.Reply })
	require.NoError(t, err)
	require.NoError(t, s.api.Flush())
	s.p, err = natsidem.NewPuller(s.srv.Conn(t), "API.", "S", "D", func(_ *nats.Msg, asked bool) {
		if asked {
			s.asked.Add(1)
		} else {
			s.extra.Add(1)
		}
	})
	require.NoError(t, err)
	t.Cleanup(s.p.Close)
	return s
}

func (s *pullServer) inbox() string {
	s.t.Helper()
	select {
	case i := <-s.inboxes:
		return i
	case <-time.After(patience):
		s.t.Fatal("no pull has arrived")
		return ""
	}
}

func (s *pullServer) message(inbox string) {
	s.t.Helper()
	require.NoError(s.t, s.api.PublishMsg(&nats.Msg{Subject: inbox, Reply: "acks", Data: []byte("m")}))
}

func (s *pullServer) word(inbox, status string, pending int) {
	s.t.Helper()
	h := nats.Header{"Status": {status}}
	if pending >= 0 {
		h["Nats-Pending-Messages"] = []string{fmt.Sprint(pending)}
	}
	require.NoError(s.t, s.api.PublishMsg(&nats.Msg{Subject: inbox, Header: h}))
}

// news adds up what Look says until the condition holds.
func (s *pullServer) news(until func(got, short, ended int, open bool) bool) error {
	s.t.Helper()
	var got, short, ended int
	var failed error
	require.Eventually(s.t, func() bool {
		g, sh, e, open, err := s.p.Look()
		got, short, ended = got+g, short+sh, ended+e
		if failed == nil {
			failed = err
		}
		return until(got, short, ended, open)
	}, patience, tick)
	return failed
}

// Which of several pulls a message is for cannot be told, but what is still to come can.
func TestSeveralPullsAreOpen(t *testing.T) {
	t.Parallel()
	s := newPullServer(t)
	require.NoError(t, s.p.Ask(5, time.Minute))
	require.NoError(t, s.p.Ask(10, time.Minute))
	first, second := s.inbox(), s.inbox()
	for range 3 {
		s.message(second)
	}
	s.word(first, "408", 5)
	require.NoError(t, s.news(func(got, short, ended int, open bool) bool { return got == 3 && short == 5 && ended == 1 && open }))
	s.message(second)
	s.word(second, "408", 6)
	require.NoError(t, s.news(func(got, short, ended int, open bool) bool { return got == 1 && short == 6 && ended == 1 && !open }))
	assert.Zero(t, s.extra.Load())
}

// The server says nothing when a pull has got all its messages.
func TestAPullThatGotAll(t *testing.T) {
	t.Parallel()
	s := newPullServer(t)
	go func() {
		inbox := <-s.inboxes
		for range 2 {
			_ = s.api.PublishMsg(&nats.Msg{Subject: inbox, Reply: "acks"})
		}
	}()
	n, err := s.p.Pull(t.Context(), 2, time.Minute)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	require.NoError(t, s.p.Ask(1, time.Minute))
	inbox := s.inbox()
	assert.Equal(t, 1, s.p.GiveUp())
	s.message(inbox)
	require.Eventually(t, func() bool { return s.extra.Load() == 1 }, patience, tick, "what a pull that was given up brings is handed out")
	assert.EqualValues(t, 2, s.asked.Load())
}

func TestAPullThatFails(t *testing.T) {
	t.Parallel()
	s := newPullServer(t)
	require.NoError(t, s.p.Ask(5, time.Minute))
	s.word(s.inbox(), "503", -1)
	require.ErrorIs(t, s.news(func(_, short, _ int, open bool) bool { return short == 5 && !open }), nats.ErrNoResponders)
}

// A server that comes back has forgotten the pulls; that is noticed at once, and not when they would have ended.
func TestPullsOfALostConnection(t *testing.T) {
	t.Parallel()
	s := newPullServer(t)
	require.NoError(t, s.p.Ask(5, time.Hour))
	s.inbox()
	s.srv.Stop()
	require.ErrorIs(t, s.news(func(_, short, _ int, open bool) bool { return short == 5 && !open }), natsidem.ErrNotConnected)
	require.ErrorIs(t, s.p.Ask(5, time.Hour), natsidem.ErrNotConnected)
	s.srv.Start(t)
	// Who asks may be back before who answers, and a pull that nobody hears is lost.
	require.Eventually(t, func() bool { return s.api.IsConnected() && s.api.Flush() == nil }, patience, tick)
	require.Eventually(t, func() bool { return s.p.Ask(5, time.Hour) == nil }, patience, tick)
	assert.True(t, strings.HasPrefix(s.inbox(), "_INBOX."))
}
