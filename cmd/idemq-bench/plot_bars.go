package main

import (
	"fmt"
	"image/color"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
)

// bar is a bar with a text behind it.
type bar struct {
	name, label string
	colour      color.Color
	value       spread
	whisker     bool // from Min to Max
}

const (
	barWidth  = 11 * vg.Length(1)
	barSpace  = 17 * vg.Length(1)
	barsFrame = 62 * vg.Length(1) // what a plot of bars takes beside them
)

// barPlot draws bars to the right, the first on top; roomFor is the part of the width that is left to the texts.
func barPlot(title, x string, bars []bar, roomFor float64, named bool) (*plot.Plot, error) {
	p := newPlot(title, x)
	longest := 0.0
	for _, b := range bars {
		longest = max(longest, b.value.Median, b.value.Max)
	}
	if longest == 0 {
		longest = 1
	}
	bars = slices.Clone(bars)
	slices.Reverse(bars) // from below
	names := make([]string, len(bars))
	var labels plotter.XYLabels
	var whiskers plotter.XYs
	var ends plotter.XErrors
	for i, b := range bars {
		if named {
			names[i] = b.name
		}
		one, err := plotter.NewBarChart(plotter.Values{max(0, b.value.Median)}, barWidth)
		if err != nil {
			return nil, err
		}
		one.Horizontal, one.XMin, one.Color, one.LineStyle.Width = true, float64(i), b.colour, 0
		p.Add(one)
		at := max(0, b.value.Median)
		if b.whisker {
			whiskers = append(whiskers, plotter.XY{X: b.value.Median, Y: float64(i)})
			ends = append(ends, struct{ Low, High float64 }{b.value.Median - b.value.Min, b.value.Max - b.value.Median})
			at = max(at, b.value.Max)
		}
		labels.XYs = append(labels.XYs, plotter.XY{X: at, Y: float64(i)})
		labels.Labels = append(labels.Labels, b.label)
	}
	if len(whiskers) > 0 {
		lines, err := plotter.NewXErrorBars(struct {
			plotter.XYs
			plotter.XErrors
		}{whiskers, ends})
		if err != nil {
			return nil, err
		}
		lines.CapWidth, lines.Width = vg.Points(5), vg.Points(0.7)
		p.Add(lines)
	}
	texts, err := plotter.NewLabels(labels)
	if err != nil {
		return nil, err
	}
	for i := range texts.TextStyle {
		texts.TextStyle[i].Font, texts.TextStyle[i].YAlign = sans(labelSize), text.YCenter
	}
	texts.Offset = vg.Point{X: vg.Points(5)}
	p.Add(texts)
	p.NominalY(names...)
	p.Y.Width, p.Y.Tick.Width = 0, 0
	p.X.Min, p.X.Max = 0, longest/(1-roomFor)
	p.X.Tick.Marker = plot.TickerFunc(func(low, _ float64) []plot.Tick { // none below the texts
		ticks := plot.DefaultTicks{}.Ticks(low, longest)
		for i := range ticks {
			if ticks[i].Label != "" {
				ticks[i].Label = shortNumber(ticks[i].Value)
			}
		}
		return ticks
	})
	return p, nil
}

func heightOf(bars []bar) vg.Length { return barsFrame + barSpace*vg.Length(len(bars)) }

// shortNumber is a number of an axis.
func shortNumber(v float64) string {
	if v >= 1000 || v == float64(int(v)) {
		return count(v)
	}
	return fmt.Sprintf("%g", v)
}

// resultsFigure has a row for each number of workers: throughput, and the latency that is added.
func resultsFigure(results []result, s publishedSettings) (panels, error) {
	f := panels{
		title:    "What deduplication costs a JetStream consumer",
		subtitle: "Messages a second through each way to consume, at each number of workers. Longer is better.",
		shares:   []float64{1, 0},
		notes: []string{
			"Bars are medians of the rounds, lines reach from the slowest to the fastest. Ratios are medians of the ratios within each round:",
			"to “raw”, workers that only acknowledge, and to “naive”, SETNX before and SET after the handler.",
		},
	}
	if s.LatencyRate > 0 {
		f.subtitle = strings.TrimSuffix(f.subtitle, ".") + " on the left, shorter on the right."
		f.shares = []float64{0.64, 0.36}
		f.notes = append(f.notes, fmt.Sprintf("Added latency: from publishing to done, less what “raw” takes, at %s messages a second.", count(float64(s.LatencyRate))))
	}
	for i := 0; i < len(results); {
		workers := results[i].Workers
		var rates, waits []bar
		for ; i < len(results) && results[i].Workers == workers; i++ {
			r := results[i]
			f.addLegend(group(r.Group))
			rates = append(rates, bar{name: r.Mode, label: r.label(), colour: colours[group(r.Group)], value: r.Rate, whisker: true})
			waits = append(waits, r.wait())
		}
		left, err := barPlot(fmt.Sprintf("%d %s at once", workers, plural("handler", workers)), "messages a second", rates, 0.42, true)
		if err != nil {
			return f, err
		}
		row := []*plot.Plot{left}
		if s.LatencyRate > 0 {
			right, err := barPlot("added latency, 99th percentile", "milliseconds", waits, 0.55, true)
			if err != nil {
				return f, err
			}
			row = append(row, right)
		}
		f.rows, f.heights = append(f.rows, row), append(f.heights, heightOf(rates))
	}
	for _, r := range results {
		if r.Workers == results[0].Workers {
			f.notes = append(f.notes, r.Mode+": "+r.About)
		}
	}
	return f, nil
}

func (f *panels) addLegend(g group) {
	e := entry{string(g), colours[g]}
	if !slices.Contains(f.legend, e) {
		f.legend = append(f.legend, e)
	}
}

// label is the text behind the bar of the throughput.
func (r result) label() string {
	l := count(r.Rate.Median)
	if r.OfRaw != nil && r.Mode != rawMode {
		l += fmt.Sprintf(" = %.2f of raw", r.OfRaw.Median)
	}
	if r.OfNaive != nil && r.Mode != naiveMode && r.Group != string(groupNone) {
		l += fmt.Sprintf(", %.1f × naive", r.OfNaive.Median)
	}
	return l
}

// wait is the bar of the latency.
func (r result) wait() bar {
	b := bar{name: r.Mode, colour: colours[group(r.Group)]}
	switch l := r.Latency; {
	case r.Mode == rawMode:
		b.label = "0 by definition"
	case l == nil || l.Added99 == nil:
		b.label = "not known without raw"
	case !l.KeptUp:
		b.label = "cannot keep up"
	default:
		b.value = *l.Added99
		b.label = fmt.Sprintf("%.2f (median %.2f)", l.Added99.Median, l.Added50.Median)
	}
	return b
}

// memoryFigure is one plot.
func memoryFigure(all []remembered) (panels, error) {
	f := panels{
		title:    "Memory for a remembered key",
		subtitle: "Ids of 36 characters. Less is better. All but “setnx” keep what protects the key: fence, attempt, fingerprint.",
		shares:   []float64{1},
	}
	var bars []bar
	for _, r := range all {
		f.addLegend(group(r.Group))
		b := bar{name: r.Where, colour: colours[group(r.Group)], value: spread{Median: r.PerKey}, label: fmt.Sprintf("%.0f bytes", r.PerKey)}
		if all[0].PerKey > 0 && r.Where != all[0].Where {
			b.label += fmt.Sprintf(" = %.2f × %s", r.PerKey/all[0].PerKey, all[0].Where)
		}
		bars = append(bars, b)
	}
	p, err := barPlot("", "bytes a key", bars, 0.3, true)
	f.rows, f.heights = [][]*plot.Plot{{p}}, []vg.Length{heightOf(bars)}
	return f, err
}
