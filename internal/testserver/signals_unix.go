//go:build unix

package testserver

import (
	"os"
	"syscall"
)

// suspend stops a process without ending it: it keeps its connections and
// answers nobody.
func suspend(p *os.Process) error { return p.Signal(syscall.SIGSTOP) }

// resume lets a suspended process go on.
func resume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
