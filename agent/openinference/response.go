package openinference

import (
	"errors"
	"slices"
	"strconv"

	"github.com/dhowfleet/dhow/agent/openinference/classification"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/jsontensor"
	"github.com/dhowfleet/dhow/models/tensor"
)

// arrange appends to dst the outputs that were asked for, in that order and, where they were asked for so, as classes.
// Without a wish it is all of them as they are. outputs stays as it is: others may hold it too.
func (r *request) arrange(dst, outputs []tensor.Tensor, info func() (serving.Info, error)) ([]tensor.Tensor, error) {
	if len(r.outputs) == 0 {
		return append(dst, outputs...), nil
	}
	for i := range r.outputs {
		w := &r.outputs[i]
		at := i
		if at >= len(outputs) || outputs[at].Name != w.name { // models answer in the order that was asked for
			at = slices.IndexFunc(outputs, func(t tensor.Tensor) bool { return t.Name == w.name })
		}
		if at < 0 {
			return dst, badRequest("the model has no output %q", w.name)
		}
		t := outputs[at]
		if w.classes > 0 {
			about, err := info()
			if err != nil {
				return dst, err
			}
			if t, err = classification.Apply(t, w.classes, batched(&about), about.Labels[t.Name]); err != nil {
				return dst, err
			}
		}
		dst = append(dst, t)
	}
	return dst, nil
}

// batched says whether the first dimension of a model's tensors is a batch: by its configuration, or because all of them
// begin with a dimension that varies.
func batched(info *serving.Info) bool {
	if info.Config != nil {
		return info.Config.MaxBatchSize > 0
	}
	for _, specs := range [...][]tensor.Spec{info.Inputs, info.Outputs} {
		for i := range specs {
			if len(specs[i].Shape) == 0 || specs[i].Shape[0] >= 0 {
				return false
			}
		}
	}
	return true
}

// appendResponse writes the JSON of an answer and returns it with the tensors that follow it in binary, in order. reserve
// is asked before memory is used for the JSON.
func appendResponse(b []byte, model, version string, r *request, outputs []tensor.Tensor, binaryTensors [][]byte, reserve func(int64) error) ([]byte, [][]byte, error) {
	b = append(b, `{"model_name":`...)
	b = jsontensor.AppendText(b, model)
	b = append(b, `,"model_version":`...)
	b = jsontensor.AppendText(b, version)
	if r.hasID {
		b = append(b, `,"id":`...)
		b = jsontensor.AppendText(b, r.id)
	}
	b = append(b, `,"outputs":[`...)
	for i := range outputs {
		t := &outputs[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = jsontensor.AppendText(b, t.Name)
		b = append(b, `,"datatype":"`...)
		b = append(b, t.Datatype.String()...)
		b = append(b, `","shape":`...)
		b = appendShape(b, t.Shape)
		if r.wantsBinary(i) {
			b = append(b, `,"parameters":{"binary_data_size":`...)
			b = strconv.AppendInt(b, int64(len(t.Data)), 10)
			b = append(b, `}}`...)
			binaryTensors = append(binaryTensors, t.Data)
			continue
		}
		if err := t.Validate(); err != nil {
			return b, binaryTensors, errors.New("the model returned an output that does not hold: " + err.Error())
		}
		if err := reserve(textSize(t)); err != nil {
			return b, binaryTensors, err
		}
		n, _ := tensor.Elements(t.Shape) // which Validate has counted
		b = append(b, `,"data":[`...)
		encoder := jsontensor.NewEncoder(t, "ask for it as binary data (parameters.binary_data)")
		var err error
		if b, err = encoder.Append(b, n); err != nil {
			return b, binaryTensors, err
		}
		b = append(b, `]}`...)
	}
	return append(b, `]}`...), binaryTensors, nil
}

// textSize is about as much as the JSON of a tensor takes.
func textSize(t *tensor.Tensor) int64 {
	perByte := [...]int64{tensor.Bool: 6, tensor.Uint8: 4, tensor.Int8: 4, tensor.FP64: 2, tensor.Bytes: 1, tensor.BF16: 3}
	if n := perByte[t.Datatype]; n > 0 {
		return n * int64(len(t.Data))
	}
	return 3 * int64(len(t.Data))
}

// wantsBinary says whether the i-th output is to be binary.
func (r *request) wantsBinary(i int) bool {
	if i < len(r.outputs) && r.outputs[i].says {
		return r.outputs[i].binary
	}
	return r.binary
}

func appendShape(b []byte, shape []int64) []byte {
	b = append(b, '[')
	for i, d := range shape {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, d, 10)
	}
	return append(b, ']')
}
