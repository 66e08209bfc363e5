package testserver

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// leakLooks is how often leaked goroutines are looked for; each look that finds
// some takes about half a second.
const leakLooks = 5

// Option changes what [Main] does after the tests.
type Option func(*settings)

type settings struct {
	verifyLeaks bool
	leakOptions []goleak.Option
	parallel    int // tests at a time; 0 for what go test says
}

// VerifyLeaks makes [Main] fail a run that passed but left goroutines behind
// once every shared server is stopped. Defaults to not looking.
func VerifyLeaks(opts ...goleak.Option) Option {
	return func(s *settings) {
		s.verifyLeaks = true
		s.leakOptions = append(s.leakOptions, opts...)
	}
}

// MostlyWaits is for tests that mostly wait for the end of leases: twice as many
// run at a time, unless -parallel says how many.
func MostlyWaits() Option {
	return func(s *settings) { s.parallel = 2 * runtime.GOMAXPROCS(0) }
}

// Main runs the tests of a package and ends the process with their exit code.
// Before that it stops the servers that the tests shared, removes their data,
// does what opts ask for, and prints one line for each kind of server for whose
// lack tests were skipped. It must be called from TestMain; the shared servers
// refuse to start without it, because nobody would stop them.
func Main(m *testing.M, opts ...Option) {
	os.Exit(runMain(m, os.Stdout, opts...))
}

// runMain is Main without the exit.
func runMain(m interface{ Run() int }, out io.Writer, opts ...Option) int {
	var set settings
	for _, opt := range opts {
		opt(&set)
	}
	if set.parallel > 0 {
		runAtOnce(set.parallel)
	}
	current.enter()
	code := m.Run()
	if err := current.close(); err != nil {
		_, _ = fmt.Fprintf(out, "testserver: stopping the shared servers: %v\n", err)
		code = max(code, 1)
	}
	if set.verifyLeaks && code == 0 {
		if err := findLeaks(set.leakOptions); err != nil {
			_, _ = fmt.Fprintf(out, "testserver: goroutines left behind by passing tests: %v\n", err)
			code = 1
		}
	}
	current.report(out)
	return code
}

// runAtOnce sets -parallel if it was not given.
func runAtOnce(n int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(n)) // it is there, and takes a number
	}
}

// findLeaks looks more than once, because a go-redis client that could not reach
// its server sleeps up to a second before it sees that it is closed.
func findLeaks(opts []goleak.Option) error {
	var err error
	for range leakLooks {
		if err = goleak.Find(opts...); err == nil {
			return nil
		}
	}
	return err
}

// process is what the tests of one process share.
type process struct {
	mu      sync.Mutex
	entered bool
	closers []func() error
	skips   []skipCount
}

type skipCount struct {
	kind, reason string
	tests        int
}

// current is the process that the tests run in.
var current = &process{}

func (p *process) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entered = true
}

// mustBeEntered fails the test unless [Main] is there to stop what it shares.
func (p *process) mustBeEntered(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.entered {
		t.Fatal("testserver: shared servers need func TestMain(m *testing.M) { testserver.Main(m) } in this package")
	}
}

// atExit registers what Main has to undo; the last registered is undone first.
func (p *process) atExit(f func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closers = append(p.closers, f)
}

func (p *process) close() error {
	p.mu.Lock()
	closers := p.closers
	p.closers = nil
	p.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (p *process) skipped(kind, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.skips {
		if p.skips[i].kind == kind {
			p.skips[i].tests++
			return
		}
	}
	p.skips = append(p.skips, skipCount{kind: kind, reason: reason, tests: 1})
}

// report prints the closing lines. go test hides the output of a package that
// passes when it runs a list of packages, which would make the skips silent; a
// person who watches gets the lines on the terminal as well.
func (p *process) report(out io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.skips) == 0 {
		return
	}
	name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".test")
	var lines strings.Builder
	for _, s := range p.skips {
		fmt.Fprintf(&lines, "testserver: %d %s tests of %s were SKIPPED: %s\n", s.tests, s.kind, name, s.reason)
	}
	_, _ = io.WriteString(out, lines.String())
	if testing.Verbose() || isTerminal(out) {
		return
	}
	if tty, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0); err == nil {
		_, _ = io.WriteString(tty, lines.String())
		_ = tty.Close()
	}
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
