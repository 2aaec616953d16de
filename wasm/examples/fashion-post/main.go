// Command fashion-post is the post-processing step of the demo's model: it turns the probabilities of all classes into
// the names of the three likeliest.
//
// In: "probabilities", FP32 [n,classes]. Out: "label", BYTES, and "score", FP32, both [3] for one photo and [n,3] for
// more, likeliest first. The configuration is the labels file: a name a line, in the order of the classes.
//
// It is built for the agent as package guest says.
package main

import (
	"errors"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/guest"
)

// top is how many classes are named.
const top = 3

var labels []string

func init() {
	guest.OnConfigure(configure)
	guest.Handle(process)
}

func main() { guest.Serve() }

func configure(configuration []byte) error {
	labels = nil
	for line := range strings.Lines(string(configuration)) {
		if line = strings.TrimSpace(line); line != "" {
			labels = append(labels, line)
		}
	}
	if len(labels) < top {
		return errors.New("the labels file has " + strconv.Itoa(len(labels)) + " names, at least " + strconv.Itoa(top) + " are needed")
	}
	return nil
}

func process(in []tensor.Tensor) ([]tensor.Tensor, error) {
	if len(in) != 1 || in[0].Name != "probabilities" || in[0].Datatype != tensor.FP32 || len(in[0].Shape) != 2 {
		return nil, errors.New("the model must return one tensor, probabilities, of FP32 [n,classes]")
	}
	n, classes := int(in[0].Shape[0]), int(in[0].Shape[1])
	if classes != len(labels) {
		return nil, errors.New("the model has " + strconv.Itoa(classes) + " classes, the labels file " + strconv.Itoa(len(labels)) + " names")
	}
	probabilities := in[0].Float32s()
	var names []byte
	scores := make([]float32, 0, n*top)
	for i := range n {
		for _, c := range likeliest(probabilities[i*classes : (i+1)*classes]) {
			names = tensor.AppendBytes(names, []byte(labels[c]))
			scores = append(scores, probabilities[i*classes+c])
		}
	}
	shape := []int64{top}
	if n != 1 {
		shape = []int64{int64(n), top}
	}
	return []tensor.Tensor{
		{Name: "label", Datatype: tensor.Bytes, Shape: shape, Data: names},
		tensor.FromFloat32("score", shape, scores),
	}, nil
}

// likeliest returns the classes of the highest probabilities, the lower class first where they are equal.
func likeliest(probabilities []float32) [top]int {
	best := [top]int{-1, -1, -1}
	for c, p := range probabilities {
		for k := range best {
			if best[k] < 0 || p > probabilities[best[k]] {
				copy(best[k+1:], best[k:top-1])
				best[k] = c
				break
			}
		}
	}
	return best
}
