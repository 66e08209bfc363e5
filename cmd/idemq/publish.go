package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
)

func (a *app) publishCommand() *cobra.Command {
	var data, key string
	var noKey bool
	var headers []string
	var count int
	c := &cobra.Command{
		Use: "publish SUBJECT", Short: "Stamp and publish a message", Args: exactly(1),
		Long: `Publishes a message with an idempotency key: the given one, else a new UUIDv7. The body is --data, else standard input.
A message with the same key on the same subject is swallowed by the stream's publish window (2 minutes); the answer then
says "duplicate". To see a consumer deduplicate, give it another Nats-Msg-Id.`,
		Example: `  idemq publish orders.created --key order-4711 --data '{"id":4711}'
  idemq publish orders.created --key order-4711 --data '{"id":4711}' --header Nats-Msg-Id:again
  idemq publish orders.created --count 10 --json < order.json`,
		RunE: func(c *cobra.Command, args []string) error {
			m := nats.NewMsg(args[0])
			if err := setHeaders(m, headers); err != nil {
				return err
			}
			given := c.Flags().Changed("key")
			switch byHand := keyHeaders(m); {
			case given && byHand > 0:
				return usagef("--key and --header %s exclude each other", publisher.KeyHeader)
			case !noKey && byHand > 1:
				return usagef("%d headers %s: a message has one key; with --no-key they are sent as they are", byHand, publisher.KeyHeader)
			case given && noKey:
				return usagef("--key and --no-key exclude each other")
			case count < 1:
				return usagef("--count %d: use 1 or more", count)
			}
			if given {
				if err := publisher.SetKey(map[string][]string{}, key); err != nil {
					return &exitError{exitUsage, err}
				}
			}
			m.Data = []byte(data)
			if !c.Flags().Changed("data") {
				var err error
				if m.Data, err = io.ReadAll(a.in); err != nil {
					return fmt.Errorf("standard input: %w", err)
				}
			}
			nc, js, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			defer nc.Close()
			p := natspub.New(js, natspub.Config{})
			for range count {
				ack, err := publishOne(c, js, p, m, noKey, given, key)
				if errors.Is(err, jetstream.ErrNoStreamResponse) {
					return fmt.Errorf("%w; does a stream take the subject %q? idemq consume --create makes one", err, m.Subject)
				}
				if err != nil {
					return err
				}
				if err := a.printAck(ack); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "body (default: standard input)")
	f.StringVar(&key, "key", "", "idempotency key (default: a new UUIDv7)")
	f.BoolVar(&noKey, "no-key", false, "publish without a key of our own; headers are sent as they are")
	f.StringArrayVar(&headers, "header", nil, "header as NAME:VALUE; may be repeated")
	f.IntVar(&count, "count", 1, "how many; without --key each gets a key of its own")
	return c
}

func setHeaders(m *nats.Msg, headers []string) error {
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return usagef("--header %q: use NAME:VALUE", h)
		}
		m.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return nil
}

// keyHeaders counts the idempotency keys among the headers that were given by hand.
func keyHeaders(m *nats.Msg) int {
	n := 0
	for name, values := range m.Header {
		if strings.EqualFold(name, publisher.KeyHeader) {
			n += len(values)
		}
	}
	return n
}

func publishOne(c *cobra.Command, js jetstream.JetStream, p *natspub.Publisher, m *nats.Msg, noKey, given bool, key string) (natspub.Ack, error) {
	if noKey {
		ack, err := js.PublishMsg(c.Context(), m)
		if err != nil {
			return natspub.Ack{}, fmt.Errorf("publish on %s: %w", m.Subject, err)
		}
		return natspub.Ack{Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
	}
	var opts []publisher.Option
	if given {
		opts = append(opts, publisher.Key(key))
	}
	return p.PublishMsg(c.Context(), m, opts...)
}

func (a *app) printAck(ack natspub.Ack) error {
	if a.json {
		return a.print(struct {
			Key       string `json:"key"`
			Stream    string `json:"stream"`
			Sequence  uint64 `json:"seq"`
			Duplicate bool   `json:"duplicate"`
		}{ack.Key, ack.Stream, ack.Sequence, ack.Duplicate})
	}
	note := ""
	if ack.Duplicate {
		note = " (duplicate: the stream has it already)"
	}
	_, err := fmt.Fprintf(a.out, "%s seq %d key %s%s\n", ack.Stream, ack.Sequence, or(ack.Key, "none"), note)
	return err
}
