package main

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// layoutColours are those of the lines, in the order of the layouts.
var layoutColours = []color.Color{
	color.RGBA{R: 0x00, G: 0x72, B: 0xb2, A: 0xff}, color.RGBA{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff},
	color.RGBA{R: 0x00, G: 0x9e, B: 0x73, A: 0xff}, color.RGBA{R: 0xcc, G: 0x79, B: 0xa7, A: 0xff},
}

const growthHeight = 260 * vg.Length(1)

// growthFigure has the speed and the memory over the number of keys, one line for each layout.
func growthFigure(all []grown) (panels, error) {
	f := panels{
		title: "How idemq grows with what Redis remembers",
		subtitle: fmt.Sprintf("Left: the worker's speed on a Redis with so many keys, as part of its speed on one with %s, measured in turns. Right: its memory.",
			count(smallestGrowth)),
		shares:  []float64{0.5, 0.5},
		heights: []vg.Length{growthHeight},
		notes:   []string{"Points are medians of the rounds, lines through them reach from the smallest to the largest. 1.00 means that the keys cost nothing."},
	}
	speed, memory := newPlot("speed", "keys remembered"), newPlot("memory", "keys remembered")
	speed.Y.Label.Text, memory.Y.Label.Text = fmt.Sprintf("part of the speed with %s keys", count(smallestGrowth)), "MiB"
	var layouts []string
	for _, g := range all {
		if !slices.Contains(layouts, g.Layout) {
			layouts = append(layouts, g.Layout)
		}
	}
	for i, l := range layouts {
		colour := layoutColours[i%len(layoutColours)]
		f.legend = append(f.legend, entry{"layout: " + l, colour})
		if err := growthLines(speed, memory, slices.DeleteFunc(slices.Clone(all), func(g grown) bool { return g.Layout != l }), colour); err != nil {
			return f, err
		}
	}
	largest, least, most := 1.0, math.Inf(1), 0.0
	first, last := math.Inf(1), 0.0
	for _, g := range all {
		first, last = min(first, float64(g.Keys)), max(last, float64(g.Keys))
		largest, least, most = max(largest, g.Ratio.Max), min(least, g.mebibytes()), max(most, g.mebibytes())
	}
	for _, p := range []*plot.Plot{speed, memory} {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, powersOfTen
		p.X.Min, p.X.Max = first*0.6, last*4
		p.Add(plotter.NewGrid())
	}
	speed.Y.Min, speed.Y.Max = 0, largest*1.15
	memory.Y.Scale, memory.Y.Tick.Marker = plot.LogScale{}, powersOfTen
	memory.Y.Min, memory.Y.Max = least/3, most*3
	f.rows = [][]*plot.Plot{{speed, memory}}
	return f, nil
}

// powersOfTen are the ticks of a logarithmic axis.
var powersOfTen = plot.TickerFunc(func(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		if v := math.Pow(10, e); v >= low && v <= high {
			ticks = append(ticks, plot.Tick{Value: v, Label: shortNumber(v)})
		}
	}
	return ticks
})

// mebibytes are at least a few, since a logarithm needs something.
func (g grown) mebibytes() float64 { return max(float64(g.Memory)/(1<<20), 0.01) }

// growthLines draws one layout.
func growthLines(speed, memory *plot.Plot, points []grown, colour color.Color) error {
	var ratios, sizes plotter.XYs
	var ends plotter.YErrors
	ratioTexts, sizeTexts := plotter.XYLabels{}, plotter.XYLabels{}
	for _, g := range points {
		x, mib := float64(g.Keys), g.mebibytes()
		ratios, sizes = append(ratios, plotter.XY{X: x, Y: g.Ratio.Median}), append(sizes, plotter.XY{X: x, Y: mib})
		ends = append(ends, struct{ Low, High float64 }{g.Ratio.Median - g.Ratio.Min, g.Ratio.Max - g.Ratio.Median})
		ratioTexts.XYs = append(ratioTexts.XYs, plotter.XY{X: x, Y: g.Ratio.Median})
		ratioTexts.Labels = append(ratioTexts.Labels, fmt.Sprintf("%.2f", g.Ratio.Median))
		sizeTexts.Labels = append(sizeTexts.Labels, fmt.Sprintf("%.0f bytes a key", g.PerKey))
	}
	sizeTexts.XYs = sizes
	spreads, err := plotter.NewYErrorBars(struct {
		plotter.XYs
		plotter.YErrors
	}{ratios, ends})
	if err != nil {
		return err
	}
	spreads.Color = colour
	speed.Add(spreads)
	for _, side := range []struct {
		p      *plot.Plot
		points plotter.XYs
		texts  plotter.XYLabels
		offset vg.Point
		align  text.XAlignment
	}{
		{speed, ratios, ratioTexts, vg.Point{X: vg.Points(6), Y: vg.Points(4)}, text.XLeft},
		{memory, sizes, sizeTexts, vg.Point{X: vg.Points(8), Y: vg.Points(-10)}, text.XLeft}, // below a line that rises
	} {
		line, dots, err := plotter.NewLinePoints(side.points)
		if err != nil {
			return err
		}
		line.Color, line.Width = colour, vg.Points(1.5)
		dots.Color, dots.Shape, dots.Radius = colour, draw.CircleGlyph{}, vg.Points(3)
		texts, err := plotter.NewLabels(side.texts)
		if err != nil {
			return err
		}
		for i := range texts.TextStyle {
			texts.TextStyle[i].Font, texts.TextStyle[i].XAlign = sans(labelSize), side.align
		}
		texts.Offset = side.offset
		side.p.Add(line, dots, texts)
	}
	return nil
}
