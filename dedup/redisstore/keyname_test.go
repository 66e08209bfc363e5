package redisstore

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
)

func TestNamesAreUnambiguousAndOneHashTag(t *testing.T) {
	t.Parallel()
	s := New(redis.NewClient(&redis.Options{}), Config{})
	defer func() { require.NoError(t, s.rdb.Close()) }()
	part := rapid.OneOf(rapid.StringOf(rapid.SampledFrom([]rune("{}|%a7B2*?[]\\^ \n\x00é"))), rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) {
		a := dedup.Key{Scope: part.Draw(t, "scope"), ID: part.Draw(t, "id")}
		b := dedup.Key{Scope: part.Draw(t, "scope"), ID: part.Draw(t, "id")}
		name := s.name(a)
		back, ok := s.parseName(name)
		require.True(t, ok)
		require.Equal(t, a, back)
		if a != b {
			require.NotEqual(t, name, s.name(b))
		}
		tag := name[strings.IndexByte(name, '{')+1:]
		require.Equal(t, len(tag)-1, strings.IndexByte(tag, '}'), "the hash tag ends where the name ends")
		require.Greater(t, len(tag), 1, "an empty tag would not count")
	})
}

func TestForeignNamesAreNotParsed(t *testing.T) {
	t.Parallel()
	s := New(redis.NewClient(&redis.Options{}), Config{})
	defer func() { require.NoError(t, s.rdb.Close()) }()
	for _, name := range []string{
		"", "idemq:", "idemq:{}", "idemq:{a}", "idemq:{a|b", "idemq:a|b}", "idemq:{a|b}}", "idemq:{a|b|c}", "idemq:{a|%}",
		"idemq:{a|%zz}", "idemq:{a|%41}", "idemq:{a|%7c}", "other:{a|b}", "idemq:{{a|b}",
	} {
		_, ok := s.parseName(name)
		require.False(t, ok, "%q", name)
	}
}

func TestTheLargestDurationsStayInRange(t *testing.T) {
	t.Parallel()
	require.Zero(t, millis(-1))
	require.EqualValues(t, 1, millis(1))
	require.EqualValues(t, 2, millis(1_000_001))
	require.EqualValues(t, 3_153_600_000_000, millis(1<<63-1))
}
