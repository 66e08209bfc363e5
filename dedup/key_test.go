package dedup_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
)

func TestIDsAreVisibleASCII(t *testing.T) {
	t.Parallel()
	for b := range 256 {
		err := dedup.ValidateID("a" + string([]byte{byte(b)}))
		if b >= 0x21 && b <= 0x7E {
			require.NoError(t, err, "byte 0x%02X", b)
		} else {
			require.ErrorIs(t, err, dedup.ErrInvalidKey, "byte 0x%02X", b)
			require.ErrorContains(t, err, "byte 1", "the first offending byte is named")
		}
	}
	require.NoError(t, dedup.ValidateID(strings.Repeat("a", dedup.MaxKeyLength)))
	for _, id := range []string{"", strings.Repeat("a", dedup.MaxKeyLength+1), "ü", "a b", " ", "\x00", "a\n"} {
		require.ErrorIs(t, dedup.ValidateID(id), dedup.ErrInvalidKey, "%q", id)
	}
}

func TestScopesArePrintable(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"a", "ORDERS/billing", "ü", "日本", "*", ">", "a.b", strings.Repeat("ü", dedup.MaxKeyLength/2)} {
		require.NoError(t, dedup.ValidateScope(s), "%q", s)
	}
	for _, s := range []string{
		"", " ", "a b", "a\tb", "a\n", "a\x00", "\x7f", "\x1b[31m", "\u0085", "\u00a0", "\u2028", "\u200b", "\u202e", "\ufeff", "a\xff", "\xed\xa0\x80",
		strings.Repeat("a", dedup.MaxKeyLength+1),
	} {
		require.ErrorIs(t, dedup.ValidateScope(s), dedup.ErrInvalidKey, "%q", s)
	}
}

func TestAKeyNeedsBothHalves(t *testing.T) {
	t.Parallel()
	require.NoError(t, key.Validate())
	require.ErrorIs(t, dedup.Key{ID: "1"}.Validate(), dedup.ErrInvalidKey)
	require.ErrorIs(t, dedup.Key{Scope: "s"}.Validate(), dedup.ErrInvalidKey)
}

// Keys come from strangers and end up in logs and terminals.
func TestErrorsAndNamesNeverRepeatControlCharacters(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "ORDERS/billing order-4711", key.String())
	assert.Equal(t, `"a\u00fc" "\x1b[31m"`, dedup.Key{Scope: "aü", ID: "\x1b[31m"}.String())
	rapid.Check(t, func(t *rapid.T) {
		k := dedup.Key{Scope: string(rapid.SliceOf(rapid.Byte()).Draw(t, "scope")), ID: string(rapid.SliceOf(rapid.Byte()).Draw(t, "id"))}
		texts := []string{k.String(), dedup.UnreadableError(k, "why").Error(), (&dedup.StoreError{Op: "get", Key: k}).Error()}
		if err := k.Validate(); err != nil {
			require.ErrorIs(t, err, dedup.ErrInvalidKey)
			texts = append(texts, err.Error())
		} else {
			require.True(t, utf8.ValidString(k.Scope) && k.Scope != "" && k.ID != "")
		}
		for _, s := range texts {
			for i := range len(s) {
				require.True(t, s[i] >= 0x20 && s[i] <= 0x7E, "%q", s)
			}
		}
	})
}
