package deadletter

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/publisher"
)

// originMessage returns a letter's message as it was sent first, under a key. What the letter says is not trusted: the
// subject must belong to the stream that the letter came from, else a forged one could give orders to the server.
func (r *Replayer) originMessage(ctx context.Context, l *consumer.Letter, key, msgID string) (*nats.Msg, error) {
	if l.Stream == "" || l.Subject == "" || strings.ContainsAny(l.Subject, "*> \t\r\n") || strings.HasPrefix(l.Subject, "$") {
		return nil, fmt.Errorf("%w: subject %q, stream %q", ErrOrigin, l.Subject, l.Stream)
	}
	stream, err := r.queue.js.StreamNameBySubject(ctx, l.Subject)
	if err != nil {
		return nil, fmt.Errorf("%w: subject %q: %w", ErrOrigin, l.Subject, err)
	}
	if stream != l.Stream {
		return nil, fmt.Errorf("%w: subject %q belongs to stream %q, and the letter came from %q", ErrOrigin, l.Subject, stream, l.Stream)
	}
	if len(l.RawHeader) > 0 {
		return nil, fmt.Errorf("%w: its headers could not be read", ErrOrigin)
	}
	m := &nats.Msg{Subject: l.Subject, Header: nats.Header{}, Data: l.Data}
	for name, values := range l.Header {
		if strings.HasPrefix(strings.ToLower(name), "nats-") {
			continue // orders to the server
		}
		for _, v := range values {
			if name == "" || strings.ContainsAny(name, ": \t\r\n") || strings.ContainsAny(v, "\r\n") {
				return nil, fmt.Errorf("%w: header %q cannot be sent", ErrOrigin, name)
			}
		}
		m.Header[name] = append([]string(nil), values...)
	}
	if err := publisher.SetKey(m.Header, key); err != nil {
		return nil, err
	}
	m.Header.Set(nats.MsgIdHdr, msgID)
	m.Header.Set(jetstream.ExpectedStreamHeader, l.Stream)
	if limit := int(r.queue.js.Conn().MaxPayload()); !fits(m.Header, len(m.Data), limit) {
		return nil, fmt.Errorf("%w: %d bytes beside its headers, %d are allowed for both", ErrTooLarge, len(m.Data), limit)
	}
	return m, nil
}

func (r *Replayer) sendToOrigin(ctx context.Context, m *nats.Msg) (duplicate bool, err error) {
	ack, err := confirm(ctx, r.queue.js, m, r.queue.cfg.Timeout)
	if err != nil {
		return false, fmt.Errorf("deadletter: subject %q did not take the message: %w", m.Subject, err)
	}
	return ack.Duplicate, nil
}
