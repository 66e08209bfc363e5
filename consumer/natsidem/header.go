package natsidem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const headerTimeout = 5 * time.Second

// headerLost says whether a message came with headers that the client could not parse: it passes such a message like one
// without. Size counts everything that came over the wire.
func headerLost(m *nats.Msg) bool {
	return m.Header == nil && m.Size() != len(m.Subject)+len(m.Reply)+len(m.Data)
}

// readHeader asks the stream for the headers, which has their bytes. An error means that it could not be asked.
func (d *delivery) readHeader(ctx context.Context, apiPrefix string) error {
	if err := d.connected(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, headerTimeout)
	defer cancel()
	raw, err := rawHeader(ctx, d.nc, apiPrefix+"STREAM.MSG.GET."+d.message.Stream, d.message.Sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound): // deleted meanwhile; there is nothing more to learn
		return nil
	case err != nil:
		return fmt.Errorf("natsidem: read the headers of message %d of stream %s: %w", d.message.Sequence, d.message.Stream, err)
	case len(raw) == 0:
		return nil
	}
	h, err := nats.DecodeHeadersMsg(raw)
	if err != nil {
		d.message.HeaderErr, d.message.RawHeader = fmt.Errorf("%w: %w", errUnreadableHeader, err), raw
		return nil
	}
	d.message.Header = h
	return nil
}

// rawHeader asks the stream itself, since the client's own call for it parses the headers, too.
func rawHeader(ctx context.Context, nc *nats.Conn, subject string, seq uint64) ([]byte, error) {
	req, err := json.Marshal(struct {
		Seq uint64 `json:"seq"`
	}{seq})
	if err != nil {
		return nil, err
	}
	reply, err := nc.RequestWithContext(ctx, subject, req)
	if err != nil {
		return nil, err
	}
	var res struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Header []byte `json:"hdrs"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &res); err != nil {
		return nil, err
	}
	if e := res.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, jetstream.ErrMsgNotFound
		}
		return nil, e
	}
	return res.Message.Header, nil
}
