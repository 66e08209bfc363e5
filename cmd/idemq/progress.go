package main

import (
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far a long command is, if there is a terminal to show it on.
type progress struct{ bar *progressbar.ProgressBar }

func (a *app) progress(total int) progress {
	f, ok := a.err.(*os.File)
	if !ok || total < 2 || !term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor is small
		return progress{}
	}
	return progress{progressbar.NewOptions(total, progressbar.OptionSetWriter(f), progressbar.OptionShowCount(),
		progressbar.OptionShowIts(), progressbar.OptionClearOnFinish())}
}

func (p progress) set(n int) {
	if p.bar != nil {
		_ = p.bar.Set(n)
	}
}

func (p progress) add() {
	if p.bar != nil {
		_ = p.bar.Add(1)
	}
}

// clear makes room for a line of text.
func (p progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

func (p progress) finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
