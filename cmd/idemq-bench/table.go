package main

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// table is text for people.
type table struct {
	text   strings.Builder
	colour bool
}

func (t *table) linef(format string, args ...any) { fmt.Fprintf(&t.text, format+"\n", args...) }

// Colours of a terminal.
const (
	bold   = "\x1b[1m"
	green  = "\x1b[32m"
	normal = "\x1b[0m"
)

func (t *table) in(colour, s string) string {
	if !t.colour || colour == "" {
		return s
	}
	return colour + s + normal
}

// row is a line of a grid.
type row struct {
	colour string
	cells  []string
}

// grid prints rows below a heading, the first column to the left and the others to the right.
func (t *table) grid(heading []string, rows []row) {
	width := make([]int, len(heading))
	for _, r := range append([]row{{cells: heading}}, rows...) {
		for i, c := range r.cells {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range append([]row{{bold, heading}}, rows...) {
		var line strings.Builder
		for i, c := range r.cells {
			space := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if i == 0 {
				line.WriteString(c + space)
			} else {
				line.WriteString("  " + space + c)
			}
		}
		t.linef("%s", t.in(r.colour, strings.TrimRight(line.String(), " ")))
	}
}

func (t *table) results(results []result, s publishedSettings) {
	for i := 0; i < len(results); {
		workers := results[i].Workers
		t.linef("\n%s", t.in(bold, fmt.Sprintf("%d %s, %s messages", workers, plural("worker", workers), count(float64(results[i].Messages)))))
		heading := []string{"", "msg/s", "min–max", "of raw", "× naive"}
		if s.LatencyRate > 0 {
			heading = append(heading, fmt.Sprintf("added ms at %s/s: p50", count(float64(s.LatencyRate))), "p99")
		}
		heading = append(heading, "allocs", "bytes", "Redis cmds", "CPU µs: client", "Redis", "NATS")
		if s.Duplicates > 0 {
			heading = append(heading, "known here")
		}
		var rows []row
		for ; i < len(results) && results[i].Workers == workers; i++ {
			rows = append(rows, results[i].row(s))
		}
		t.grid(heading, rows)
	}
}

func (r result) row(s publishedSettings) row {
	cells := []string{r.Mode, count(r.Rate.Median), count(r.Rate.Min) + "–" + count(r.Rate.Max), ratio(r.OfRaw), ratio(r.OfNaive)}
	if s.LatencyRate > 0 {
		cells = append(cells, r.Latency.added()...)
	}
	cells = append(cells, count(r.Allocs), count(r.Bytes), fmt.Sprintf("%.2f", r.RedisCommands),
		micros(r.CPU.Client), micros(r.CPU.Redis), micros(r.CPU.NATS))
	if s.Duplicates > 0 {
		cells = append(cells, fmt.Sprintf("%.0f %%", r.HitRate*100))
	}
	colour := ""
	if r.Mode == "idemq" {
		colour = green
	}
	return row{colour, cells}
}

// added are the two cells of the added latency.
func (l *latencies) added() []string {
	switch {
	case l == nil || l.Added50 == nil:
		return []string{"–", "–"}
	case !l.KeptUp:
		return []string{"behind", "behind"}
	}
	return []string{fmt.Sprintf("%.2f", l.Added50.Median), fmt.Sprintf("%.2f", l.Added99.Median)}
}

func ratio(s *spread) string {
	if s == nil {
		return "–"
	}
	return fmt.Sprintf("%.2f", s.Median)
}

func micros(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", v)
}

// count prints a whole number in groups of three digits.
func count(v float64) string {
	s := fmt.Sprintf("%.0f", math.Round(v))
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
