package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/publisher"
)

// filled is a stream with messages in it, which every mode reads from its beginning.
type filled struct {
	name               string
	messages, distinct int
}

// publishedAhead is how many messages may be on their way to the server unconfirmed.
const publishedAhead = 4096

// keys returns which key each message bears. Duplicates are of any earlier message, chosen by chance, but in each run alike.
func keys(messages int, duplicates float64) (of []int, distinct int) {
	of = make([]int, messages)
	chance := rand.New(rand.NewPCG(uint64(messages), 1)) //nolint:gosec // no secret
	wanted := int(float64(messages) * duplicates)
	for i := range of {
		// The first one is fresh; of those that are left, as many are duplicates as are wanted yet.
		if left := messages - i; i > 0 && chance.IntN(left) < min(wanted, left) {
			of[i] = of[chance.IntN(i)]
			wanted--
			continue
		}
		of[i] = distinct
		distinct++
	}
	return of, distinct
}

// messages makes the messages of a stream, in order.
type messages struct {
	subject string
	of      []int
	body    []byte
}

func (b *bench) newMessages(subject string, n int) (ms messages, distinct int) {
	ms = messages{subject: subject, body: make([]byte, b.set.payload)}
	for i := range ms.body {
		ms.body[i] = byte('a' + i%26)
	}
	ms.of, distinct = keys(n, b.set.duplicates)
	return ms, distinct
}

// message is a new one. Ids are as long as UUIDs, which most keys are.
func (ms messages) message(i int) *nats.Msg {
	m := nats.NewMsg(ms.subject)
	m.Data = ms.body
	m.Header.Set(publisher.KeyHeader, fmt.Sprintf("0190a4e2-7b3c-7000-8000-%012d", ms.of[i]))
	m.Header.Set(wmidem.UUIDHeader, strconv.Itoa(i))
	return m
}

// stream returns a stream with so many messages, which is filled when it is first asked for.
func (b *bench) stream(ctx context.Context, n int) (filled, error) {
	if f, ok := b.streams[n]; ok {
		return f, nil
	}
	f := filled{name: fmt.Sprintf("%s-%d", b.run, n), messages: n}
	b.streams[n] = f // also if it is filled in part only: close removes it
	ms, distinct := b.newMessages(f.name, n)
	f.distinct = distinct
	if err := b.createStream(ctx, f.name); err != nil {
		return f, err
	}
	js, err := jetstream.New(b.nc, jetstream.WithPublishAsyncMaxPending(publishedAhead))
	if err != nil {
		return f, err
	}
	for i := range n {
		if err := ctx.Err(); err != nil {
			return f, err
		}
		if _, err := js.PublishMsgAsync(ms.message(i), jetstream.WithStallWait(stallLimit)); err != nil {
			return f, fmt.Errorf("fill a stream: %w", err)
		}
	}
	if err := confirmed(ctx, js); err != nil {
		return f, err
	}
	st, err := b.js.Stream(ctx, f.name)
	if err != nil {
		return f, err
	}
	if got := st.CachedInfo().State.Msgs; got != uint64(n) { //nolint:gosec // positive
		return f, fmt.Errorf("fill a stream: it has %d messages of %d", got, n)
	}
	b.streams[n] = f
	return f, nil
}

func (b *bench) createStream(ctx context.Context, name string) error {
	_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Storage: jetstream.FileStorage})
	if err != nil {
		return fmt.Errorf("create a stream: %w", err)
	}
	return nil
}

// confirmed waits until all that was published is confirmed.
func confirmed(ctx context.Context, js jetstream.JetStream) error {
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(stallLimit):
		return errors.New("the server does not confirm what was published")
	}
}
