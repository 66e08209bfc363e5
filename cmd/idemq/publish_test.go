package main

import (
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

// stream makes a stream, and returns a way to look at it.
func stream(t *testing.T, s *testserver.NATSServer, name, subject string) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(s.Conn(t))
	require.NoError(t, err)
	made, err := js.CreateStream(context.Background(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}})
	require.NoError(t, err)
	return made
}

var ackFields = []string{"key", "stream", "seq", "duplicate"}

func TestPublish(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	msgs := stream(t, s, "PUB", "pub.>")
	publish := func(args ...string) map[string]any {
		t.Helper()
		return fine(t, append([]string{"publish", "pub.a", "--json", "--nats", s.URL()}, args...)...).object(ackFields...)
	}
	longest := strings.Repeat("{", publisher.MaxKeyLength)

	assert.Equal(t, map[string]any{"key": "k", "stream": "PUB", "seq": 1.0, "duplicate": false}, publish("--key", "k", "--data", "x"))
	assert.Equal(t, map[string]any{"key": "k", "stream": "PUB", "seq": 1.0, "duplicate": true}, publish("--key", "k", "--data", "x"))
	assert.Equal(t, 2, number(publish("--key", "k", "--data", "x", "--header", "Nats-Msg-Id:again"), "seq"), "outside of the server's window")
	assert.Equal(t, longest, publish("--key", longest, "--data", "")["key"])
	assert.Empty(t, publish("--no-key", "--data", "x", "--header", "A: 1", "--header", "A:2:3")["key"])
	assert.NotEmpty(t, publish("--data", "x")["key"], "a key of its own")

	m, err := msgs.GetMsg(t.Context(), 3)
	require.NoError(t, err)
	assert.Equal(t, longest, m.Header.Get(publisher.KeyHeader))
	assert.Empty(t, m.Data)
	m, err = msgs.GetMsg(t.Context(), 4)
	require.NoError(t, err)
	assert.Equal(t, []string{"1", "2:3"}, m.Header["A"])
	assert.NotContains(t, m.Header, publisher.KeyHeader)
}

func TestPublishReadsStandardInput(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	msgs := stream(t, s, "STDIN", "stdin")
	p := command(t, "publish", "stdin", "--count", "3", "--json")
	p.cmd.Env = environment("NATS_URL=" + s.URL())
	p.cmd.Stdin = strings.NewReader("from\x00here\n")
	require.Equal(t, exitFine, p.start().wait(), p.err.String())
	keys := map[any]bool{}
	for _, o := range p.objects(ackFields...) {
		keys[o["key"]] = true
	}
	assert.Len(t, keys, 3, "each has a key of its own")
	m, err := msgs.GetMsg(t.Context(), 3)
	require.NoError(t, err)
	assert.Equal(t, "from\x00here\n", string(m.Data))
}

func TestPublishWithoutStreamSaysWhatToDo(t *testing.T) {
	t.Parallel()
	p, code := idemq(t, "publish", "nobody.listens", "--data", "x", "--nats", testserver.SharedNATS(t).URL())
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "--create")
}
