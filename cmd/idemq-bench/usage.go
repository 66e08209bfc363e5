package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/shirou/gopsutil/v4/process"
)

// usage is what has been used until a moment.
type usage struct {
	mallocs, bytes uint64
	commands       map[string]float64
	cpu            cpuSeconds
}

// cpuSeconds is CPU time by program; 0 for servers that were not started here.
type cpuSeconds struct{ client, redis, nats float64 }

func (b *bench) usage(ctx context.Context) (u usage, err error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.mallocs, u.bytes = m.Mallocs, m.TotalAlloc
	if u.commands, err = commands(ctx, b.rdb); err != nil {
		return u, err
	}
	if u.cpu.client, err = cpuOf(ctx, os.Getpid()); err != nil {
		return u, err
	}
	if b.redis != nil {
		if u.cpu.redis, err = cpuOf(ctx, b.redis.Cmd.Process.Pid); err != nil {
			return u, err
		}
	}
	if b.srv.nats != nil {
		u.cpu.nats, err = cpuOf(ctx, b.srv.nats.Cmd.Process.Pid)
	}
	return u, err
}

func cpuOf(ctx context.Context, pid int) (float64, error) {
	p, err := process.NewProcessWithContext(ctx, int32(pid)) //nolint:gosec // a process id
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	t, err := p.TimesWithContext(ctx)
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return t.User + t.System, nil
}

// per returns what was used since earlier, for each of n messages.
func (u usage) per(n int64, earlier usage, into *measured) {
	of := 1 / float64(n)
	into.allocs, into.bytes = float64(u.mallocs-earlier.mallocs)*of, float64(u.bytes-earlier.bytes)*of
	into.commands = map[string]float64{}
	for name, calls := range u.commands {
		if calls -= earlier.commands[name]; calls > 0 {
			into.commands[name] = calls * of
			into.allCommands += calls * of
		}
	}
	const micro = 1e6
	into.cpu = cpuSeconds{
		(u.cpu.client - earlier.cpu.client) * micro * of, (u.cpu.redis - earlier.cpu.redis) * micro * of, (u.cpu.nats - earlier.cpu.nats) * micro * of,
	}
}
