package main

import (
	"image"
	"image/color"
)

// side of the model's images.
const side = 28

// fit turns a photo into the model's image: luma, padded to a square with the mean of its border, scaled to side x side
// (area average downwards, bilinear upwards), and inverted if its border is bright.
func fit(img image.Image) [side * side]float64 {
	b := img.Bounds()
	var out [side * side]float64
	if max(b.Dx(), b.Dy()) > side {
		shrink(img, &out)
	} else {
		enlarge(img, &out)
	}
	if border(out[:], side, side) > 0.5 {
		for i := range out {
			out[i] = 1 - out[i]
		}
	}
	return out
}

// border returns the mean of the outermost ring of a w x h picture.
func border(luma []float64, w, h int) float64 {
	sum, n := 0.0, 0
	for y := range h {
		step := 1
		if y > 0 && y < h-1 {
			step = max(w-1, 1)
		}
		for x := 0; x < w; x += step {
			sum += luma[y*w+x]
			n++
		}
	}
	return sum / float64(n)
}

// shrink scales by area: each source pixel is shared out among the cells that it covers. It goes row by row, so that a
// large photo needs no second copy; what the padding covers is what is left of each cell.
func shrink(img image.Image, out *[side * side]float64) {
	b := img.Bounds()
	w, h := b.Dx(), b.Dy()
	s := max(w, h)
	across, down := covers(w, s), covers(h, s)
	row := make([]float64, w)
	ring, ringPixels := 0.0, 0
	for y := range h {
		lumaRow(img, b.Min.Y+y, row)
		if y == 0 || y == h-1 {
			for _, v := range row {
				ring += v
			}
			ringPixels += w
		} else {
			ring += row[0]
			ringPixels++
			if w > 1 {
				ring += row[w-1]
				ringPixels++
			}
		}
		var cells [side + 1]float64 // one more than there are, always with weight 0
		for x, v := range row {
			c := &across[x]
			cells[c.cell] += v * c.here
			cells[c.cell+1] += v * c.next
		}
		d := &down[y]
		for x := range side {
			out[d.cell*side+x] += cells[x] * d.here
			if d.next > 0 {
				out[(d.cell+1)*side+x] += cells[x] * d.next
			}
		}
	}
	mean := ring / float64(ringPixels)
	covered := func(spans []cover) (c [side + 1]float64) {
		for i := range spans {
			c[spans[i].cell] += spans[i].here
			c[spans[i].cell+1] += spans[i].next
		}
		return c
	}
	columns, rows := covered(across), covered(down)
	for y := range side {
		for x := range side {
			out[y*side+x] += mean * (1 - columns[x]*rows[y])
		}
	}
}

// cover says how much of a cell a pixel is, and how much of the next cell.
type cover struct {
	cell       int
	here, next float64
}

// covers lays n pixels, centred among s, over the cells. It counts in units of 1/s of a cell, so that it is exact.
func covers(n, s int) []cover {
	out := make([]cover, n)
	for i := range out {
		from := (i + (s-n)/2) * side
		cell := from / s
		here := min(side, (cell+1)*s-from)
		out[i] = cover{cell, float64(here) / float64(s), float64(side-here) / float64(s)}
	}
	return out
}

// enlarge scales bilinearly, with the pixels' values at their centres.
func enlarge(img image.Image, out *[side * side]float64) {
	b := img.Bounds()
	w, h := b.Dx(), b.Dy()
	luma := make([]float64, w*h)
	for y := range h {
		lumaRow(img, b.Min.Y+y, luma[y*w:(y+1)*w])
	}
	s := max(w, h)
	square := make([]float64, s*s)
	mean := border(luma, w, h)
	for i := range square {
		square[i] = mean
	}
	for y := range h {
		copy(square[(y+(s-h)/2)*s+(s-w)/2:], luma[y*w:(y+1)*w])
	}
	at := func(i int) (int, int, float64) {
		src := min(max((float64(i)+0.5)*float64(s)/side-0.5, 0), float64(s-1))
		lo := int(src)
		return lo, min(lo+1, s-1), src - float64(lo)
	}
	for y := range side {
		top, bottom, fy := at(y)
		for x := range side {
			left, right, fx := at(x)
			above := square[top*s+left]*(1-fx) + square[top*s+right]*fx
			below := square[bottom*s+left]*(1-fx) + square[bottom*s+right]*fx
			out[y*side+x] = above*(1-fy) + below*fy
		}
	}
}

// lumaRow writes the luma of row y, from 0 to 1; what is transparent is black. The cases only save interface calls.
func lumaRow(img image.Image, y int, dst []float64) {
	b := img.Bounds()
	switch m := img.(type) {
	case *image.Gray:
		line := m.Pix[m.PixOffset(b.Min.X, y):]
		for x := range dst {
			dst[x] = float64(line[x]) / 255
		}
	case *image.YCbCr:
		lumaYCbCr(m, y, dst)
	case *image.RGBA:
		line := m.Pix[m.PixOffset(b.Min.X, y):]
		for x := range dst {
			p := line[4*x : 4*x+3 : 4*x+3]
			dst[x] = (0.299*float64(p[0]) + 0.587*float64(p[1]) + 0.114*float64(p[2])) / 255
		}
	case *image.NRGBA:
		line := m.Pix[m.PixOffset(b.Min.X, y):]
		for x := range dst {
			p := line[4*x : 4*x+4 : 4*x+4]
			if p[3] == 255 {
				dst[x] = (0.299*float64(p[0]) + 0.587*float64(p[1]) + 0.114*float64(p[2])) / 255
			} else {
				dst[x] = luma(color.NRGBA{p[0], p[1], p[2], p[3]}.RGBA())
			}
		}
	case *image.Paletted:
		palette := make([]float64, len(m.Palette))
		for i, c := range m.Palette {
			palette[i] = luma(c.RGBA())
		}
		line := m.Pix[m.PixOffset(b.Min.X, y):]
		for x := range dst {
			dst[x] = 0
			if i := int(line[x]); i < len(palette) {
				dst[x] = palette[i]
			}
		}
	default:
		for x := range dst {
			dst[x] = luma(color.Color.RGBA(m.At(b.Min.X+x, y)))
		}
	}
}

// lumaYCbCr is color.YCbCr's own conversion written out: nearly all pixels of nearly all photos come by here.
func lumaYCbCr(m *image.YCbCr, y int, dst []float64) {
	b := m.Rect
	line := m.Y[m.YOffset(b.Min.X, y):]
	chroma := m.COffset(b.Min.X, y)
	cb, cr := m.Cb[chroma:], m.Cr[chroma:]
	shift := 0
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio420:
		shift = 1
	case image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410:
		shift = 2
	}
	first := b.Min.X >> shift
	for x := range dst {
		c := (b.Min.X+x)>>shift - first
		yy, cb1, cr1 := int32(line[x])*0x10101, int32(cb[c])-128, int32(cr[c])-128
		red := min(max((yy+91881*cr1)>>8, 0), 0xffff)
		green := min(max((yy-22554*cb1-46802*cr1)>>8, 0), 0xffff)
		blue := min(max((yy+116130*cb1)>>8, 0), 0xffff)
		dst[x] = (0.299*float64(red) + 0.587*float64(green) + 0.114*float64(blue)) / 65535
	}
}

func luma(r, g, b, _ uint32) float64 {
	return (0.299*float64(r) + 0.587*float64(g) + 0.114*float64(b)) / 65535
}
