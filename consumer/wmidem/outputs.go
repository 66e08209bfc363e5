package wmidem

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// outputKeyBytes is how much of the digest a key keeps: 160 bits.
const outputKeyBytes = 20

// OutputKey is the key that an output gets: derived from the key that was consumed, its scope and the output's position,
// counted from 0. So a retry that returns the same outputs gives them the same keys. It has 40 hexadecimal digits.
func OutputKey(consumed dedup.Key, position int) string {
	b := make([]byte, 0, len("output")+len(consumed.Scope)+len(consumed.ID)+4*8)
	for _, part := range [...]string{"output", consumed.Scope, consumed.ID} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(position)) //nolint:gosec // an index
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:outputKeyBytes])
}

// stamp gives every output its key. One that the handler chose is kept; the consumed message's own, which came along with
// its metadata, is not, since several outputs would share it.
func stamp(r *run, consumed *message.Message, outputs []*message.Message) ([]*message.Message, error) {
	for n, out := range outputs {
		if out == nil {
			return nil, fmt.Errorf("wmidem: output %d of the handler is nil", n)
		}
		h := Header(out)
		key, err := publisher.KeyFromHeader(h)
		first := slices.Index(outputs[:n], out) // a message that is returned twice has a key from us already
		if err == nil && key != r.key.ID && (first < 0 || key != OutputKey(r.key, first)) {
			continue
		}
		if err != nil && !isMissing(err) {
			return nil, fmt.Errorf("wmidem: output %d of the handler: %w", n, err)
		}
		if out == consumed || out == r.copy || first >= 0 { // leave that as it is
			out = out.CopyWithContext()
			outputs[n] = out
		}
		setKey(out, OutputKey(r.key, n))
	}
	return outputs, nil
}
