package models

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/models/examples/ocr"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

func float32s(v *wire.Value) []float32 {
	out := make([]float32, len(v.Raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Raw[4*i:]))
	}
	return out
}

// TestAPageIsRead: a photographed page goes through a client's pre-processing, the detector, the cutting, the recogniser
// and the decoding, and the words that are printed on it come out.
func TestAPageIsRead(t *testing.T) {
	detector := fetched(t, "ocr-models", "assets", "ch_PP-OCRv4_det_infer.onnx")
	recogniser := fetched(t, "ocr-models", "assets", "ch_PP-OCRv4_rec_infer.onnx")
	alphabet, err := ocr.Alphabet(read(t, fetched(t, "ocr-models", "assets", "ppocr_keys_v1.txt")))
	if err != nil {
		t.Fatal(err)
	}
	page, err := ocr.Decode(read(t, fetched(t, "skimage", "page.png")))
	if err != nil {
		t.Fatal(err)
	}
	c := start(t)
	c.load(t, "detect", detector)
	c.load(t, "recognise", recogniser)

	x, width, height, err := ocr.Prepare(page)
	if err != nil {
		t.Fatal(err)
	}
	found := c.rest(t, "detect", f32("x", []int64{1, 3, int64(height), int64(width)}, x))
	boxes, err := ocr.Boxes(float32s(found.Find("sigmoid_0.tmp_0")), width, height, page.Width, page.Height)
	if err != nil {
		t.Fatal(err)
	}
	lines, width, err := ocr.Cut(page, boxes)
	if err != nil {
		t.Fatal(err)
	}
	answer := c.rest(t, "recognise", f32("x", []int64{int64(len(boxes)), 3, ocr.LineHeight, int64(width)}, lines))
	out := answer.Find("softmax_11.tmp_0")
	if len(out.Shape) != 3 {
		t.Fatalf("the recogniser's answer has the shape %v", out.Shape)
	}
	text, err := ocr.Text(float32s(out), int(out.Shape[0]), int(out.Shape[1]), int(out.Shape[2]), alphabet)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i, line := range text {
		t.Logf("%.2f %v %q", line.Score, boxes[i].Corners[0], line.Text)
		all = append(all, line.Text)
	}
	whole := strings.ToLower(strings.Join(all, "\n"))
	if !strings.HasPrefix(whole, "region") {
		t.Errorf("the page does not begin with its title: %q", whole)
	}
	at := 0
	for _, word := range strings.Fields("region-based segmentation let us first determine markers of the coins and the background these markers are pixels that we can label " +
		"unambiguously as either object or background here the markers are found at the two extreme parts of the histogram of grey values") {
		i := strings.Index(whole[at:], word)
		if i < 0 {
			t.Errorf("the word %q was not read in its place", word)
			continue
		}
		at += i
	}
}
