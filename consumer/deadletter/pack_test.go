package deadletter

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

func TestEveryPackFits(t *testing.T) {
	packed := 0
	for limit := 1; limit < 3000; limit++ {
		l := &consumer.Letter{
			Class: dedup.Permanent, Error: strings.Repeat("e", 500), Scope: "s", Key: "k", Fence: 1, Stream: "S", Sequence: 1,
			Header: map[string][]string{"X": {strings.Repeat("x", 700)}}, Data: make([]byte, 900),
		}
		p, err := packLetter(l, l.ID(), limit)
		if err != nil {
			require.ErrorIs(t, err, errNoRoom)
			require.Zero(t, packed, "a larger limit does not help less")
			continue
		}
		packed++
		for _, m := range append(p.parts, p.letter(math.MaxUint64)) {
			require.LessOrEqual(t, headerSize(m.Header)+len(m.Data), limit)
		}
	}
	require.Positive(t, packed)
}
