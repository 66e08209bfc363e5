package child

import "syscall"

// ownGroup gives a process its own group; if it diesWithUs, it is killed when we are killed ourselves.
func ownGroup(diesWithUs bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if diesWithUs {
		a.Pdeathsig = syscall.SIGKILL
	}
	return a
}
