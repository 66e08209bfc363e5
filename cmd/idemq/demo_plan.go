package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/publisher"
)

// The demo's messages: what each asks of the handler is in its payload.
type demoPayload struct {
	Order int    `json:"order"`
	Fate  string `json:"fate"` // "", "flaky" (fails once), "poison" (a retry cannot help), "stubborn" (fails every time)
	Note  string `json:"note,omitempty"`
}

type planned struct {
	key  string // "" for none
	body []byte
}

type plan struct {
	messages                                         []planned
	unique, duplicates, keyless, conflicts, hopeless int
	keys                                             []string
	confirmed                                        atomic.Int64 // publishes that the server has confirmed
}

// newPlan draws the messages. Half of the duplicates stand right behind their original, so that they are handled in
// parallel; the others come at the end, when the original is long done.
func newPlan(o demoFlags) *plan {
	p := &plan{unique: o.messages}
	duplicates := int(float64(o.messages) * o.duplicates)
	p.hopeless = int(float64(o.messages) * o.failures)
	extra := max(1, o.messages/100)
	var late []planned
	for i := range o.messages {
		pl := demoPayload{Order: i}
		switch {
		case i%50 == 7:
			pl.Fate = "flaky"
		case i >= o.messages-p.hopeless:
			pl.Fate = map[bool]string{true: "poison", false: "stubborn"}[i%2 == 0]
		}
		m := planned{publisher.NewKey(), encodePayload(pl)}
		p.keys = append(p.keys, m.key)
		p.messages = append(p.messages, m)
		for n := p.copies(i, duplicates, o.messages); n > 0; n-- {
			if n%2 == i%2 {
				p.messages = append(p.messages, m)
			} else {
				late = append(late, m)
			}
			p.duplicates++
		}
	}
	rand.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	p.messages = append(p.messages, late...)
	for i := range extra {
		p.messages = append(p.messages, planned{"", encodePayload(demoPayload{Order: i, Note: "no key"})})
		p.keyless++
		p.messages = append(p.messages, planned{p.keys[i%o.messages], encodePayload(demoPayload{Order: i, Note: "another payload"})})
		p.conflicts++
	}
	return p
}

// copies spreads the duplicates evenly.
func (p *plan) copies(i, duplicates, messages int) int {
	return (i+1)*duplicates/messages - i*duplicates/messages
}

func encodePayload(p demoPayload) []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // plain numbers and texts
	}
	return b
}

// publishBatch is how many messages are on their way to the server at once.
const publishBatch = 256

// publish publishes every message with a Nats-Msg-Id of its own, so that the server's publish window lets all of them
// through, as it would minutes later. Every single one is confirmed.
func (p *plan) publish(ctx context.Context, js jetstream.JetStream, subject string) error {
	n := 0
	for batch := range slices.Chunk(p.messages, publishBatch) {
		acks := make([]jetstream.PubAckFuture, len(batch))
		for i, m := range batch {
			msg := nats.NewMsg(subject)
			msg.Data = m.body
			msg.Header.Set(jetstream.MsgIDHeader, strconv.Itoa(n))
			n++
			if m.key != "" {
				if err := publisher.SetKey(msg.Header, m.key); err != nil {
					return err
				}
			}
			var err error
			if acks[i], err = js.PublishMsgAsync(msg); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
		}
		for _, ack := range acks {
			select {
			case <-ack.Ok():
				p.confirmed.Add(1)
			case err := <-ack.Err():
				return fmt.Errorf("publish: %w", err)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}
