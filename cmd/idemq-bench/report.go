package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// report is the JSON object that --json prints.
type report struct {
	Machine  machine           `json:"machine"`
	Settings publishedSettings `json:"settings"`
	Seconds  float64           `json:"seconds"`
	Results  []result          `json:"results,omitempty"`
	Growth   []grown           `json:"growth,omitempty"`
	Memory   []remembered      `json:"memory,omitempty"`
}

type publishedSettings struct {
	Messages    int     `json:"messages,omitempty"` // of a trial, and 0 where there are none, like what follows
	Payload     int     `json:"payload_bytes"`
	Duplicates  float64 `json:"duplicates"`
	HandlerTime string  `json:"handler_time"`
	ConfirmAcks bool    `json:"confirm_acks"`
	AOF         bool    `json:"aof"`
	Rounds      int     `json:"rounds,omitempty"`
	LatencyRate int     `json:"latency_rate"`
	Workers     int     `json:"workers,omitempty"` // with --growth
	Keys        int     `json:"keys,omitempty"`
}

// result is what a mode did with so many workers.
type result struct {
	Workers       int                `json:"workers"`
	Mode          string             `json:"mode"`
	About         string             `json:"about"`
	Group         string             `json:"group"`
	Messages      int                `json:"messages"`
	Handled       int64              `json:"handled"` // how many handlers ran
	Rate          spread             `json:"messages_per_second"`
	OfRaw         *spread            `json:"of_raw,omitempty"`
	OfNaive       *spread            `json:"of_naive,omitempty"`
	Latency       *latencies         `json:"latency_ms,omitempty"`
	Allocs        float64            `json:"allocs_per_message"`
	Bytes         float64            `json:"bytes_per_message"`
	RedisCommands float64            `json:"redis_commands_per_message"`
	Commands      map[string]float64 `json:"redis_commands"`
	CPU           cpuMicros          `json:"cpu_us_per_message"`
	HitRate       float64            `json:"hit_rate"` // of duplicates known without asking the store
}

type cpuMicros struct {
	Client float64 `json:"client"`
	Redis  float64 `json:"redis"`
	NATS   float64 `json:"nats"`
}

// latencies are from publishing to done; the added ones less what raw took in the same round.
type latencies struct {
	P50     spread  `json:"p50"`
	P99     spread  `json:"p99"`
	Added50 *spread `json:"added_p50,omitempty"`
	Added99 *spread `json:"added_p99,omitempty"`
	KeptUp  bool    `json:"kept_up"` // with the rate, in every round
}

// print writes the report.
func (r *report) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	t := &table{colour: hasColours(out)}
	t.linef("%s", r.Machine)
	t.linef("%s", r.Settings)
	switch {
	case r.Growth != nil:
		t.growth(r.Growth)
	case r.Memory != nil:
		t.memory(r.Memory)
	default:
		t.results(r.Results, r.Settings)
	}
	_, err := io.WriteString(out, t.text.String())
	return err
}

func (p publishedSettings) String() string {
	var parts []string
	if p.Keys > 0 {
		parts = append(parts, count(float64(p.Keys))+" keys")
	}
	if p.Rounds > 0 {
		parts = append(parts, fmt.Sprintf("%d-byte payloads", p.Payload), fmt.Sprintf("%g %% duplicates", p.Duplicates*100),
			"handlers that wait "+p.HandlerTime, fmt.Sprintf("%d %s", p.Rounds, plural("round", p.Rounds)))
	}
	if p.Workers > 0 {
		parts = append(parts, fmt.Sprintf("%d %s, %s messages a round", p.Workers, plural("worker", p.Workers), count(float64(p.Messages))))
	}
	if p.ConfirmAcks {
		parts = append(parts, "acks confirmed")
	}
	if p.AOF {
		parts = append(parts, "append-only file")
	}
	return strings.Join(parts, ", ")
}

// hasColours says whether text may be coloured there.
func hasColours(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor is small
}
