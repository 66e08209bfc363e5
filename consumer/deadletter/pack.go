package deadletter

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/idemq/idemq/consumer"
)

// The headers of parts, and of letters that have some.
const (
	headerPart        = consumer.LetterPrefix + "Part"         // n/total, on a part
	headerLetterID    = consumer.LetterPrefix + "Letter-Id"    // on a part
	headerParts       = consumer.LetterPrefix + "Parts"        // how many there are, on a letter
	headerPartsDigest = consumer.LetterPrefix + "Parts-Digest" // SHA-256 of all parts together, on both
	headerPartsFirst  = consumer.LetterPrefix + "Parts-First"  // where in the stream to begin looking
	headerInParts     = consumer.LetterPrefix + "Header-Bytes" // how many bytes at the front are headers, in JSON
)

// shortError is what is left of an error when there is no room, in bytes.
const shortError = 256

// errNoRoom is for servers whose maximum payload is smaller than the headers of a part.
var errNoRoom = errors.New("the server's maximum payload is too small for a dead letter")

// pack is a letter as it is stored.
type pack struct {
	head  nats.Header
	body  []byte
	parts []*nats.Msg
}

// packLetter cuts a letter so that every message fits into limit bytes: diagnostics go first, then the body moves into
// parts, then the headers.
func packLetter(l *consumer.Letter, id string, limit int) (*pack, error) {
	head := l.EncodeHeader()
	if fits(withID(head, id), len(l.Data), limit) {
		return &pack{head: withID(head, id), body: l.Data}, nil
	}
	short := *l
	short.Stack, short.History = "", withoutErrors(l.History)
	if len(short.Error) > shortError {
		short.Error = strings.ToValidUTF8(short.Error[:shortError], "") + "…"
	}
	head = short.EncodeHeader()
	if fits(withID(head, id), len(l.Data), limit) {
		return &pack{head: withID(head, id), body: l.Data}, nil
	}
	if inParts := withParts(withID(head, id), math.MaxInt32, strings.Repeat("0", 2*sha256.Size), 0); fits(inParts, 0, limit-firstRoom) {
		return split(withID(head, id), l.Data, 0, id, limit)
	}
	// Headers without the producer's, and without texts of unbounded length; the whole is in the parts.
	whole, err := json.Marshal(l.EncodeHeader())
	if err != nil {
		return nil, err
	}
	small := consumer.Letter{
		Class: l.Class, Attempts: l.Attempts, Generation: l.Generation, FirstFailure: l.FirstFailure,
		LastFailure: l.LastFailure, Fence: l.Fence, Sequence: l.Sequence, Time: l.Time, Fingerprint: l.Fingerprint,
		Data: l.Data, // for its size
	}
	for to, from := range map[*string]string{&small.Scope: l.Scope, &small.Key: l.Key, &small.Stream: l.Stream, &small.Durable: l.Durable, &small.Subject: l.Subject} {
		if len(from) <= maxToken*2 {
			*to = from
		}
	}
	return split(withID(small.EncodeHeader(), id), append(whole, l.Data...), len(whole), id, limit)
}

// partsInfo is what a letter's headers tell about its parts.
type partsInfo struct {
	digest string // empty if there are none
	first  uint64
}

func partsOf(h nats.Header) partsInfo {
	if h.Get(headerParts) == "" {
		return partsInfo{}
	}
	first, _ := strconv.ParseUint(h.Get(headerPartsFirst), 10, 64)
	return partsInfo{digest: h.Get(headerPartsDigest), first: max(1, first)}
}

// withoutErrors returns the history without its texts.
func withoutErrors(history []consumer.Death) []consumer.Death {
	history = slices.Clone(history)
	for i := range history {
		history[i].Error = ""
	}
	return history
}

// maxHeader is what JetStream takes of headers, whatever the maximum payload is.
const maxHeader = 1<<16 - 1

// fits says whether a message can be stored.
func fits(h nats.Header, body, limit int) bool {
	size := headerSize(h)
	return size <= maxHeader-firstRoom && size+body <= limit
}

// firstRoom is what the header Parts-First may take, which is known only when the parts are stored.
const firstRoom = len(headerPartsFirst) + len(": 18446744073709551615\r\n")

// split moves content into parts.
func split(head nats.Header, content []byte, headerBytes int, id string, limit int) (*pack, error) {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	part := func(n, total int) nats.Header {
		return nats.Header{
			// The digest keeps a part from being taken for one of an earlier try that was cut elsewhere.
			nats.MsgIdHdr:     {fmt.Sprintf("%s/%d/%s-%d", id, n, digest[:16], total)},
			headerLetterID:    {id},
			headerPart:        {fmt.Sprintf("%d/%d", n, total)},
			headerPartsDigest: {digest},
		}
	}
	room := limit - headerSize(part(math.MaxInt32, math.MaxInt32))
	if room <= 0 {
		return nil, errNoRoom
	}
	total := max(1, (len(content)+room-1)/room)
	p := &pack{head: withParts(head, total, digest, headerBytes)}
	if !fits(p.head, 0, limit-firstRoom) {
		return nil, errNoRoom
	}
	for n := 1; n <= total; n++ {
		from, to := (n-1)*room, min(n*room, len(content))
		p.parts = append(p.parts, &nats.Msg{Header: part(n, total), Data: content[from:to]})
	}
	return p, nil
}

// letter returns the message that stands for the whole; first is the sequence of the earliest part.
func (p *pack) letter(first uint64) *nats.Msg {
	if len(p.parts) > 0 {
		p.head.Set(headerPartsFirst, strconv.FormatUint(first, 10))
	}
	return &nats.Msg{Header: p.head, Data: p.body}
}

func withID(h map[string][]string, id string) nats.Header {
	out := nats.Header(h)
	out.Set(nats.MsgIdHdr, id)
	return out
}

func withParts(h nats.Header, total int, digest string, headerBytes int) nats.Header {
	out := make(nats.Header, len(h)+4)
	maps.Copy(out, h)
	out.Set(headerParts, strconv.Itoa(total))
	out.Set(headerPartsDigest, digest)
	if headerBytes > 0 {
		out.Set(headerInParts, strconv.Itoa(headerBytes))
	}
	return out
}

// headerSize is what the headers take on the wire.
func headerSize(h nats.Header) int {
	const firstLine, perValue = len("NATS/1.0\r\n") + len("\r\n"), len(": ") + len("\r\n")
	size := firstLine
	for name, values := range h {
		for _, v := range values {
			size += len(name) + len(textproto.TrimString(v)) + perValue
		}
	}
	return size
}
