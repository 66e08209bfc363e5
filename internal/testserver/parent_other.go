//go:build !linux

package testserver

import "syscall"

func diesWithParent(*syscall.SysProcAttr) {}
