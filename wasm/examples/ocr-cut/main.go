// Command ocr-cut is the middle step of reading a page: it finds the lines in the detector's map and cuts them out of the
// picture for the recogniser.
//
// In: "photo", BYTES [1], and "map", FP32 [1,1,H,W], the probability of each pixel to be text. Out: "lines", FP32
// [N,3,48,W], and "place", FP32 [N,4,2], the corners of each line in the picture's pixels, from the top left on. A
// picture without text gives one empty line and no place, since the recogniser takes at least one.
//
// It is built for the agent as package guest says.
package main

import (
	"errors"

	"github.com/dhowfleet/dhow/models/examples/ocr"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/guest"
)

func init() { guest.Handle(process) }

func main() { guest.Serve() }

// emptyWidth of the line that stands for none.
const emptyWidth = 32

func process(in []tensor.Tensor) ([]tensor.Tensor, error) {
	if len(in) != 2 || in[0].Name != "photo" || in[1].Name != "map" || in[0].Datatype != tensor.Bytes || in[1].Datatype != tensor.FP32 || len(in[1].Shape) != 4 || in[1].Shape[0] != 1 || in[1].Shape[1] != 1 {
		return nil, errors.New("it takes photo, BYTES [1], and map, FP32 [1,1,H,W]")
	}
	files, err := tensor.SplitBytes(in[0].Data)
	if err != nil || len(files) != 1 {
		return nil, guest.InputError("photo must be one file")
	}
	page, err := ocr.Decode(files[0])
	if err != nil {
		return nil, guest.InputError(err.Error())
	}
	boxes, err := ocr.Boxes(in[1].Float32s(), int(in[1].Shape[3]), int(in[1].Shape[2]), page.Width, page.Height)
	if err != nil {
		return nil, err
	}
	lines, width := make([]float32, 3*ocr.LineHeight*emptyWidth), emptyWidth
	if len(boxes) > 0 {
		if lines, width, err = ocr.Cut(page, boxes); err != nil {
			return nil, err
		}
	}
	places := make([]float32, 0, 8*len(boxes))
	for _, b := range boxes {
		for _, p := range b.Corners {
			places = append(places, float32(p.X), float32(p.Y))
		}
	}
	return []tensor.Tensor{
		tensor.FromFloat32("lines", []int64{int64(max(len(boxes), 1)), 3, ocr.LineHeight, int64(width)}, lines),
		tensor.FromFloat32("place", []int64{int64(len(boxes)), 4, 2}, places),
	}, nil
}
