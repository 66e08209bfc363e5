package wmidem_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/wmidem"
)

func TestHeadersKeepAllTheirValues(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := rapid.MapOf(rapid.StringMatching(`[A-Za-z_-]{1,8}`), rapid.SliceOfN(rapid.String(), 1, 12)).Draw(t, "header")
		h[wmidem.UUIDHeader] = []string{rapid.StringMatching(`.{1,8}`).Draw(t, "uuid")}
		msg := &message.Message{}
		wmidem.SetHeader(msg, h)
		require.Equal(t, h, wmidem.Header(msg))
	})
}

func TestAnyMetadataIsSafe(t *testing.T) {
	t.Parallel()
	assert.Empty(t, wmidem.Header(&message.Message{}))
	odd := &message.Message{Metadata: message.Metadata{"[1]": "a", "": "b", "Name[2]": "c", "Name": "d", "x[1]": "e"}}
	assert.Equal(t, map[string][]string{"": {"b", "a"}, "Name[2]": {"c"}, "Name": {"d"}, "x[1]": {"e"}}, wmidem.Header(odd))
	_, err := wmidem.DecodeLetter(odd)
	assert.ErrorIs(t, err, consumer.ErrNotLetter)
	_, err = wmidem.DecodeLetter(&message.Message{})
	assert.ErrorIs(t, err, consumer.ErrNotLetter)
}
