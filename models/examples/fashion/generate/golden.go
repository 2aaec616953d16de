package main

import (
	"image"
	"image/color"
)

// golden are the photos of the golden samples: numbers of the test set beyond those in photos/, chosen so that the
// model's first four answers lie far enough apart to come in the same order on every machine.
var golden = []struct {
	name  string
	index int
	make  func(*image.Gray) image.Image
}{
	{"plain.png", 1589, func(g *image.Gray) image.Image { return g }},
	{"enlarged.jpg", 1098, func(g *image.Gray) image.Image { return enlarge(g, 4) }},
	{"catalogue.png", 1031, catalogue},
	{"cutout.png", 944, cutout},
}

// catalogue is a product as catalogues show it: dark blue on white, in portrait.
func catalogue(g *image.Gray) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, 88, 112))
	big := enlarge(g, 4)
	mix := func(to, v uint8) uint8 { return uint8((int(to)*int(v) + 255*(255-int(v)) + 127) / 255) }
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			v := big.GrayAt(x+12, y).Y
			img.SetRGBA(x, y, color.RGBA{R: mix(14, v), G: mix(20, v), B: mix(48, v), A: 255})
		}
	}
	return img
}

// cutout is a product cut out of its background: cream on transparent, in landscape, of an odd size.
func cutout(g *image.Gray) image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, 84, 57))
	big := enlarge(g, 3)
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			img.SetNRGBA(x, y, color.NRGBA{R: 250, G: 240, B: 225, A: big.GrayAt(x, y+13).Y})
		}
	}
	return img
}
