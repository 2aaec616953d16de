// Command ocr-prepare is the first step of reading a page: it turns the file of a picture into what the detector takes.
//
// In: "photo", BYTES [1], a PNG or JPEG file. Out: "x", FP32 [1,3,H,W], H and W multiples of 32.
//
// It is built for the agent as package guest says.
package main

import (
	"github.com/dhowfleet/dhow/models/examples/ocr"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/guest"
)

func init() { guest.Handle(process) }

func main() { guest.Serve() }

func process(in []tensor.Tensor) ([]tensor.Tensor, error) {
	if len(in) != 1 || in[0].Name != "photo" || in[0].Datatype != tensor.Bytes {
		return nil, guest.InputError("the request must have one tensor, photo, of BYTES [1]")
	}
	files, err := tensor.SplitBytes(in[0].Data)
	if err != nil || len(files) != 1 {
		return nil, guest.InputError("photo must be one file")
	}
	page, err := ocr.Decode(files[0])
	if err != nil {
		return nil, guest.InputError(err.Error())
	}
	x, width, height, err := ocr.Prepare(page)
	if err != nil {
		return nil, guest.InputError(err.Error())
	}
	return []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 3, int64(height), int64(width)}, x)}, nil
}
