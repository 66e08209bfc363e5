package testserver

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { Main(m, VerifyLeaks()) }

// fakeRun stands for the tests of a package.
type fakeRun func() int

func (f fakeRun) Run() int { return f() }

// isolated gives the test a process state of its own.
func isolated(t *testing.T) {
	t.Helper()
	saved := current
	current = &process{}
	t.Cleanup(func() { current = saved })
}

func TestMainStopsWhatWasSharedInReverse(t *testing.T) {
	isolated(t)
	var order []string
	var out bytes.Buffer
	code := runMain(fakeRun(func() int {
		current.atExit(func() error { order = append(order, "directory"); return nil })
		current.atExit(func() error { order = append(order, "server"); return nil })
		return 0
	}), &out)
	assert.Zero(t, code)
	assert.Equal(t, []string{"server", "directory"}, order)
	assert.Empty(t, out.String())
}

func TestMainFailsIfAServerDoesNotStop(t *testing.T) {
	isolated(t)
	var out bytes.Buffer
	code := runMain(fakeRun(func() int {
		current.atExit(func() error { return errors.New("stuck") })
		return 0
	}), &out)
	assert.Equal(t, 1, code)
	assert.Contains(t, out.String(), "stuck")
}

func TestMainKeepsTheExitCode(t *testing.T) {
	isolated(t)
	assert.Equal(t, 3, runMain(fakeRun(func() int { return 3 }), &bytes.Buffer{}))
}

func TestMainFindsLeaks(t *testing.T) {
	isolated(t)
	stop := make(chan struct{})
	defer close(stop)
	ignore := goleak.IgnoreCurrent()
	var out bytes.Buffer
	code := runMain(fakeRun(func() int {
		go func() { <-stop }()
		return 0
	}), &out, VerifyLeaks(ignore))
	assert.Equal(t, 1, code)
	assert.Contains(t, out.String(), "goroutines left behind")
}

func TestMainSaysOnceWhatWasSkipped(t *testing.T) {
	isolated(t)
	t.Setenv(envRequire, "")
	var out bytes.Buffer
	code := runMain(fakeRun(func() int {
		for range 3 {
			assert.True(t, runs(t, func(t testing.TB) { skip(t, "redis", "redis", "none found") }).Skipped())
		}
		return 0
	}), &out)
	assert.Zero(t, code)
	assert.Equal(t, "testserver: 3 redis tests of testserver were SKIPPED: none found\n", out.String())
}

func TestRequirementTurnsASkipIntoAFailure(t *testing.T) {
	isolated(t)
	t.Setenv(envRequire, "docker, redis")
	got := runs(t, func(t testing.TB) { skip(t, "redis", "redis", "none found") })
	assert.True(t, got.Failed())
	assert.False(t, got.Skipped())
	assert.True(t, required("docker"))
	assert.False(t, required("postgres"))
}

func TestSharedServersNeedMain(t *testing.T) {
	isolated(t)
	assert.True(t, runs(t, func(t testing.TB) { SharedNATS(t) }).Failed())
	assert.True(t, runs(t, func(t testing.TB) { Redis(t) }).Failed())
}

// verdict records how a test ended without ending the test around it.
type verdict struct {
	testing.TB // for the methods that the servers under test do not call
	failed     bool
	skipped    bool
}

func (v *verdict) Helper()               {}
func (v *verdict) Failed() bool          { return v.failed }
func (v *verdict) Skipped() bool         { return v.skipped }
func (v *verdict) Fatal(...any)          { v.failed = true; panic(v) }
func (v *verdict) Fatalf(string, ...any) { v.failed = true; panic(v) }
func (v *verdict) Skipf(string, ...any)  { v.skipped = true; panic(v) }

// runs calls f with a test of its own and returns how that ended.
func runs(t *testing.T, f func(testing.TB)) *verdict {
	t.Helper()
	v := &verdict{TB: t}
	func() {
		defer func() {
			if r := recover(); r != nil {
				require.Same(t, v, r)
			}
		}()
		f(v)
	}()
	return v
}
