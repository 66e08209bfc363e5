package main

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress says on standard error how far the run is: a bar on a terminal, lines elsewhere.
type progress struct {
	out      io.Writer
	terminal bool
	bar      *progressbar.ProgressBar
	at, of   int
}

func newProgress(out io.Writer) *progress {
	f, ok := out.(*os.File)
	return &progress{out: out, terminal: ok && term.IsTerminal(int(f.Fd()))} //nolint:gosec // a file descriptor is small
}

// note prints a line.
func (p *progress) note(format string, args ...any) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

// begin says how many steps there are.
func (p *progress) begin(steps int) {
	p.at, p.of = 0, steps
	if p.terminal {
		p.bar = progressbar.NewOptions(steps, progressbar.OptionSetWriter(p.out), progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish())
	}
}

// step says that the next step begins.
func (p *progress) step(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	p.at++
	if p.bar == nil {
		fmt.Fprintf(p.out, "%d of %d: %s\n", p.at, p.of, what)
		return
	}
	p.bar.Describe(what)
	_ = p.bar.Set(p.at - 1)
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
