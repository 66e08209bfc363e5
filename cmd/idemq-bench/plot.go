package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colours that people with any colour vision tell apart, by group.
var colours = map[group]color.Color{
	groupNone:  color.RGBA{R: 0x99, G: 0x99, B: 0x99, A: 0xff},
	groupUsual: color.RGBA{R: 0xe6, G: 0x9f, B: 0x00, A: 0xff},
	groupOurs:  color.RGBA{R: 0x00, G: 0x72, B: 0xb2, A: 0xff},
}

const (
	titleHeight  = 46 * vg.Length(1)
	legendHeight = 22 * vg.Length(1)
	noteHeight   = 28 * vg.Length(1)
	margin       = 12 * vg.Length(1)
	titleSize    = 15
	textSize     = 10
	labelSize    = 9
)

// panels is a figure: a title, a legend, plots in columns below each other, and notes at the bottom.
type panels struct {
	title, subtitle string
	legend          []entry
	rows            [][]*plot.Plot
	heights         []vg.Length // of the rows
	shares          []float64   // of the columns in the width
	notes           []string
}

// entry is a colour of the legend.
type entry struct {
	name   string
	colour color.Color
}

const figureWidth = 900 * vg.Length(1)

// drawReport draws a report into a file.
func drawReport(r *report, path string) error {
	var f panels
	var err error
	switch {
	case r.Growth != nil:
		f, err = growthFigure(r.Growth)
	case r.Memory != nil:
		f, err = memoryFigure(r.Memory)
	default:
		f, err = resultsFigure(r.Results, r.Settings)
	}
	if err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	f.notes = append([]string{r.Machine.String(), r.Settings.String()}, f.notes...)
	svg, err := f.svg()
	if err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	if err := os.WriteFile(path, svg, 0o644); err != nil { //nolint:gosec // a picture to show around
		return fmt.Errorf("plot: %w", err)
	}
	return nil
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

func style(size vg.Length) text.Style {
	return text.Style{Color: color.Black, Font: sans(size), YAlign: text.YTop, Handler: plot.DefaultTextHandler}
}

// newPlot has the fonts of the figure.
func newPlot(title, x string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Title.TextStyle.Font, p.Title.Padding = title, sans(textSize+1), vg.Points(4)
	p.X.Label.Text, p.X.Label.TextStyle.Font = x, sans(textSize)
	p.Y.Label.TextStyle.Font = sans(textSize)
	p.X.Tick.Label.Font, p.Y.Tick.Label.Font = sans(labelSize), sans(labelSize)
	return p
}

// svg draws the figure.
func (f panels) svg() ([]byte, error) {
	height := titleHeight + legendHeight + noteHeight*vg.Length(len(f.notes))/2 + 2*margin
	for _, h := range f.heights {
		height += h
	}
	canvas := vgsvg.New(figureWidth, height)
	dc := draw.New(canvas)
	dc.SetColor(color.White)
	dc.Fill(dc.Path())
	y := height - margin
	dc.FillText(style(titleSize), vg.Point{X: margin, Y: y}, f.title)
	dc.FillText(style(textSize), vg.Point{X: margin, Y: y - 1.6*titleSize}, f.subtitle)
	y -= titleHeight
	x := margin
	for _, e := range f.legend {
		dc.SetColor(e.colour)
		dc.Fill((vg.Rectangle{Min: vg.Point{X: x, Y: y - textSize}, Max: vg.Point{X: x + textSize, Y: y}}).Path())
		dc.FillText(style(textSize), vg.Point{X: x + 1.5*textSize, Y: y}, e.name)
		x += 4*textSize + style(textSize).Width(e.name)
	}
	y -= legendHeight
	for i, row := range f.rows {
		f.drawRow(dc, row, y, f.heights[i])
		y -= f.heights[i]
	}
	for _, n := range f.notes {
		y -= noteHeight / 2
		dc.FillText(style(labelSize), vg.Point{X: margin, Y: y + labelSize}, n)
	}
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	// Where the font is missing, others of the same widths shall be taken.
	return []byte(strings.ReplaceAll(out.String(), "font-family:Liberation Sans", "font-family:'Liberation Sans',Arial,Helvetica,sans-serif")), nil
}

func (f panels) drawRow(dc draw.Canvas, row []*plot.Plot, top, height vg.Length) {
	x := margin
	for i, p := range row {
		width := (figureWidth - 2*margin) * vg.Length(f.shares[i])
		if p != nil {
			p.Draw(draw.Canvas{Canvas: dc.Canvas, Rectangle: vg.Rectangle{
				Min: vg.Point{X: x, Y: top - height + margin}, Max: vg.Point{X: x + width - margin, Y: top},
			}})
		}
		x += width
	}
}
