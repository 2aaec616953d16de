package ocr

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// LineHeight is the height of the recogniser's input.
const LineHeight = 48

// narrowest is the width below which the recogniser sees nothing.
const narrowest = 32

// Cut takes the lines out of the picture and makes the recogniser's input of shape [len(boxes), 3, LineHeight, width]:
// blue, green, red, from -1 to 1. Each line is as wide as its box is at that height; what is left of the widest is zero.
func Cut(p *Picture, boxes []Box) (x []float32, width int, err error) {
	if err := p.check(); err != nil {
		return nil, 0, err
	}
	if len(boxes) == 0 || len(boxes) > MaxBoxes {
		return nil, 0, fmt.Errorf("there are %d boxes, from 1 to %d can be cut", len(boxes), MaxBoxes)
	}
	widths := make([]int, len(boxes))
	for i := range boxes {
		c := &boxes[i].Corners
		w, h := math.Hypot(c[1].X-c[0].X, c[1].Y-c[0].Y), math.Hypot(c[3].X-c[0].X, c[3].Y-c[0].Y)
		if !(w > 0 && h > 0) || math.IsInf(w, 0) || math.IsInf(h, 0) {
			return nil, 0, errors.New("a box has no width or height")
		}
		widths[i] = int(min(max(math.Ceil(LineHeight*w/h), narrowest), MaxWidth))
		width = max(width, widths[i])
	}
	x = make([]float32, 3*LineHeight*width*len(boxes))
	for i := range boxes {
		c := &boxes[i].Corners
		for channel := range 3 {
			for v := range LineHeight {
				row := x[((i*3+channel)*LineHeight+v)*width:]
				fv := (float64(v) + 0.5) / LineHeight
				for u := range widths[i] {
					fu := (float64(u) + 0.5) / float64(widths[i])
					px := c[0].X + fu*(c[1].X-c[0].X) + fv*(c[3].X-c[0].X)
					py := c[0].Y + fu*(c[1].Y-c[0].Y) + fv*(c[3].Y-c[0].Y)
					row[u] = float32(p.at(px-0.5, py-0.5, 2-channel)/127.5 - 1)
				}
			}
		}
	}
	return x, width, nil
}

// maxAlphabet bounds the characters that a recogniser tells apart.
const maxAlphabet = 1 << 16

// Alphabet reads the recogniser's characters, one a line: class 0 is none, the lines follow, and the last is a space.
func Alphabet(file []byte) ([]string, error) {
	if !utf8.Valid(file) {
		return nil, errors.New("cannot read the characters: the file is no UTF-8")
	}
	lines := bytes.Split(bytes.TrimSuffix(file, []byte("\n")), []byte("\n"))
	if len(lines) > maxAlphabet {
		return nil, fmt.Errorf("cannot read the characters: there are more than %d", maxAlphabet)
	}
	out := make([]string, 0, len(lines)+2)
	out = append(out, "")
	for _, line := range lines {
		out = append(out, string(bytes.TrimSuffix(line, []byte("\r"))))
	}
	return append(out, " "), nil
}

// Line is a text that was read, and how sure the recogniser is of its characters on average, from 0 to 1.
type Line struct {
	Text  string
	Score float64
}

// Text decodes the recogniser's output of shape [lines, steps, classes] by taking the likeliest class of each step,
// leaving out repetitions and class 0.
func Text(probabilities []float32, lines, steps, classes int, alphabet []string) ([]Line, error) {
	if lines < 0 || lines > MaxBoxes || steps < 0 || steps > MaxWidth || classes != len(alphabet) || len(probabilities) != lines*steps*classes {
		return nil, fmt.Errorf("probabilities of %d lines, %d steps and %d classes do not fit %d values and %d characters", lines, steps, classes, len(probabilities), len(alphabet))
	}
	out := make([]Line, lines)
	for i := range out {
		var text strings.Builder
		sum, n, last := 0.0, 0, 0
		for s := range steps {
			row := probabilities[(i*steps+s)*classes:][:classes]
			best := 0
			for c, v := range row {
				if v > row[best] {
					best = c
				}
			}
			if best != 0 && best != last {
				text.WriteString(alphabet[best])
				sum += float64(row[best])
				n++
			}
			last = best
		}
		out[i] = Line{Text: text.String(), Score: sum / float64(max(n, 1))}
	}
	return out, nil
}
