//go:build !unix

package testserver

import "syscall"

func giveAway(...string) (*syscall.SysProcAttr, error) { return &syscall.SysProcAttr{}, nil }
