package ocr

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// turned draws a filled rectangle of w x h around a middle, turned by angle, into a map.
func turned(width, height int, cx, cy, w, h, angle float64) []float32 {
	p := make([]float32, width*height)
	cos, sin := math.Cos(angle), math.Sin(angle)
	for y := range height {
		for x := range width {
			dx, dy := float64(x)+0.5-cx, float64(y)+0.5-cy
			if math.Abs(dx*cos+dy*sin) <= w/2 && math.Abs(dy*cos-dx*sin) <= h/2 {
				p[y*width+x] = 0.9
			}
		}
	}
	return p
}

// TestTurnedLinesAreFound: whatever a line's place and turn, its box has them, grown by as much as the rule says, and in
// the picture's own pixels.
func TestTurnedLinesAreFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, h := rapid.Float64Range(40, 120).Draw(t, "width"), rapid.Float64Range(8, 20).Draw(t, "height")
		angle := rapid.Float64Range(-0.6, 0.6).Draw(t, "angle")
		cx, cy := rapid.Float64Range(90, 110).Draw(t, "x"), rapid.Float64Range(90, 110).Draw(t, "y")
		boxes, err := Boxes(turned(200, 200, cx, cy, w, h, angle), 200, 200, 400, 100)
		if err != nil || len(boxes) != 1 {
			t.Fatal(boxes, err)
		}
		c := boxes[0].Corners
		for i := range c { // back into the map's pixels
			c[i].X, c[i].Y = c[i].X/2, c[i].Y*2
		}
		grow := 2 * w * h * unclip / (2 * (w + h))
		gotW, gotH := math.Hypot(c[1].X-c[0].X, c[1].Y-c[0].Y), math.Hypot(c[3].X-c[0].X, c[3].Y-c[0].Y)
		if math.Abs(gotW-w-grow) > 4 || math.Abs(gotH-h-grow) > 4 {
			t.Fatalf("the box has %.1fx%.1f, drawn was %.1fx%.1f, which grows by %.1f", gotW, gotH, w, h, grow)
		}
		if mx, my := (c[0].X+c[2].X)/2, (c[0].Y+c[2].Y)/2; math.Hypot(mx-cx, my-cy) > 1.5 {
			t.Fatalf("its middle is %.1f %.1f, drawn was %.1f %.1f", mx, my, cx, cy)
		}
		if got := math.Atan2(c[1].Y-c[0].Y, c[1].X-c[0].X); math.Abs(got-angle) > 0.06 {
			t.Fatalf("it is turned by %.3f, drawn was %.3f", got, angle)
		}
		if math.Abs(boxes[0].Score-0.9) > 1e-6 {
			t.Fatal(boxes[0].Score)
		}
	})
}

func TestReadingOrder(t *testing.T) {
	p := make([]float32, 300*100)
	draw := func(x0, y0, x1, y1 int) {
		for y := y0; y < y1; y++ {
			for x := x0; x < x1; x++ {
				p[y*300+x] = 1
			}
		}
	}
	draw(150, 11, 200, 21) // second on the first line, a little lower
	draw(20, 10, 100, 20)
	draw(20, 60, 200, 70)
	draw(220, 40, 222, 42) // a speck
	boxes, err := Boxes(p, 300, 100, 300, 100)
	if err != nil || len(boxes) != 3 {
		t.Fatal(boxes, err)
	}
	if a, b, c := boxes[0].Corners[0], boxes[1].Corners[0], boxes[2].Corners[0]; a.X > 50 || b.X < 100 || c.Y < 40 {
		t.Error(a, b, c)
	}
}

func TestUnsureRegionsAreLeftOut(t *testing.T) {
	p := turned(200, 200, 100, 100, 100, 20, 0)
	for i := range p {
		p[i] *= 0.5 // above the threshold, below what is sure
	}
	if boxes, err := Boxes(p, 200, 200, 200, 200); err != nil || len(boxes) != 0 {
		t.Error(boxes, err)
	}
}

// TestManySpecksAreBounded: a map that is nothing but regions costs no more boxes than are allowed.
func TestManySpecksAreBounded(t *testing.T) {
	const n = 600
	p := make([]float32, n*n)
	for y := range n {
		for x := range n {
			if x%8 < 6 && y%8 < 6 {
				p[y*n+x] = 1
			}
		}
	}
	if boxes, err := Boxes(p, n, n, n, n); err != nil || len(boxes) != MaxBoxes {
		t.Error(len(boxes), err)
	}
}

func gradient(width, height int) *Picture {
	p := &Picture{Width: width, Height: height}
	for y := range height {
		for x := range width {
			p.RGB = append(p.RGB, byte(x*255/max(width-1, 1)), byte(y*255/max(height-1, 1)), 7)
		}
	}
	return p
}

func TestPrepare(t *testing.T) {
	for _, c := range []struct{ w, h, width, height int }{{384, 191, 960, 480}, {4000, 2000, 1536, 768}, {10, 10, 480, 480}, {1, 4000, 32, 1536}, {640, 480, 640, 480}} {
		x, width, height, err := Prepare(gradient(c.w, c.h))
		if err != nil || width != c.width || height != c.height || len(x) != 3*width*height {
			t.Errorf("%dx%d became %dx%d, %d values, %v", c.w, c.h, width, height, len(x), err)
		}
	}
	x, width, height, _ := Prepare(gradient(480, 480))
	red := x[2*width*height:]
	if lo, hi := red[0], red[width-1]; math.Abs(float64(lo)+0.406/0.225) > 0.01 || math.Abs(float64(hi)-(1-0.406)/0.225) > 0.01 {
		t.Errorf("red runs from %v to %v", lo, hi)
	}
	if blue := x[0]; math.Abs(float64(blue)-(7.0/255-0.485)/0.229) > 1e-5 {
		t.Errorf("blue is %v", blue)
	}
}

// TestCut: a box that covers the picture gives it, from -1 to 1; a narrower one is followed by zeros.
func TestCut(t *testing.T) {
	p := gradient(100, 50)
	full := Box{Corners: [4]Point{{0, 0}, {100, 0}, {100, 50}, {0, 50}}}
	half := Box{Corners: [4]Point{{0, 0}, {50, 0}, {50, 50}, {0, 50}}}
	x, width, err := Cut(p, []Box{full, half})
	if err != nil || width != 96 || len(x) != 2*3*LineHeight*width {
		t.Fatal(width, len(x), err)
	}
	red := x[2*LineHeight*width:]
	if red[0] > -0.95 || red[width-1] < 0.95 {
		t.Errorf("red runs from %v to %v", red[0], red[width-1])
	}
	red = x[5*LineHeight*width:]
	if math.Abs(float64(red[47])) > 0.05 || red[48] != 0 || red[95] != 0 {
		t.Errorf("of the half, red ends in %v, and then is %v and %v", red[47], red[48], red[95])
	}
}

func TestRefusals(t *testing.T) {
	p := gradient(10, 10)
	point := Box{}
	nan := Box{Corners: [4]Point{{math.NaN(), 0}, {1, 0}, {1, 1}, {0, 1}}}
	infinite := Box{Corners: [4]Point{{0, 0}, {math.Inf(1), 0}, {1, 1}, {0, 1}}}
	for name, err := range map[string]error{
		"no boxes":        func() error { _, _, err := Cut(p, nil); return err }(),
		"many boxes":      func() error { _, _, err := Cut(p, make([]Box, MaxBoxes+1)); return err }(),
		"a point":         func() error { _, _, err := Cut(p, []Box{point}); return err }(),
		"no number":       func() error { _, _, err := Cut(p, []Box{nan}); return err }(),
		"infinite":        func() error { _, _, err := Cut(p, []Box{infinite}); return err }(),
		"a short picture": func() error { _, _, _, err := Prepare(&Picture{Width: 3, Height: 3}); return err }(),
		"an empty one":    func() error { _, _, _, err := Prepare(&Picture{}); return err }(),
		"a huge one":      func() error { _, _, _, err := Prepare(&Picture{Width: 1 << 40, Height: 1 << 40}); return err }(),
		"a short map":     func() error { _, err := Boxes(make([]float32, 5), 3, 3, 3, 3); return err }(),
		"a negative map":  func() error { _, err := Boxes(nil, -1, -1, 3, 3); return err }(),
		"few classes":     func() error { _, err := Text(make([]float32, 6), 1, 2, 3, []string{"", "a"}); return err }(),
		"few values":      func() error { _, err := Text(make([]float32, 5), 1, 2, 3, []string{"", "a", "b"}); return err }(),
		"many lines":      func() error { _, err := Text(nil, 1<<40, 0, 2, []string{"", "a"}); return err }(),
		"no UTF-8":        func() error { _, err := Alphabet([]byte("\xff")); return err }(),
		"a long alphabet": func() error { _, err := Alphabet(bytes.Repeat([]byte("a\n"), maxAlphabet+1)); return err }(),
		"no picture":      func() error { _, err := Decode([]byte("no picture")); return err }(),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestText(t *testing.T) {
	alphabet, err := Alphabet([]byte("a\nb\r\n你"))
	if err != nil || strings.Join(alphabet, "|") != "|a|b|你| " {
		t.Fatalf("%q %v", alphabet, err)
	}
	var p []float32
	for _, class := range []int{0, 1, 1, 0, 1, 2, 2, 4, 3, 0} { // a, a again, b, space, 你
		row := make([]float32, 5)
		row[class] = 0.5
		p = append(p, row...)
	}
	lines, err := Text(append(p, make([]float32, 50)...), 2, 10, 5, alphabet)
	if err != nil || lines[0].Text != "aab 你" || lines[0].Score != 0.5 || lines[1].Text != "" || lines[1].Score != 0 {
		t.Errorf("%+v %v", lines, err)
	}
}

func picture(t testing.TB, width, height int) []byte {
	m := image.NewNRGBA(image.Rect(0, 0, width, height))
	m.Set(0, 0, color.NRGBA{R: 255, G: 128, A: 255})
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDecode(t *testing.T) {
	p, err := Decode(picture(t, 3, 2))
	if err != nil || p.Width != 3 || p.Height != 2 || p.RGB[0] != 255 || p.RGB[1] != 128 || len(p.RGB) != 18 {
		t.Errorf("%+v %v", p, err)
	}
	// A file of a few kilobytes that says it is larger than what is read.
	if _, err := Decode(picture(t, 1<<13, 1<<12)); err == nil || !strings.Contains(err.Error(), "8192x4096") {
		t.Error(err)
	}
}

// FuzzPage: whatever the file and the map, what comes out fits together.
func FuzzPage(f *testing.F) {
	f.Add(picture(f, 8, 8), []byte{0, 200, 200, 0, 200, 200})
	f.Add([]byte("\x89PNG"), []byte{255})
	f.Fuzz(func(t *testing.T, file, bytes []byte) {
		p, err := Decode(file)
		if err != nil || p.Width*p.Height > 1<<16 {
			p = gradient(40, 30)
		}
		probabilities := make([]float32, 32*32)
		for i := range probabilities {
			if len(bytes) > 0 {
				probabilities[i] = float32(bytes[i%len(bytes)]) / 255
			}
		}
		boxes, err := Boxes(probabilities, 32, 32, p.Width, p.Height)
		if err != nil {
			t.Fatal(err)
		}
		if len(boxes) == 0 {
			return
		}
		x, width, err := Cut(p, boxes)
		if err != nil {
			t.Fatal(err)
		}
		if len(x) != 3*LineHeight*width*len(boxes) || width > MaxWidth {
			t.Fatal(len(x), width, len(boxes))
		}
	})
}
