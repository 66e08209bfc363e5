package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWrongFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for line, want := range map[string]string{
		"--workers 0":                             "--workers 0: use 1 to 10000",
		"--workers 4,4":                           "4 is there twice",
		"--workers many":                          `invalid argument "many"`,
		"--messages 5":                            "--messages 5: use 10 to 10000000",
		"--payload -1":                            "--payload -1: use 0 to 524288 bytes",
		"--duplicates 1":                          "--duplicates 1: use a part between 0 and 0.99",
		"--duplicates NaN":                        "--duplicates NaN",
		"--handler-time -1s":                      "--handler-time -1s",
		"--handler-time 5":                        "missing unit",
		"--rounds 0":                              "--rounds 0: use 1 to 1000",
		"--latency-rate -1":                       "--latency-rate -1",
		"--modes raw,raw":                         "raw is there twice",
		"--modes fast":                            `no mode "fast"; there are raw, raw-callback, naive`,
		"--plot out.png":                          "must end in .svg",
		"--plot /nowhere/at/all/out.svg":          "there is no folder /nowhere/at/all",
		"--plot " + file + "/out.svg":             "there is no folder " + file,
		"--nats nowhere":                          "is not a URL such as nats://",
		"--redis 127.0.0.1:6379":                  "is not a URL such as redis://",
		"--redis http://127.0.0.1":                "use redis:// or rediss://",
		"--redis redis://127.0.0.1 --aof":         "leave --redis out",
		"--growth --memory":                       "give one of them",
		"--growth --keys 100":                     "--keys 100: use 10000 to",
		"--memory --keys 100":                     "--keys 100: use 1000 to",
		"--keys 1000000":                          "--keys is for --growth and --memory",
		"--growth --redis redis://127.0.0.1:6379": "leave --nats and --redis out",
		"--no-such-flag":                          "unknown flag: --no-such-flag; see idemq-bench --help",
		"compare":                                 "unknown",
	} {
		var out, errOut bytes.Buffer
		code := run(context.Background(), strings.Fields(line), strings.NewReader(""), &out, &errOut)
		assert.Equal(t, exitUsage, code, line)
		assert.Contains(t, errOut.String(), want, line)
		assert.True(t, strings.HasPrefix(errOut.String(), "idemq-bench: "), errOut.String())
		assert.Equal(t, 1, strings.Count(errOut.String(), "\n"), "one line: %s", &errOut)
		assert.Empty(t, out.String(), line)
	}
}

func TestPasswordsStayHidden(t *testing.T) {
	var out, errOut bytes.Buffer
	args := []string{"--nats", "nats://127.0.0.1:1", "--redis", "redis://user:hush@127.0.0.1:1"}
	assert.Equal(t, exitFailed, run(t.Context(), args, strings.NewReader(""), &out, &errOut))
	assert.Contains(t, errOut.String(), "redis at redis://user:xxxxx@127.0.0.1:1")
	assert.NotContains(t, errOut.String(), "hush")
}

func TestWithoutARedisServer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("TMPDIR", t.TempDir())
	var out, errOut bytes.Buffer
	assert.Equal(t, exitFailed, run(t.Context(), nil, strings.NewReader(""), &out, &errOut))
	assert.Contains(t, errOut.String(), "no redis-server on PATH; install it, or give a server with --redis")
	files, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, files)
}

func TestHelp(t *testing.T) {
	var out, errOut bytes.Buffer
	require.Equal(t, exitFine, run(t.Context(), []string{"--help"}, strings.NewReader(""), &out, &errOut))
	for _, m := range allModes() {
		assert.Contains(t, out.String(), m.name+" ")
		assert.Contains(t, out.String(), m.about)
	}
	for _, want := range []string{"Examples:", "--growth --keys 1000000", "Exit codes: 0 fine, 1 failed, 2 usage, 130"} {
		assert.Contains(t, out.String(), want)
	}
	assert.NotContains(t, out.String(), natsCommandName+" ", "a command for this program alone")
	assert.Empty(t, errOut.String())
}

func TestKeys(t *testing.T) {
	for _, part := range []float64{0, 0.1, 0.5, 0.99} {
		const messages = 1000
		of, distinct := keys(messages, part)
		assert.Equal(t, messages-int(messages*part), distinct, "as many duplicates as were asked for")
		seen := map[int]bool{}
		for _, k := range of {
			assert.True(t, seen[k] || k == len(seen), "a duplicate of what has not come yet")
			seen[k] = true
		}
		assert.Len(t, seen, distinct)
		again, _ := keys(messages, part)
		assert.Equal(t, of, again, "each run has the same")
	}
}

func TestATrialThatSkipsHandlersFails(t *testing.T) {
	trial := &trial{total: 10, distinct: 7}
	trial.handled.Store(8)
	require.ErrorContains(t, trial.checkHandlers(mode{group: groupOurs}), "8 handlers ran for 7 keys")
	require.ErrorContains(t, trial.checkHandlers(mode{group: groupNone}), "8 handlers ran for 10 messages")
	trial.handled.Store(7)
	require.NoError(t, trial.checkHandlers(mode{group: groupUsual}))
}

func TestATrialThatStallsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trial := &trial{total: 10}
		ctx, stop := trial.watch(t.Context())
		defer stop()
		begun := time.Now()
		<-time.After(stallLimit / 2)
		trial.done.Add(1)
		<-ctx.Done()
		require.ErrorIs(t, context.Cause(ctx), errStalled)
		assert.Greater(t, time.Since(begun), stallLimit, "what came meanwhile counts")
	})
}

func TestSpreads(t *testing.T) {
	assert.Equal(t, spread{2, 1, 9}, spreadOf([]float64{9, 1, 2}))
	assert.Equal(t, spread{3, 1, 9}, spreadOf([]float64{9, 4, 1, 2}))
	assert.Equal(t, spread{}, spreadOf(nil))
	rounds := map[string][]measured{
		rawMode: {{rate: 100, p99: 1, latency: true, keptUp: true}, {rate: 10, p99: 5, latency: true, keptUp: true}},
		"idemq": {{rate: 50, p99: 3, latency: true, keptUp: true}, {rate: 9, p99: 6, latency: true}},
	}
	r := summarize(mode{name: "idemq"}, 4, 10, rounds)
	assert.InDelta(t, 0.7, r.OfRaw.Median, 1e-9, "rounds are compared with themselves")
	assert.Nil(t, r.OfNaive)
	assert.InDelta(t, 1.5, r.Latency.Added99.Median, 1e-9)
	assert.False(t, r.Latency.KeptUp, "one round is enough")
	assert.Equal(t, []string{"behind", "behind"}, r.Latency.added())
}

func TestPlotsOfManyLayouts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "growth.svg")
	r := &report{Growth: []grown{
		{Layout: "readable", Keys: 10_000, Ratio: spread{1, 0.9, 1.1}, Memory: 2 << 20, PerKey: 200},
		{Layout: "readable", Keys: 100_000, Ratio: spread{0.95, 0.9, 1}, Memory: 20 << 20, PerKey: 200},
		{Layout: "other", Keys: 10_000, Ratio: spread{1, 0.9, 1.1}, PerKey: 0},
	}}
	require.NoError(t, drawReport(r, path))
	texts := textsOf(t, path)
	for _, want := range []string{"layout: readable", "layout: other", "0.95", "200 bytes a key", "100,000"} {
		assert.Contains(t, texts, want)
	}
	r = &report{Results: []result{
		{Workers: 1, Mode: rawMode, Group: string(groupNone), Rate: spread{100, 90, 110}},
		{Workers: 1, Mode: "idemq", Group: string(groupOurs), Rate: spread{50, 40, 60}, OfRaw: &spread{0.5, 0.4, 0.6}, Latency: &latencies{Added99: &spread{}}},
	}, Settings: publishedSettings{LatencyRate: 5000}}
	require.NoError(t, drawReport(r, path))
	texts = textsOf(t, path)
	for _, want := range []string{"50 = 0.50 of raw", "cannot keep up", "1 handler at once", "at 5,000 messages a second"} {
		assert.Contains(t, texts, want)
	}
	require.Error(t, drawReport(r, t.TempDir()), "a folder")
}

func TestColoursAreForTerminals(t *testing.T) {
	assert.False(t, hasColours(&bytes.Buffer{}))
	plain, coloured := &table{}, &table{colour: true}
	for _, tb := range []*table{plain, coloured} {
		tb.grid([]string{"", "a"}, []row{{green, []string{"x", "1"}}})
	}
	assert.Equal(t, "   a\nx  1\n", plain.text.String())
	assert.Contains(t, coloured.text.String(), green+"x  1"+normal)
	assert.Equal(t, "1,234,567", count(1234567))
	assert.Equal(t, "999", count(999))
}

func TestCommandsOfNobodyElseAreRemoved(t *testing.T) {
	require.ErrorContains(t, removeKeys(t.Context(), nil, ""), "no prefix of this program")
}
