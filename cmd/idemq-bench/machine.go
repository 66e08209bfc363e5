package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
)

// machine is what the figures were taken on.
type machine struct {
	CPU    string  `json:"cpu"`
	Cores  int     `json:"cores"`
	Memory uint64  `json:"memory_bytes"`
	System string  `json:"system"`
	Load   float64 `json:"load_before"` // average of a minute: what else was running
	Go     string  `json:"go"`
	NATS   string  `json:"nats"`
	Redis  string  `json:"redis"`
}

// describeMachine also finds out whether the servers answer.
func describeMachine(ctx context.Context, srv *servers) (machine, error) {
	m := machine{Cores: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), CPU: "unknown"}
	if info, err := cpu.InfoWithContext(ctx); err == nil && len(info) > 0 && info[0].ModelName != "" {
		m.CPU = strings.Join(strings.Fields(info[0].ModelName), " ")
	}
	if info, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		m.Memory = info.Total
	}
	if avg, err := load.AvgWithContext(ctx); err == nil {
		m.Load = avg.Load1
	}
	rdb, err := openRedis(ctx, srv.redisURL)
	if err != nil {
		return m, err
	}
	defer func() { _ = rdb.Close() }()
	info, err := rdb.InfoMap(ctx, "server").Result()
	if err != nil {
		return m, fmt.Errorf("redis: %w", err)
	}
	m.Redis = redisVersion(info["Server"])
	nc, err := nats.Connect(srv.natsURL)
	if err != nil {
		return m, fmt.Errorf("NATS at %s: %w", redact(srv.natsURL), err)
	}
	defer nc.Close()
	m.NATS = nc.ConnectedServerVersion()
	return m, nil
}

func redisVersion(info map[string]string) string {
	if v := info["valkey_version"]; v != "" {
		return "Valkey " + v
	}
	return info["redis_version"]
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d GiB, %s, load %.1f before; %s, NATS %s, Redis %s",
		m.CPU, m.Cores, m.Memory>>30, m.System, m.Load, m.Go, m.NATS, m.Redis)
}

// commands counts the commands that a Redis server has run, by name.
func commands(ctx context.Context, rdb *redis.Client) (map[string]float64, error) {
	info, err := rdb.InfoMap(ctx, "commandstats").Result()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	counts := map[string]float64{}
	for field, stats := range info["Commandstats"] {
		name := strings.TrimPrefix(field, "cmdstat_")
		if command, _, _ := strings.Cut(name, "|"); notCounted[command] {
			continue
		}
		var calls float64
		if _, err := fmt.Sscanf(stats, "calls=%g,", &calls); err != nil {
			return nil, fmt.Errorf("redis: commandstats of %s: %q: %w", name, stats, err)
		}
		counts[name] = calls
	}
	return counts, nil
}

// notCounted are commands of connections and of this program's own questions.
var notCounted = map[string]bool{"info": true, "hello": true, "client": true, "ping": true, "flushall": true, "scan": true, "unlink": true, "script": true}
