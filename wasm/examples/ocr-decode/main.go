// Command ocr-decode is the last step of reading a page: it turns the recogniser's probabilities into text.
//
// In: "characters", FP32 [N,T,C], the probability of each character at each step, and "place", FP32 [M,4,2], the lines'
// places; M is N, or 0 where there is no text. Out: "text", BYTES [M], and "score", FP32 [M]. The configuration is the
// file of characters, one a line.
//
// It is built for the agent as package guest says.
package main

import (
	"errors"

	"github.com/dhowfleet/dhow/models/examples/ocr"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/guest"
)

var alphabet []string

func init() {
	guest.OnConfigure(func(configuration []byte) (err error) {
		alphabet, err = ocr.Alphabet(configuration)
		return err
	})
	guest.Handle(process)
}

func main() { guest.Serve() }

func process(in []tensor.Tensor) ([]tensor.Tensor, error) {
	if len(in) != 2 || in[0].Name != "characters" || in[1].Name != "place" || in[0].Datatype != tensor.FP32 || len(in[0].Shape) != 3 || len(in[1].Shape) != 3 {
		return nil, errors.New("it takes characters, FP32 [N,T,C], and place, FP32 [M,4,2]")
	}
	var texts []string
	var scores []float32
	if in[1].Shape[0] > 0 {
		s := in[0].Shape
		lines, err := ocr.Text(in[0].Float32s(), int(s[0]), int(s[1]), int(s[2]), alphabet)
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			texts, scores = append(texts, l.Text), append(scores, float32(l.Score))
		}
	}
	return []tensor.Tensor{
		tensor.FromStrings("text", texts...),
		tensor.FromFloat32("score", []int64{int64(len(scores))}, scores),
	}, nil
}
