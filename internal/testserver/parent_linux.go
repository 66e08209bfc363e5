package testserver

import "syscall"

// diesWithParent makes a child end when the test process is killed.
func diesWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
