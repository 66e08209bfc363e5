//go:build !unix

package main

import "syscall"

func ownGroup(bool) *syscall.SysProcAttr { return nil }
