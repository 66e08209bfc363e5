package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

// beIdemq makes this test binary behave as the program, so that tests run real processes, and the demo's workers too.
const beIdemq = "IDEMQ_TEST_BE_IDEMQ"

// demoWorkerFails makes the demo's workers end at once.
const demoWorkerFails = "IDEMQ_TEST_DEMO_WORKER_FAILS"

const (
	patience = 60 * time.Second // for what takes a moment; a loaded machine takes many
	tick     = 10 * time.Millisecond
)

func TestMain(m *testing.M) {
	if os.Getenv(beIdemq) != "" {
		if os.Getenv(demoWorkerFails) != "" && os.Args[1] == "demo-worker" {
			os.Exit(exitFailed)
		}
		if os.Args[1] == "demo-worker" && strings.Contains(strings.Join(os.Args, " "), secret) {
			os.Exit(exitFailed) // everybody can read arguments
		}
		main()
		return
	}
	testserver.Main(m, testserver.VerifyLeaks())
}

// process is idemq under way.
type process struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err testserver.Buffer
}

// environment is this one without what would choose servers, contexts included, and with what is given.
func environment(extra ...string) []string {
	env := []string{beIdemq + "=1", "XDG_CONFIG_HOME=" + os.DevNull + ".d"} // which is not there
	// With the race detector a program sleeps for a second before it ends, unless told otherwise.
	env = append(env, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "NATS_") && !strings.HasPrefix(v, "IDEMQ_STORE=") && !strings.HasPrefix(v, "XDG_CONFIG_HOME=") &&
			!strings.HasPrefix(v, "GORACE=") {
			env = append(env, v)
		}
	}
	return append(env, extra...)
}

// command prepares idemq with these arguments. Nothing that it starts outlives the test.
func command(t *testing.T, args ...string) *process {
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	p := &process{t: t, cmd: exec.CommandContext(ctx, self, args...)}
	p.cmd.Env = environment()
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.WaitDelay = time.Second
	return p
}

func (p *process) start() *process {
	testserver.StartProgram(p.t, p.cmd)
	return p
}

// wait returns the exit code, -1 for a signal.
func (p *process) wait() int {
	p.t.Helper()
	return testserver.ExitCode(p.t, p.cmd, &p.err)
}

// says waits until the process has printed this.
func (p *process) says(b *testserver.Buffer, what string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(b.String(), what) }, patience, tick,
		"%v never printed %q; standard error: %s", p.cmd.Args[1:], what, &p.err)
}

// idemq runs the program and returns it with its exit code.
func idemq(t *testing.T, args ...string) (*process, int) {
	t.Helper()
	p := command(t, args...).start()
	return p, p.wait()
}

// fine runs the program, which must succeed.
func fine(t *testing.T, args ...string) *process {
	t.Helper()
	p, code := idemq(t, args...)
	require.Equal(t, exitFine, code, p.err.String())
	return p
}

// objects reads standard output, which must hold nothing but JSON objects with exactly these fields.
func (p *process) objects(fields ...string) []map[string]any {
	p.t.Helper()
	var all []map[string]any
	for line := range strings.Lines(p.out.String()) {
		var o map[string]any
		require.NoError(p.t, json.Unmarshal([]byte(line), &o), "not JSON: %q", line)
		var have []string
		for f := range o {
			have = append(have, f)
		}
		assert.ElementsMatch(p.t, fields, have)
		all = append(all, o)
	}
	return all
}

// object is objects for one.
func (p *process) object(fields ...string) map[string]any {
	p.t.Helper()
	all := p.objects(fields...)
	require.Len(p.t, all, 1, p.out.String())
	return all[0]
}

// number is a field that holds a whole number.
func number(o map[string]any, field string) int {
	n, _ := o[field].(float64)
	return int(n)
}
