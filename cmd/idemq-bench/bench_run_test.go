package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

func TestEveryModeTakesEveryMessage(t *testing.T) {
	t.Parallel()
	testserver.RedisBinary(t)
	const messages = 60
	plot := filepath.Join(t.TempDir(), "out.svg")
	r, _ := runReport(t, "--workers", "2,4", "--messages", "60", "--payload", "16", "--duplicates", "0.25", "--rounds", "2",
		"--latency-rate", "2000", "--plot", plot)
	require.Len(t, r.Results, 2*len(allModes()))
	for i, got := range r.Results {
		m := allModes()[i%len(allModes())]
		assert.Equal(t, m.name, got.Mode)
		assert.Equal(t, []int{2, 4}[i/len(allModes())], got.Workers)
		n := []int{messages / 2, messages}[i/len(allModes())]
		assert.Equal(t, n, got.Messages, "with two of four workers, half of them")
		_, distinct := keys(n, 0.25)
		handlers := distinct
		if m.group == groupNone {
			handlers = n
		}
		assert.EqualValues(t, handlers, got.Handled, m.name)
		assert.Positive(t, got.Rate.Min, m.name)
		assert.LessOrEqual(t, got.Rate.Min, got.Rate.Median)
		assert.LessOrEqual(t, got.Rate.Median, got.Rate.Max)
		require.NotNil(t, got.OfRaw, m.name)
		require.NotNil(t, got.OfNaive, m.name)
		require.NotNil(t, got.Latency, m.name)
		assert.Positive(t, got.Latency.P50.Median, m.name)
		assert.GreaterOrEqual(t, got.Latency.P99.Median, got.Latency.P50.Median, m.name)
		require.NotNil(t, got.Latency.Added99, m.name)
		assert.Positive(t, got.Allocs, m.name)
		assert.Positive(t, got.Bytes, m.name)
		switch m.name {
		case rawMode:
			assert.InDelta(t, 1, got.OfRaw.Median, 1e-9)
			assert.Zero(t, got.Latency.Added99.Max)
			fallthrough
		case "raw-callback", "idemq-memstore":
			assert.Zero(t, got.RedisCommands, m.name)
		case naiveMode: // SETNX for every message, and SET for the fresh ones
			assert.InDelta(t, float64(n+distinct)/float64(n), got.RedisCommands, 1e-9, "%v", got.Commands)
		case "watermill":
			assert.InDelta(t, 1, got.RedisCommands, 1e-9, "%v", got.Commands)
		case "do-plain": // a script for every claim, one for every settlement
			assert.GreaterOrEqual(t, got.Commands["evalsha"], float64(n+distinct)/float64(n)-1e-9, "%v", got.Commands)
		default:
			assert.Positive(t, got.RedisCommands, m.name)
		}
	}
	texts := textsOf(t, plot)
	for _, want := range []string{
		"What deduplication costs a JetStream consumer", "2 handlers at once", "4 handlers at once", "messages a second", "milliseconds",
		"of raw", "× naive", "idemq", "Redis", "25 % duplicates", string(groupNone), string(groupUsual), "idemq-asks: without",
	} {
		assert.Contains(t, texts, want)
	}
}

// textsOf reads a picture, which must be good XML, and returns its texts, one a line.
func textsOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	var texts []string
	inText := false
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err, path)
		switch e := token.(type) {
		case xml.StartElement:
			inText = e.Name.Local == "text"
		case xml.EndElement:
			inText = false
		case xml.CharData:
			if inText {
				texts = append(texts, string(e))
			}
		}
	}
	return strings.Join(texts, "\n")
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	testserver.RedisBinary(t)
	plot := filepath.Join(t.TempDir(), "out.svg")
	r, _ := runReport(t, "--growth", "--keys", "12000", "--messages", "40", "--workers", "4", "--rounds", "1", "--plot", plot)
	require.Len(t, r.Growth, 2*len(redisLayouts))
	for i, g := range r.Growth {
		assert.Equal(t, redisLayouts[i/2].name, g.Layout)
		assert.Equal(t, []int{10000, 12000}[i%2], g.Keys)
		assert.Positive(t, g.Ratio.Median)
		assert.Greater(t, g.PerKey, 20.0, "less than a digest")
		assert.Less(t, g.PerKey, 1000.0)
	}
	assert.Greater(t, r.Growth[1].Memory, r.Growth[0].Memory, "what is remembered stays")
	texts := textsOf(t, plot)
	for _, want := range []string{"keys remembered", "part of the speed with 10,000 keys", "MiB", "layout: readable", "bytes a key"} {
		assert.Contains(t, texts, want)
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	testserver.RedisBinary(t)
	plot := filepath.Join(t.TempDir(), "out.svg")
	r, _ := runReport(t, "--memory", "--keys", "5000", "--plot", plot)
	require.Len(t, r.Memory, 2+len(redisLayouts))
	for _, m := range r.Memory {
		assert.Greater(t, m.PerKey, 20.0, m.Where)
		assert.Less(t, m.PerKey, 2000.0, m.Where)
	}
	assert.Contains(t, textsOf(t, plot), "× setnx")
}

func TestServersThatWereGivenAreLeftAsTheyWere(t *testing.T) {
	t.Parallel()
	rdb, srv := testserver.PrivateRedis(t), testserver.NATS(t)
	require.NoError(t, rdb.Client(t).Set(t.Context(), "mine", "1", 0).Err())
	p := start(t, "--nats", srv.URL(), "--redis", rdb.URL(), "--workers", "4", "--messages", "20", "--rounds", "1",
		"--modes", "raw,naive,watermill,wmidem,do,idemq", "--latency-rate", "1000", "--confirm-acks", "--handler-time", "1ms")
	require.Equal(t, exitFine, p.wait(), p.err.String())
	keys, err := rdb.Client(t).Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	assert.Equal(t, []string{"mine"}, keys)
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	for name := range js.StreamNames(t.Context()).Name() {
		assert.Fail(t, "a stream is left", name)
	}
	files, err := os.ReadDir(p.temp)
	require.NoError(t, err)
	assert.Empty(t, files)
	for _, want := range []string{"4 workers, 20 messages", "added ms at 1,000/s: p50", "Redis cmds", "× naive", "acks confirmed", "handlers that wait 1ms"} {
		assert.Contains(t, p.out.String(), want)
	}
	assert.NotContains(t, p.out.String(), "\x1b", "standard output is no terminal")
}

func TestASignalStopsEverything(t *testing.T) {
	t.Parallel()
	testserver.RedisBinary(t)
	for name, s := range map[string]struct {
		signal syscall.Signal
		args   []string
		code   int
		says   string
	}{
		"SIGINT while modes run": {syscall.SIGINT, []string{"--handler-time", "50ms"}, exitInterrupted, "interrupted"},
		"SIGTERM while it fills": {syscall.SIGTERM, []string{"--growth", "--keys", "10000000"}, exitInterrupted, "interrupted"},
		"SIGINT with Watermill":  {syscall.SIGINT, []string{"--modes", "watermill", "--messages", "10", "--rounds", "1000"}, exitInterrupted, "interrupted"},
		"SIGKILL":                {syscall.SIGKILL, []string{"--handler-time", "50ms"}, -1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, s.args...)
			require.Eventually(t, func() bool { return strings.Contains(p.err.String(), "\n1 of ") }, patience, tick, "%s", &p.err)
			require.NoError(t, p.cmd.Process.Signal(s.signal))
			assert.Equal(t, s.code, p.wait(), p.err.String())
			assert.Contains(t, p.err.String(), s.says)
			assert.Empty(t, p.out.String())
			if s.signal == syscall.SIGKILL {
				for _, d := range mustGlob(t, filepath.Join(p.temp, "*", "nats")) {
					assert.Eventually(t, func() bool { _, err := os.Stat(d); return os.IsNotExist(err) }, patience, tick)
				}
				return // on some systems Redis outlives us then
			}
			p.nothingLeft()
		})
	}
}

func mustGlob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	return found
}
