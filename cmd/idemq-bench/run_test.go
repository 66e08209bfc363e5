package main

import (
	"context"
	"encoding/json"
	"net"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

// beBench makes this test binary behave as the program, so that tests run real processes, and the NATS server that it starts.
const beBench = "IDEMQ_TEST_BE_BENCH"

const (
	patience = 4 * time.Minute // for what takes a moment; a loaded machine takes many
	tick     = 10 * time.Millisecond
)

func TestMain(m *testing.M) {
	if os.Getenv(beBench) != "" {
		main()
		return
	}
	testserver.Main(m, testserver.VerifyLeaks())
}

// benchProcess is idemq-bench under way, with a folder of its own for temporary files.
type benchProcess struct {
	t        *testing.T
	cmd      *exec.Cmd
	temp     string
	out, err testserver.Buffer
}

func start(t *testing.T, args ...string) *benchProcess {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	p := &benchProcess{t: t, cmd: exec.CommandContext(ctx, self, args...), temp: t.TempDir()}
	// With the race detector a program sleeps for a second before it ends, unless told otherwise.
	p.cmd.Env = append(os.Environ(), beBench+"=1", "TMPDIR="+p.temp, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.WaitDelay = time.Second
	testserver.StartProgram(t, p.cmd)
	return p
}

// wait returns the exit code, -1 for a signal.
func (p *benchProcess) wait() int {
	p.t.Helper()
	return testserver.ExitCode(p.t, p.cmd, &p.err)
}

// report runs the program with --json, which must succeed, leave no file behind and print nothing but the report.
func runReport(t *testing.T, args ...string) (*report, *benchProcess) {
	t.Helper()
	p := start(t, append(args, "--json")...)
	require.Equal(t, exitFine, p.wait(), p.err.String())
	var r report
	d := json.NewDecoder(strings.NewReader(p.out.String()))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&r), p.out.String())
	assert.False(t, d.More(), "more than one object: %s", &p.out)
	assert.NotContains(t, p.err.String(), "\x1b", "standard error is no terminal")
	p.nothingLeft()
	assert.NotEmpty(t, r.Machine.CPU)
	assert.Positive(t, r.Machine.Cores)
	for _, version := range []string{r.Machine.NATS, r.Machine.Redis} {
		assert.Regexp(t, `\d+\.\d+`, version)
	}
	return &r, p
}

// nothingLeft waits until the servers that were started are gone, and their files.
func (p *benchProcess) nothingLeft() {
	p.t.Helper()
	for _, address := range p.servers() {
		assert.Eventually(p.t, func() bool {
			c, err := net.Dial("tcp", address)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		}, patience, tick, "%s still answers", address)
	}
	assert.Eventually(p.t, func() bool {
		files, err := os.ReadDir(p.temp)
		return err == nil && len(files) == 0
	}, patience, tick, "files are left in %s", p.temp)
}

var serversLine = regexp.MustCompile(`NATS (\S+), Redis (\S+)\n`)

// servers are the addresses that the program has printed.
func (p *benchProcess) servers() []string {
	found := serversLine.FindStringSubmatch(p.err.String())
	require.Len(p.t, found, 3, p.err.String())
	var addresses []string
	for _, s := range found[1:] {
		u, err := url.Parse(s)
		require.NoError(p.t, err)
		addresses = append(addresses, u.Host)
	}
	return addresses
}
