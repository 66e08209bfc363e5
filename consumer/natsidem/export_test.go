package natsidem

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// Puller lets tests play the server.
type Puller struct{ p *puller }

func NewPuller(nc *nats.Conn, apiPrefix, stream, durable string, take func(m *nats.Msg, asked bool)) (*Puller, error) {
	p, err := newPuller(nc, apiPrefix, stream, durable, take)
	return &Puller{p}, err
}

func (p *Puller) Pull(ctx context.Context, n int, expires time.Duration) (int, error) {
	return p.p.pull(ctx, n, expires)
}

func (p *Puller) Ask(n int, expires time.Duration) error { return p.p.ask(n, expires) }

// Look returns what has come since the last look, and whether a pull is open.
func (p *Puller) Look() (got, short, ended int, open bool, err error) {
	news, open := p.p.look()
	return news.got, news.short, news.ended, open, news.err
}

func (p *Puller) GiveUp() int { return p.p.giveUp() }

func (p *Puller) Close() { p.p.close() }
