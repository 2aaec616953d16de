package predictv1

import (
	"fmt"

	"github.com/dhowfleet/dhow/models/jsontensor"
	"github.com/dhowfleet/dhow/models/tensor"
)

const instead = "ask by /v2/models/.../infer with binary_data"

// AppendResponse writes the answer to a request. An output that JSON cannot hold is an *inference.InputError, one that
// does not fit the request another error.
func AppendResponse(b []byte, r *Request, outputs []tensor.Tensor) ([]byte, error) {
	if len(outputs) == 0 {
		return b, fmt.Errorf("the model returned no output that this form can carry")
	}
	for i := range outputs {
		if err := outputs[i].Validate(); err != nil {
			return b, fmt.Errorf("the model returned what does not hold: %v", err)
		}
	}
	var err error
	switch {
	case r.Columns && len(outputs) == 1:
		b, err = appendWhole(append(b, `{"outputs":`...), &outputs[0])
	case r.Columns:
		b = append(b, `{"outputs":{`...)
		for i := range outputs {
			b = appendName(b, i, outputs[i].Name)
			if b, err = appendWhole(b, &outputs[i]); err != nil {
				return b, err
			}
		}
		b = append(b, '}')
	case len(outputs) == 1 && !rowFor(&outputs[0], r.Instances):
		// Whatever it is, it is all that there is to say about these instances.
		b, err = appendWhole(append(b, `{"predictions":`...), &outputs[0])
	default:
		b, err = appendRows(append(b, `{"predictions":[`...), r.Instances, outputs)
		b = append(b, ']')
	}
	return append(b, '}'), err
}

// rowFor reports whether t has a row for each of n instances.
func rowFor(t *tensor.Tensor, n int64) bool { return len(t.Shape) > 0 && t.Shape[0] == n }

func appendRows(b []byte, n int64, outputs []tensor.Tensor) ([]byte, error) {
	encoders := make([]jsontensor.Encoder, len(outputs))
	for i := range outputs {
		if !rowFor(&outputs[i], n) {
			return b, fmt.Errorf(`output %q has shape %v and not a row for each of the %d instances; send whole inputs as "inputs"`, outputs[i].Name, outputs[i].Shape, n)
		}
		encoders[i] = jsontensor.NewEncoder(&outputs[i], instead)
	}
	var err error
	for row := range n {
		if row > 0 {
			b = append(b, ',')
		}
		if len(outputs) == 1 {
			if b, err = encoders[0].AppendNested(b, 1, 1); err != nil {
				return b, err
			}
			continue
		}
		b = append(b, '{')
		for i := range outputs {
			b = appendName(b, i, outputs[i].Name)
			if b, err = encoders[i].AppendNested(b, 1, 1); err != nil {
				return b, err
			}
		}
		b = append(b, '}')
	}
	return b, nil
}

func appendName(b []byte, i int, name string) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return append(jsontensor.AppendText(b, name), ':')
}

func appendWhole(b []byte, t *tensor.Tensor) ([]byte, error) {
	e := jsontensor.NewEncoder(t, instead)
	return e.AppendNested(b, 1, 0)
}
