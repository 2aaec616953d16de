// Command generate makes the demo's photos from the Fashion-MNIST test set, always the same: into photos/ the first
// images of the set, the even ones as PNG of 28 by 28 pixels, the odd ones as JPEG of 112 by 112 (bilinear), each named
// NNNN-<class>.<ending>; into golden/ four further ones, in the forms that photos come in.
//
//	go run ./models/examples/fashion/generate -out models/examples/fashion
//
// The set is read from the folder where Debian's package dataset-fashion-mnist puts it. The answers beside the golden
// photos are written by `go test ./models/examples/fashion -update`.
package main

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
)

const side = 28

func main() {
	set := flag.String("set", "/usr/share/datasets/fashion-mnist", "folder of the data set")
	out := flag.String("out", "models/examples/fashion", "folder of the example, whose photos are written")
	n := flag.Int("n", 600, "how many photos")
	flag.Parse()
	if err := generate(*set, *out, *n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(os.Stderr, "the data set comes with Debian's package: apt install dataset-fashion-mnist")
		}
		os.Exit(1)
	}
}

func generate(set, out string, n int) error {
	pixels, err := read(filepath.Join(set, "t10k-images-idx3-ubyte.gz"), 16)
	if err != nil {
		return err
	}
	labels, err := read(filepath.Join(set, "t10k-labels-idx1-ubyte.gz"), 8)
	if err != nil {
		return err
	}
	if n < 0 || n > len(labels) || len(labels)*side*side > len(pixels) {
		return fmt.Errorf("the set has %d images, %d are wanted", len(labels), n)
	}
	picture := func(i int) *image.Gray {
		return &image.Gray{Pix: pixels[i*side*side : (i+1)*side*side], Stride: side, Rect: image.Rect(0, 0, side, side)}
	}
	for _, dir := range []string{"photos", "golden"} {
		if err := os.MkdirAll(filepath.Join(out, dir), 0o755); err != nil {
			return err
		}
	}
	for i := range n {
		var img image.Image = picture(i)
		ending := "png"
		if i%2 == 1 {
			img, ending = enlarge(picture(i), 4), "jpg"
		}
		if err := write(filepath.Join(out, "photos", fmt.Sprintf("%04d-%d.%s", i, labels[i], ending)), img); err != nil {
			return err
		}
	}
	for _, g := range golden {
		if g.index >= len(labels) {
			return fmt.Errorf("the set has %d images, number %d is wanted", len(labels), g.index)
		}
		if err := write(filepath.Join(out, "golden", g.name), g.make(picture(g.index))); err != nil {
			return err
		}
	}
	return nil
}

// read returns an IDX file's content after its header, whose first number says how many items follow.
func read(path string, header int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the data set: %w", err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if len(data) < header || binary.BigEndian.Uint16(data) != 0 {
		return nil, fmt.Errorf("%s is no IDX file", path)
	}
	return data[header:], nil
}

func write(path string, img image.Image) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if filepath.Ext(path) == ".png" {
		err = png.Encode(f, img)
	} else {
		err = jpeg.Encode(f, img, &jpeg.Options{Quality: 92})
	}
	return errors.Join(err, f.Close())
}

// enlarge scales bilinearly, with the pixels' values at their centres.
func enlarge(src *image.Gray, by int) *image.Gray {
	size := side * by
	dst := image.NewGray(image.Rect(0, 0, size, size))
	at := func(i int) (int, int, float64) {
		p := max(0, min((float64(i)+.5)/float64(by)-.5, side-1))
		low := int(p)
		return low, min(low+1, side-1), p - float64(low)
	}
	for y := range size {
		y0, y1, fy := at(y)
		for x := range size {
			x0, x1, fx := at(x)
			px := func(x, y int) float64 { return float64(src.GrayAt(x, y).Y) }
			v := px(x0, y0)*(1-fx)*(1-fy) + px(x1, y0)*fx*(1-fy) + px(x0, y1)*(1-fx)*fy + px(x1, y1)*fx*fy
			dst.SetGray(x, y, color.Gray{Y: uint8(v + .5)})
		}
	}
	return dst
}
