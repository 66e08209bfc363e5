package natsidem

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	answerLimit = 5 * time.Second        // for the server's word on a pull, after the pull's own end
	answerLook  = 250 * time.Millisecond // how often to look whether the connection is still the same one meanwhile
)

// puller asks a pull consumer for messages, over a subscription of its own. The client's calls for it take a message
// without payload and with a header named Status for a word of the server, so that it is never handled; and what they
// hand out does not tell a message without headers from one whose headers the client cannot parse.
//
// Several pulls may be open at once, so that the next one has reached the server before this one is used up. A message
// does not tell which of them it is for, but the server's word that ends one does, and says how many did not come. What a
// pull that was given up still brings is handed out, too.
type puller struct {
	nc      *nats.Conn
	subject string // of the server's API
	inbox   string // before the number of a pull
	sub     *nats.Subscription
	take    func(m *nats.Msg, asked bool) // asked: one of those that the open pulls are for
	ended   chan struct{}                 // receives when pulls have ended

	mu    sync.Mutex
	pulls uint64
	open  []pull
	left  int // messages that the open pulls may still bring
	news  pulled
}

// pull is one request.
type pull struct {
	inbox      string
	asked      int
	deadline   time.Time
	reconnects uint64
}

// pulled is what has come of pulls since it was last looked at.
type pulled struct {
	got   int   // messages
	short int   // messages that were asked for and did not come
	ended int   // pulls that are over
	err   error // of the first one that failed; nil if there were just no more messages
}

// newPuller returns a puller that hands each message to take as it arrives, one after another.
func newPuller(nc *nats.Conn, apiPrefix, stream, durable string, take func(m *nats.Msg, asked bool)) (*puller, error) {
	p := &puller{
		nc: nc, subject: apiPrefix + "CONSUMER.MSG.NEXT." + stream + "." + durable, inbox: nc.NewInbox() + ".",
		take: take, ended: make(chan struct{}, 1),
	}
	var err error
	if p.sub, err = nc.Subscribe(p.inbox+"*", p.arrived); err == nil {
		err = p.sub.SetPendingLimits(-1, -1) // no more can come than was asked for
	}
	if err != nil {
		return nil, fmt.Errorf("natsidem: subscribe to the answers of pulls: %w", err)
	}
	return p, nil
}

// pullRequest is the JetStream API's CONSUMER.MSG.NEXT.
type pullRequest struct {
	Batch   int           `json:"batch"`
	Expires time.Duration `json:"expires,omitempty"` // in nanoseconds on the wire
	NoWait  bool          `json:"no_wait,omitempty"`
}

// ask begins a pull of up to n messages. It waits up to expires for them, or takes only what is there if that is 0.
func (p *puller) ask(n int, expires time.Duration) error {
	// A pull that the client buffers while reconnecting would be sent later, and answered to nobody.
	if p.nc.Status() != nats.CONNECTED {
		return ErrNotConnected
	}
	q := pull{asked: n, deadline: time.Now().Add(expires + answerLimit), reconnects: p.nc.Stats().Reconnects}
	body, err := json.Marshal(pullRequest{Batch: n, Expires: expires, NoWait: expires == 0})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pulls++
	q.inbox = p.inbox + strconv.FormatUint(p.pulls, 10)
	if err := p.nc.PublishRequest(p.subject, q.inbox, body); err != nil {
		return err
	}
	p.open = append(p.open, q)
	p.left += n
	return nil
}

// arrived takes what the server sends.
func (p *puller) arrived(m *nats.Msg) {
	if m.Reply == "" { // only a message wants an answer; whatever its headers say
		p.mu.Lock()
		defer p.mu.Unlock()
		p.end(m)
		return
	}
	p.mu.Lock()
	asked := p.left > 0
	if asked {
		p.news.got++
		if p.left--; p.left == 0 {
			p.over(len(p.open))
			p.open = p.open[:0]
		}
	}
	p.mu.Unlock()
	p.take(m, asked)
}

// end takes the server's word that ends a pull. The caller holds mu.
func (p *puller) end(m *nats.Msg) {
	i := slices.IndexFunc(p.open, func(q pull) bool { return q.inbox == m.Subject })
	if i < 0 {
		return // it was given up
	}
	short := min(p.open[i].asked, p.left)
	if n, err := strconv.Atoi(m.Header.Get(pendingHeader)); err == nil {
		short = min(short, max(0, n))
	} else if len(p.open) == 1 {
		short = p.left
	}
	if err := pullEnd(m); p.news.err == nil {
		p.news.err = err
	}
	p.open = slices.Delete(p.open, i, i+1)
	p.left -= short
	p.news.short += short
	p.over(1)
}

// pendingHeader is where the server says how many messages of a pull did not come.
const pendingHeader = "Nats-Pending-Messages"

// over notes that pulls are over. The caller holds mu.
func (p *puller) over(n int) {
	p.news.ended += n
	select {
	case p.ended <- struct{}{}:
	default: // somebody is to look already
	}
}

// look returns what has come of pulls since the last look, and whether any is open.
func (p *puller) look() (news pulled, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lost, late := false, len(p.open) > 0
	for _, q := range p.open {
		lost = lost || p.nc.Status() != nats.CONNECTED || p.nc.Stats().Reconnects != q.reconnects
		late = late && time.Now().After(q.deadline)
	}
	switch {
	case lost: // the server has forgotten them
		p.abandon(ErrNotConnected)
	case late:
		p.abandon(nats.ErrTimeout)
	}
	news, p.news = p.news, pulled{}
	return news, len(p.open) > 0
}

// abandon gives all open pulls up. The caller holds mu.
func (p *puller) abandon(err error) {
	p.news.ended += len(p.open)
	p.news.short += p.left
	if p.news.err == nil {
		p.news.err = err
	}
	p.open, p.left = p.open[:0], 0
}

// giveUp ends all open pulls, whatever may still come of them, and returns how many messages have not come.
func (p *puller) giveUp() (short int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.abandon(nil)
	short, p.news = p.news.short, pulled{}
	return short
}

// pull asks for up to n messages and waits until they are there, or the server has no more, or ctx ends. No other pull may
// be open.
func (p *puller) pull(ctx context.Context, n int, expires time.Duration) (got int, err error) {
	if err := p.ask(n, expires); err != nil {
		return 0, err
	}
	look := time.NewTicker(answerLook)
	defer look.Stop()
	for {
		news, open := p.look()
		got += news.got
		if !open {
			return got, news.err
		}
		select {
		case <-ctx.Done():
			return n - p.giveUp(), ctx.Err()
		case <-p.ended:
		case <-look.C:
		}
	}
}

// pullEnd is the error for the server's word that ends a pull; nil if there are just no more messages.
func pullEnd(m *nats.Msg) error {
	status, description := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case status == "404" || status == "408":
		return nil
	case status == "503":
		return nats.ErrNoResponders
	case status == "409" && description == "Consumer Deleted":
		return jetstream.ErrConsumerDeleted
	default:
		return fmt.Errorf("natsidem: the server ended a pull: %s %s", status, description)
	}
}

// close ends the subscription when all that the server had sent by then is handed out.
func (p *puller) close() {
	closed := make(chan struct{})
	p.sub.SetClosedHandler(func(string) { close(closed) })
	if p.nc.Status() != nats.CONNECTED || p.sub.Drain() != nil || !within(closed, answerLimit) {
		_ = p.sub.Unsubscribe() // fails only if the connection is closed
	}
}
