package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// confirm asks a person. Where nobody can answer it refuses: silence is not a yes.
func (a *app) confirm(question string) error {
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) { //nolint:gosec // a file descriptor is small
		return usagef("this cannot be undone, and there is no terminal to ask on; give --force if you mean it")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", printable(question))
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err == nil && strings.EqualFold(strings.TrimSpace(answer), "y") {
		return nil
	}
	return errors.New("nothing was changed")
}
