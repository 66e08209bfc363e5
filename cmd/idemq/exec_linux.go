package main

import "syscall"

// groupAttributes also ends the command when we are killed ourselves.
func groupAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
