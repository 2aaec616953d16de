package models

import (
	"bytes"
	"encoding/binary"
	"image"
	_ "image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// photos are the example's pictures that are as the models take them, with their classes.
func photos(t *testing.T) (pixels []float32, classes []int) {
	t.Helper()
	dir := filepath.Join("..", "..", "models", "examples", "fashion", "photos")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".png") {
			continue
		}
		m, _, err := image.Decode(bytes.NewReader(read(t, filepath.Join(dir, e.Name()))))
		if err != nil {
			t.Fatal(err)
		}
		grey, ok := m.(*image.Gray)
		if !ok || grey.Rect.Dx() != 28 || grey.Rect.Dy() != 28 || grey.GrayAt(0, 0).Y > 128 {
			continue // what the example's first step is for
		}
		for _, p := range grey.Pix {
			pixels = append(pixels, float32(p)/255)
		}
		classes = append(classes, int(e.Name()[5]-'0'))
	}
	if len(classes) < 100 {
		t.Fatalf("there are only %d pictures", len(classes))
	}
	return pixels, classes
}

func accuracy(t *testing.T, probabilities []float64, classes []int) float64 {
	t.Helper()
	right := 0
	for i, class := range classes {
		if highest(probabilities[10*i:10*i+10]) == class {
			right++
		}
	}
	return float64(right) / float64(len(classes))
}

// TestExternalData: the weights lie in a second file.
func TestExternalData(t *testing.T) {
	pixels, classes := photos(t)
	c := start(t)
	c.load(t, "fashion", "testdata/fashion_cnn_ext.onnx")
	a := c.ask(t, "fashion", f32("image", []int64{int64(len(classes)), 1, 28, 28}, pixels))
	if got := accuracy(t, numbers(t, a, "probabilities"), classes); got < 0.85 {
		t.Errorf("%v of %d pictures are told apart", got, len(classes))
	}
}

// TestHalfPrecision: FP16 in and out, and the same classes as with external data, whose weights are the same.
func TestHalfPrecision(t *testing.T) {
	pixels, classes := photos(t)
	v := wire.Value{Name: "image", Datatype: "FP16", Shape: []int64{int64(len(classes)), 1, 28, 28}}
	for _, p := range pixels {
		v.Raw = binary.LittleEndian.AppendUint16(v.Raw, half(p))
	}
	c := start(t)
	c.load(t, "fashion", "testdata/fashion_cnn_fp16.onnx")
	a := c.ask(t, "fashion", v)
	if a.Find("probabilities").Datatype != "FP16" {
		t.Errorf("the answer is %s", a.Find("probabilities").Datatype)
	}
	if got := accuracy(t, numbers(t, a, "probabilities"), classes); got < 0.85 {
		t.Errorf("%v of %d pictures are told apart", got, len(classes))
	}
}

// half rounds a number from 0 to 1 to 16 bits; below 2^-14 it is zero, which is less than a step of a pixel.
func half(x float32) uint16 {
	if x < 1.0/(1<<14) {
		return 0
	}
	fraction, exponent := math.Frexp(float64(x)) // fraction from 0.5 to 1
	mantissa := math.RoundToEven(fraction * 2048)
	if mantissa == 2048 {
		mantissa, exponent = 1024, exponent+1
	}
	return uint16(exponent+14)<<10 | uint16(mantissa)&1023
}

// TestVariants: the example's own two variants, with 32-bit and with quantised weights.
func TestVariants(t *testing.T) {
	pixels, classes := photos(t)
	c := start(t)
	for _, file := range []string{"model.onnx", "model_int8w.onnx"} {
		c.load(t, "fashion", filepath.Join("..", "..", "models", "examples", "fashion", file))
		a := c.ask(t, "fashion", f32("image", []int64{int64(len(classes)), 1, 28, 28}, pixels))
		if got := accuracy(t, numbers(t, a, "probabilities"), classes); got < 0.85 {
			t.Errorf("%s: %v of %d pictures are told apart", file, got, len(classes))
		}
	}
}

// TestFaces: pixels lie channels last, and every name holds a colon.
func TestFaces(t *testing.T) {
	path := fetched(t, "blazeface", "ONNX", "face_detection_front_128x128_barracuda.onnx")
	c := start(t)
	c.load(t, "faces:front", path)
	score := func(pixels []float32) float64 {
		a := c.ask(t, "faces:front", f32("input:0", []int64{1, 128, 128, 3}, pixels))
		if len(a.Outputs) != 4 {
			t.Fatalf("%d outputs", len(a.Outputs))
		}
		best := math.Inf(-1)
		for _, name := range []string{"Identity:0", "Identity_1:0"} {
			scores := numbers(t, a, name)
			best = math.Max(best, scores[highest(scores)])
		}
		return best
	}
	grey := make([]float32, 128*128*3)
	face := fetched(t, "skimage", "astronaut.png")
	m, _, err := image.Decode(bytes.NewReader(read(t, face)))
	if err != nil {
		t.Fatal(err)
	}
	// The picture is 512x512; the face is in its upper half, the detector sees all of it.
	pixels := make([]float32, 0, len(grey))
	for y := range 128 {
		for x := range 128 {
			r, g, b, _ := m.At(m.Bounds().Min.X+128+2*x, m.Bounds().Min.Y+2*y).RGBA()
			for _, v := range []uint32{r, g, b} {
				pixels = append(pixels, float32(v)/32767.5-1)
			}
		}
	}
	with, without := score(pixels), score(grey)
	t.Logf("the highest score is %.2f with a face and %.2f without", with, without)
	if with < 0 || without > 0 { // scores are before the logistic function: 0 is as likely as not
		t.Errorf("the highest score is %v with a face and %v without", with, without)
	}
}
