package consumer

import (
	"maps"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
)

func sampleLetter() *Letter {
	at := time.Date(2026, 7, 1, 12, 0, 0, 123456789, time.UTC)
	return &Letter{
		Class: dedup.Exhausted, Error: "boom\r\nNats-TTL: 1s\x1b[31m", Stack: "goroutine 1\n\tmain.go:3\n",
		Attempts: 5, Generation: 2, FirstFailure: at, LastFailure: at.Add(time.Hour),
		Scope: "ORDERS/billing", Key: "order-{4711}", Fence: 1_790_000_000_000_000,
		Subject: "orders.created", Stream: "ORDERS", Durable: "billing", Sequence: 42, Time: at.Add(-time.Hour),
		Header: map[string][]string{
			"Idempotency-Key": {"order-{4711}"}, "Nats-TTL": {"1s"}, "nats-rollup": {"all"}, "Idemq-Class": {"forged"},
			"Orig-Nats-TTL": {"mine"}, "a:b=c\r\n": {"x", ""}, "": {"nameless"}, "X-Bytes": {"\xff\x00", " padded\t"}, "X-Many": {"1", "", "1"},
		},
		Data: []byte("payload"), Size: len("payload"),
		Fingerprint: dedup.FingerprintOf([]byte("payload")),
		History: []Death{
			{Generation: 1, Class: dedup.Permanent, Error: "a;b%\r\n\x1b ж", Time: at.Add(-time.Hour), ID: "0123456789abcdef0123456789abcdef01234567"},
			{Class: " odd;\xff"},
		},
	}
}

// onWire does what a NATS client does to headers.
func onWire(t require.TestingT, h map[string][]string) map[string][]string {
	out := map[string][]string{}
	for name, values := range h {
		require.True(t, letterNameSafe(name), "%q", name)
		for _, v := range values {
			out[name] = append(out[name], strings.NewReplacer("\r", " ", "\n", " ").Replace(textproto.TrimString(v)))
		}
	}
	return out
}

func TestLetterComesBackAsItWas(t *testing.T) {
	l := sampleLetter()
	back, err := DecodeLetter(onWire(t, l.EncodeHeader()), l.Data)
	require.NoError(t, err)
	assert.Equal(t, l, back)
	assert.Equal(t, l.ID(), back.ID())
}

func TestLetterHidesOrdersToTheServer(t *testing.T) {
	h := sampleLetter().EncodeHeader()
	for name := range h {
		assert.False(t, strings.HasPrefix(strings.ToLower(name), "nats-"), name)
	}
	assert.Equal(t, []string{"1s"}, h["Orig-Nats-TTL"])
	assert.Equal(t, []string{"mine"}, h["Orig-Orig-Nats-TTL"])
	assert.Equal(t, []string{"exhausted"}, h["Idemq-Class"])
	assert.Equal(t, []string{"forged"}, h["Orig-Idemq-Class"])
	assert.Equal(t, []string{"boom%0D%0ANats-TTL: 1s%1B[31m"}, h["Idemq-Error"])
	assert.Equal(t, []string{"2026-07-01T12:00:00.123456789Z"}, h["Idemq-First-Failure"])
}

func TestLetterCutsDiagnosticsOnly(t *testing.T) {
	l := &Letter{Class: dedup.Permanent, Error: strings.Repeat("ж", MaxLetterError), Stack: strings.Repeat("s", MaxLetterStack+1), Key: strings.Repeat("k", 1<<16)}
	back, err := DecodeLetter(onWire(t, l.EncodeHeader()), nil)
	require.NoError(t, err)
	assert.LessOrEqual(t, len(back.Error), MaxLetterError)
	assert.True(t, strings.HasSuffix(back.Error, "ж…"))
	assert.Len(t, back.Stack, MaxLetterStack)
	assert.Equal(t, l.Key, back.Key)
}

func TestLetterID(t *testing.T) {
	base := Letter{Class: dedup.Permanent, Scope: "s", Key: "k", Fence: 7, Stream: "S", Sequence: 1}
	change := func(f func(*Letter)) string { l := base; f(&l); return l.ID() }

	// One death, whichever delivery publishes the letter.
	assert.Equal(t, base.ID(), change(func(l *Letter) { l.Sequence, l.Error, l.Class = 9, "other", dedup.Exhausted }))
	// The next death, another key, another scope; and no mixing of neighbours.
	assert.NotEqual(t, base.ID(), change(func(l *Letter) { l.Fence = 8 }))
	assert.NotEqual(t, base.ID(), change(func(l *Letter) { l.Scope, l.Key = "sk", "" }))

	for _, class := range []dedup.Class{dedup.MissingKey, dedup.Malformed, dedup.ConflictingPayload} {
		id := change(func(l *Letter) { l.Class = class })
		assert.NotEqual(t, base.ID(), id)
		assert.Equal(t, id, change(func(l *Letter) { l.Class, l.Fence, l.Key = class, 0, "other" }), "the record is another's")
		assert.NotEqual(t, id, change(func(l *Letter) { l.Class, l.Sequence = class, 2 }))
		assert.NotEqual(t, id, change(func(l *Letter) { l.Class, l.Stream = class, "T" }))
	}
	// Without sequences only the message itself tells two apart.
	noSeq := func(data string) string {
		return change(func(l *Letter) { l.Class, l.Sequence, l.Data = dedup.MissingKey, 0, []byte(data) })
	}
	assert.NotEqual(t, noSeq("a"), noSeq("b"))
	first, second := noSeq("a"), noSeq("a")
	assert.Equal(t, first, second)
	// A run without a record (store down, policy open) must not collide with another of the same key.
	assert.NotEqual(t, change(func(l *Letter) { l.Fence = 0 }), change(func(l *Letter) { l.Fence, l.Sequence = 0, 2 }))
	assert.Regexp(t, "^[0-9a-f]{40}$", base.ID())
}

func TestDecodeLetterRefusesDamage(t *testing.T) {
	for name, values := range map[string][]string{
		letterClass: {}, letterError: {"%zz"}, letterKey: {"a", "b"}, letterFence: {"-1"}, letterAttempts: {"4294967296"},
		letterFingerprint: {"0123"}, letterSize: {"-7"},
		letterTime: {"yesterday"}, letterRawHeader: {"*"}, letterOdd: {"no equals sign"},
	} {
		h := sampleLetter().EncodeHeader()
		h[name] = values
		_, err := DecodeLetter(h, nil)
		assert.ErrorIs(t, err, ErrNotLetter)
		assert.ErrorContains(t, err, name)
	}
	for _, line := range []string{"", "1", "1;;;;;", "x;;;;", "-1;;;;", "1;%zz;;;", "1;;now;;", "99999999999;;;;"} {
		h := sampleLetter().EncodeHeader()
		h[letterHistory] = append(h[letterHistory], line)
		_, err := DecodeLetter(h, nil)
		assert.ErrorIs(t, err, ErrNotLetter, line)
		assert.ErrorContains(t, err, letterHistory)
	}
	_, err := DecodeLetter(nil, nil)
	assert.ErrorIs(t, err, ErrNotLetter)
}

func TestLetterKeepsTheLatestDeaths(t *testing.T) {
	l := sampleLetter()
	l.History = nil
	for n := 1; n <= 3*MaxLetterHistory; n++ {
		l.Generation, l.Error = n, strings.Repeat("ж", MaxLetterDeathError)
		l.History = l.Deaths()
	}
	assert.Len(t, l.History, MaxLetterHistory)
	l.History = append([]Death{{Generation: 999, Error: strings.Repeat("e", 1<<16)}}, l.History...)
	back, err := DecodeLetter(onWire(t, l.EncodeHeader()), nil)
	require.NoError(t, err)
	require.Len(t, back.History, MaxLetterHistory)
	assert.Equal(t, 2*MaxLetterHistory+1, back.History[0].Generation, "oldest first")
	last := back.History[MaxLetterHistory-1]
	assert.Equal(t, 3*MaxLetterHistory, last.Generation)
	assert.Equal(t, l.LastFailure, last.Time)
	assert.Equal(t, l.ID(), last.ID)
	assert.LessOrEqual(t, len(last.Error), MaxLetterDeathError)
	assert.True(t, strings.HasSuffix(last.Error, "ж…"))
}

func TestLetterTellsItsSizeWithoutItsBody(t *testing.T) {
	l := sampleLetter()
	l.Size = 99
	h := l.EncodeHeader()
	back, err := DecodeLetter(h, nil)
	require.NoError(t, err)
	assert.Equal(t, len(l.Data), back.Size)
	delete(h, letterSize)
	back, err = DecodeLetter(h, l.Data)
	require.NoError(t, err)
	assert.Equal(t, len(l.Data), back.Size, "of a letter from before the header")
	empty, err := DecodeLetter((&Letter{}).EncodeHeader(), nil)
	require.NoError(t, err)
	assert.Zero(t, empty.Size)
}

func TestLetterRoundTripOfAnything(t *testing.T) {
	anything := rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })
	name := rapid.OneOf(anything, rapid.SampledFrom([]string{"Nats-Msg-Id", "Orig-A", "Orig-Nats-A", "Idemq-Header", "orig-", "Orig-", "X"}))
	when := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(0, 1<<35).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	})
	death := rapid.Custom(func(t *rapid.T) Death {
		return Death{
			Generation: rapid.IntRange(0, 1<<31-1).Draw(t, "generation"), Class: dedup.Class(anything.Draw(t, "class")),
			Error: letterCut(anything.Draw(t, "error"), MaxLetterDeathError), Time: when.Draw(t, "time"), ID: anything.Draw(t, "id"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		l := &Letter{
			Class: dedup.Class(anything.Draw(t, "class")), Error: anything.Draw(t, "error"), Stack: anything.Draw(t, "stack"),
			Attempts: rapid.IntRange(0, 1<<31-1).Draw(t, "attempts"), Generation: rapid.IntRange(0, 9).Draw(t, "generation"),
			FirstFailure: when.Draw(t, "first"), Time: when.Draw(t, "time"),
			Scope: anything.Draw(t, "scope"), Key: anything.Draw(t, "key"), Fence: dedup.Fence(rapid.Uint64().Draw(t, "fence")),
			Subject: anything.Draw(t, "subject"), Stream: anything.Draw(t, "stream"), Durable: anything.Draw(t, "durable"),
			Sequence: rapid.Uint64().Draw(t, "seq"), RawHeader: []byte(anything.Draw(t, "raw")),
			Header:      rapid.MapOf(name, rapid.SliceOfN(anything, 1, 3)).Draw(t, "header"),
			Fingerprint: dedup.FingerprintOf([]byte(anything.Draw(t, "print"))),
			History:     rapid.SliceOfN(death, 0, MaxLetterHistory).Draw(t, "history"),
		}
		if len(l.History) == 0 {
			l.History = nil
		}
		if len(l.RawHeader) == 0 {
			l.RawHeader = nil
		}
		if len(l.Header) == 0 {
			l.Header = nil
		}
		back, err := DecodeLetter(onWire(t, l.EncodeHeader()), l.Data)
		require.NoError(t, err)
		require.Equal(t, l, back)
	})
}

func FuzzDecodeLetter(f *testing.F) {
	h := sampleLetter().EncodeHeader()
	for _, name := range slices.Sorted(maps.Keys(h)) {
		f.Add("exhausted", name, h[name][0])
	}
	f.Add("%", letterOdd, "=%")
	f.Add("", "Orig-", "")
	f.Add("x", letterAttempts, "18446744073709551615")
	f.Add("x", letterHistory, "1;permanent;2026-07-01T12:00:00Z;0123;boom")
	f.Add("x", letterHistory, ";;;;")
	f.Add("x", letterHistory, "2147483648;%3B;%;\n;"+strings.Repeat("ж", MaxLetterDeathError))
	f.Add("x", letterFingerprint, "00000000000000000000000000000000")
	f.Add("x", letterSize, "2147483647")
	f.Fuzz(func(t *testing.T, class, name, value string) {
		l, err := DecodeLetter(map[string][]string{letterClass: {class}, name: {value}}, nil)
		if err != nil {
			require.ErrorIs(t, err, ErrNotLetter)
			return
		}
		if len(l.Error) > MaxLetterError || len(l.Stack) > MaxLetterStack {
			return
		}
		l.Size = 0 // of the body, which is empty here
		back, err := DecodeLetter(onWire(t, l.EncodeHeader()), nil)
		require.NoError(t, err)
		require.Equal(t, l, back)
	})
}
