package fashion

import (
	"bytes"
	"image"
	_ "image/jpeg"
	_ "image/png"
	"math"
)

const side = 28

// reference is the definition of the pre-processing, written to be read: card.md in code. pre.wasm computes the same
// without the copies.
func reference(photo []byte) ([]float32, error) {
	img, _, err := image.Decode(bytes.NewReader(photo))
	if err != nil {
		return nil, err
	}
	b := img.Bounds()
	w, h := b.Dx(), b.Dy()

	// Luma of the colours blended on black.
	luma := make([][]float64, h)
	for y := range luma {
		luma[y] = make([]float64, w)
		for x := range luma[y] {
			r, g, b, _ := img.At(b.Min.X+x, b.Min.Y+y).RGBA()
			luma[y][x] = (0.299*float64(r) + 0.587*float64(g) + 0.114*float64(b)) / 65535
		}
	}

	// A square, the photo in its middle, the rest as bright as the photo's border.
	s := max(w, h)
	around := ring(luma)
	square := make([][]float64, s)
	for y := range square {
		square[y] = make([]float64, s)
		for x := range square[y] {
			square[y][x] = around
			if px, py := x-(s-w)/2, y-(s-h)/2; px >= 0 && px < w && py >= 0 && py < h {
				square[y][x] = luma[py][px]
			}
		}
	}

	// 28 by 28: the area's average when shrinking, bilinear when enlarging.
	small := make([][]float64, side)
	for y := range small {
		small[y] = make([]float64, side)
		for x := range small[y] {
			if s >= side {
				small[y][x] = average(square, x, y)
			} else {
				small[y][x] = bilinear(square, x, y)
			}
		}
	}

	// Bright on dark.
	invert := ring(small) > 0.5
	var out []float32
	for _, row := range small {
		for _, v := range row {
			if invert {
				v = 1 - v
			}
			out = append(out, float32(v))
		}
	}
	return out, nil
}

// ring is the mean of the outermost pixels.
func ring(p [][]float64) float64 {
	sum, n := 0.0, 0
	for y, row := range p {
		for x, v := range row {
			if x == 0 || y == 0 || x == len(row)-1 || y == len(p)-1 {
				sum, n = sum+v, n+1
			}
		}
	}
	return sum / float64(n)
}

// average integrates the square over cell x, y.
func average(square [][]float64, x, y int) float64 {
	step := float64(len(square)) / side
	overlap := func(pixel int, cell int) float64 {
		return max(0, min(float64(pixel+1), float64(cell+1)*step)-max(float64(pixel), float64(cell)*step))
	}
	sum := 0.0
	for py := int(float64(y) * step); py < min(len(square), int(math.Ceil(float64(y+1)*step))); py++ {
		for px := int(float64(x) * step); px < min(len(square), int(math.Ceil(float64(x+1)*step))); px++ {
			sum += square[py][px] * overlap(px, x) * overlap(py, y)
		}
	}
	return sum / (step * step)
}

func bilinear(square [][]float64, x, y int) float64 {
	s := len(square)
	at := func(cell int) (int, int, float64) {
		p := max(0, min((float64(cell)+.5)*float64(s)/side-.5, float64(s-1)))
		return int(p), min(int(p)+1, s-1), p - math.Floor(p)
	}
	x0, x1, fx := at(x)
	y0, y1, fy := at(y)
	return (square[y0][x0]*(1-fx)+square[y0][x1]*fx)*(1-fy) + (square[y1][x0]*(1-fx)+square[y1][x1]*fx)*fy
}
