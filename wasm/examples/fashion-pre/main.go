// Command fashion-pre is the pre-processing step of the demo's model: it turns photos of garments into what the model
// was trained on, 28x28 grey images of bright garments on a dark ground.
//
// In: "photo", BYTES [n], each element a PNG or JPEG file. Out: "image", FP32 [n,1,28,28], values from 0 to 1. It counts
// photo_png and photo_jpeg, and reports brightness and contrast, the mean and the standard deviation of each image.
//
// It is built for the agent as package guest says.
package main

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/guest"
)

// maxPhotos in one request.
const maxPhotos = 64

func init() { guest.Handle(process) }

func main() { guest.Serve() }

func process(in []tensor.Tensor) ([]tensor.Tensor, error) {
	if len(in) != 1 || in[0].Name != "photo" || in[0].Datatype != tensor.Bytes || len(in[0].Shape) != 1 {
		return nil, guest.InputError("the request must have one tensor, photo, of BYTES [n]")
	}
	photos, err := tensor.SplitBytes(in[0].Data)
	if err != nil {
		return nil, guest.InputError(err.Error())
	}
	if len(photos) == 0 || len(photos) > maxPhotos {
		return nil, guest.InputError("the request has " + strconv.Itoa(len(photos)) + " photos, 1 to " + strconv.Itoa(maxPhotos) + " are allowed")
	}
	data := make([]byte, 0, len(photos)*side*side*4)
	for i, photo := range photos {
		img, format, problem := decode(photo)
		if problem != "" {
			return nil, guest.InputError("photo " + strconv.Itoa(i) + " " + problem)
		}
		fitted := fit(img)
		brightness, contrast := moments(fitted[:])
		guest.Count("photo_"+format, 1)
		guest.Feature("brightness", brightness)
		guest.Feature("contrast", contrast)
		for _, v := range fitted {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(v)))
		}
	}
	return []tensor.Tensor{{Name: "image", Datatype: tensor.FP32, Shape: []int64{int64(len(photos)), 1, side, side}, Data: data}}, nil
}

// moments returns the mean and the population standard deviation.
func moments(values []float64) (mean, deviation float64) {
	for _, v := range values {
		mean += v
	}
	mean /= float64(len(values))
	for _, v := range values {
		deviation += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(deviation / float64(len(values)))
}
