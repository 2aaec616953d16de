// Package ocr is what stands around two models that read text off a picture: one that marks where text is (PP-OCR's
// detector, of the kind called DB), one that reads a line of it (PP-OCR's recogniser, decoded by CTC).
//
// A page is read in these steps; each but the models is a function here, so that a client, or a WASM step before and after
// each model, can make it:
//
//	prepare  Decode, Prepare   the file of a picture -> x FP32 [1,3,H,W] for the detector, H and W multiples of 32
//	detect   the model         x -> the probability of each pixel to be text, FP32 [1,1,H,W]
//	cut      Boxes, Cut        picture and probabilities -> the lines' places, x FP32 [N,3,48,W] for the recogniser
//	read     the model         x -> the probability of each character at each step, FP32 [N,T,C]
//	decode   Alphabet, Text    probabilities -> N texts with how sure they are
//
// Boxes gives places in the picture's own pixels, lines from top to bottom. They are rectangles that may be turned: a
// page that was photographed is seldom straight.
//
// The package is pure: bytes and numbers in, numbers and texts out, no I/O, no state. It imports nothing that cannot be
// compiled to WebAssembly. Pictures, boxes and widths are bounded, so that neither a hostile picture nor a map full of
// specks can ask for much memory.
package ocr

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // for Decode
	_ "image/png"  // for Decode
	"math"
)

// Bounds.
const (
	MaxPixels = 16 << 20 // of a picture
	MaxBoxes  = 256      // on a picture
	MaxWidth  = 2560     // of a line, at LineHeight
)

// Picture is an image as 8-bit red, green and blue, row by row.
type Picture struct {
	Width, Height int
	RGB           []byte
}

// Decode reads a PNG or JPEG file. Its size is checked before its pixels are made.
func Decode(file []byte) (*Picture, error) {
	config, _, err := image.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("cannot read the picture: %w", err)
	}
	if config.Width <= 0 || config.Height <= 0 || config.Width > MaxPixels/config.Height {
		return nil, fmt.Errorf("cannot read the picture: it has %dx%d pixels, at most %d are read", config.Width, config.Height, MaxPixels)
	}
	m, _, err := image.Decode(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("cannot read the picture: %w", err)
	}
	bounds := m.Bounds()
	p := &Picture{Width: bounds.Dx(), Height: bounds.Dy(), RGB: make([]byte, 0, 3*bounds.Dx()*bounds.Dy())}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			r, g, b, _ := m.At(x, y).RGBA()
			p.RGB = append(p.RGB, byte(r>>8), byte(g>>8), byte(b>>8))
		}
	}
	return p, nil
}

func (p *Picture) check() error {
	if p.Width <= 0 || p.Height <= 0 || p.Width > MaxPixels/p.Height || len(p.RGB) != 3*p.Width*p.Height {
		return errors.New("the picture's bytes do not fit its size")
	}
	return nil
}

// at is a channel's value between the pixels around x, y; outside, the edge goes on.
func (p *Picture) at(x, y float64, channel int) float64 {
	x, y = min(max(x, 0), float64(p.Width-1)), min(max(y, 0), float64(p.Height-1))
	x0, y0 := int(x), int(y)
	x1, y1 := min(x0+1, p.Width-1), min(y0+1, p.Height-1)
	fx, fy := x-float64(x0), y-float64(y0)
	v := func(x, y int) float64 { return float64(p.RGB[3*(y*p.Width+x)+channel]) }
	return (v(x0, y0)*(1-fx)+v(x1, y0)*fx)*(1-fy) + (v(x0, y1)*(1-fx)+v(x1, y1)*fx)*fy
}

// The detector wants sides that are multiples of side, and sees text best when a picture is neither small nor huge.
const (
	side     = 32
	shortest = 480
	longest  = 1536
)

// Size is what Prepare makes of a picture's size.
func Size(width, height int) (w, h int) {
	scale := max(1, shortest/float64(min(width, height)))
	scale = min(scale, longest/float64(max(width, height)))
	fit := func(n int) int { return max(side, int(math.Round(float64(n)*scale/side))*side) }
	return fit(width), fit(height)
}

// The mean and deviation by which the detector's training pictures were normalised, blue first.
var (
	mean      = [3]float64{0.485, 0.456, 0.406}
	deviation = [3]float64{0.229, 0.224, 0.225}
)

// Prepare makes the detector's input: the picture at Size, blue, green, red, each normalised, of shape
// [1, 3, height, width].
func Prepare(p *Picture) (x []float32, width, height int, err error) {
	if err := p.check(); err != nil {
		return nil, 0, 0, err
	}
	width, height = Size(p.Width, p.Height)
	x = make([]float32, 0, 3*width*height)
	sx, sy := float64(p.Width)/float64(width), float64(p.Height)/float64(height)
	for c := range 3 {
		for j := range height {
			for i := range width {
				v := p.at((float64(i)+0.5)*sx-0.5, (float64(j)+0.5)*sy-0.5, 2-c)
				x = append(x, float32((v/255-mean[c])/deviation[c]))
			}
		}
	}
	return x, width, height, nil
}
