//go:build !unix

package child

import "syscall"

func ownGroup(bool) *syscall.SysProcAttr { return nil }
