// Package predictv1 reads and writes the bodies of KServe's first protocol, which is TensorFlow Serving's: instances in,
// predictions out.
//
//	{"instances": [[1, 2], [3, 4]]}                 rows of a model's only input
//	{"instances": [{"x": [1, 2], "y": "a"}, ...]}   rows of several inputs, by name
//	{"inputs": {"x": [[1, 2], [3, 4]], "y": ...}}   whole inputs, by name; or the only input itself
//
// Nothing in a body says what type or shape its values have. The model's own description does: types and numbers of
// dimensions are its, sizes that vary are those of the data, and the first dimension is the number of instances.
// Instances are answered with predictions, rows of the only output or objects of a row each; whole inputs with whole
// outputs. Bytes that are no text are written {"b64": "..."}. FP16, BF16, NaN and infinity have no form here.
//
// Parse and AppendResponse are functions of their arguments; they block for nothing. Memory is asked for before it is
// used. What is wrong with a body is an *inference.InputError.
package predictv1

import (
	"fmt"
	"slices"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/jsontensor"
	"github.com/dhowfleet/dhow/models/tensor"
)

// MaxInputs bounds the inputs of a model that is asked in this form.
const MaxInputs = 256

// Request is what a body says.
type Request struct {
	Inputs []tensor.Tensor
	// Columns says that inputs were whole tensors, and so are outputs to be.
	Columns bool
	// Instances is how many there are; 0 where inputs were whole.
	Instances int64
}

// parser reads one body.
type parser struct {
	jsontensor.Scanner
	specs    []tensor.Spec
	decoders []jsontensor.Decoder // of specs
	filled   []int64              // how many values the decoder of the same index has
	request  Request
}

// Parse reads a body for a model with these inputs.
func Parse(body []byte, specs []tensor.Spec, memory jsontensor.Memory) (*Request, error) {
	if len(specs) == 0 || len(specs) > MaxInputs {
		return nil, inference.Inputf("the model has %d inputs, and cannot be asked in this form; use /v2/models/.../infer", len(specs))
	}
	p := &parser{Scanner: jsontensor.NewScanner(body), specs: specs, decoders: make([]jsontensor.Decoder, len(specs)), filled: make([]int64, len(specs))}
	for i, s := range specs {
		p.decoders[i] = jsontensor.Decoder{Scanner: &p.Scanner, Memory: memory, Name: s.Name, Datatype: s.Datatype, Shape: slices.Clone(s.Shape), Wrapped: true}
	}
	seen := false
	err := p.Object(func(key []byte) error {
		rows := string(key) == "instances"
		if !rows && string(key) != "inputs" {
			return p.Skip() // signature_name and the like
		}
		if seen {
			return inference.Inputf(`the request has more than one of "instances" and "inputs"`)
		}
		seen = true
		if rows {
			return p.instances()
		}
		p.request.Columns = true
		return p.inputs()
	})
	if err == nil {
		err = p.End()
	}
	if err == nil && !seen {
		err = inference.Inputf(`the request has no "instances"`)
	}
	if err != nil {
		return nil, err
	}
	for i := range p.decoders {
		d := &p.decoders[i]
		if p.filled[i] == 0 {
			return nil, inference.Inputf("input %q is missing", d.Name)
		}
		for l, size := range d.Shape {
			if size < 0 { // lists were empty before it came to these
				d.Shape[l] = 0
			}
		}
		p.request.Inputs = append(p.request.Inputs, tensor.Tensor{Name: d.Name, Datatype: d.Datatype, Shape: d.Shape, Data: d.Data})
	}
	return &p.request, nil
}

// instances reads the rows of inputs.
func (p *parser) instances() error {
	for i := range p.specs {
		if len(p.specs[i].Shape) == 0 {
			return inference.Inputf(`input %q has no dimension for instances; send whole inputs as "inputs"`, p.specs[i].Name)
		}
	}
	n := int64(0)
	err := p.Array(func() error {
		n++
		return p.instance(n)
	})
	if err != nil {
		return err
	}
	if n == 0 {
		return inference.Inputf(`"instances" is empty`)
	}
	p.request.Instances = n
	for i := range p.decoders {
		d := &p.decoders[i]
		if fixed := d.Shape[0]; fixed >= 0 && fixed != n {
			return inference.Inputf("the request has %d instances, the model takes %d", n, fixed)
		}
		d.Shape[0] = n
	}
	return nil
}

// instance reads the n-th row, which is named by object or, for a single input, itself.
func (p *parser) instance(n int64) error {
	if p.Next() != '{' || len(p.specs) == 1 && p.wrapped() {
		if len(p.specs) > 1 {
			return inference.Inputf("instance %d is no object, but the model has %d inputs: write {%q: ...}", n-1, len(p.specs), p.specs[0].Name)
		}
		p.filled[0] = n
		return p.decoders[0].Value(1)
	}
	err := p.Object(func(key []byte) error {
		i := p.find(key)
		if i < 0 {
			return p.unknown(key)
		}
		if p.filled[i] == n {
			return inference.Inputf("instance %d has %q twice", n-1, p.specs[i].Name)
		}
		p.filled[i] = n
		return p.decoders[i].Value(1)
	})
	if err != nil {
		return err
	}
	for i, filled := range p.filled {
		if filled != n {
			return inference.Inputf("instance %d has no %q", n-1, p.specs[i].Name)
		}
	}
	return nil
}

// wrapped reports whether the object that is next is bytes in base64 and no row by name. It reads nothing.
func (p *parser) wrapped() bool {
	if p.specs[0].Datatype != tensor.Bytes || p.specs[0].Name == "b64" {
		return false
	}
	at, found := p.Pos(), false
	_ = p.Object(func(key []byte) error { // what is wrong with it is found when it is read
		found = string(key) == "b64"
		return errLooked
	})
	p.Seek(at)
	return found
}

var errLooked = fmt.Errorf("the first name was seen")

// inputs reads whole inputs.
func (p *parser) inputs() error {
	whole := func(i int) error {
		p.filled[i] = 1
		return p.decoders[i].Value(0)
	}
	if p.Next() != '{' || len(p.specs) == 1 && p.wrapped() {
		if len(p.specs) > 1 {
			return inference.Inputf(`"inputs" is no object, but the model has %d inputs: write {%q: ...}`, len(p.specs), p.specs[0].Name)
		}
		return whole(0)
	}
	return p.Object(func(key []byte) error {
		i := p.find(key)
		switch {
		case i < 0:
			return p.unknown(key)
		case p.filled[i] > 0:
			return inference.Inputf("input %q is given twice", p.specs[i].Name)
		}
		return whole(i)
	})
}

func (p *parser) find(key []byte) int {
	return slices.IndexFunc(p.specs, func(s tensor.Spec) bool { return s.Name == string(key) })
}

func (p *parser) unknown(key []byte) error {
	names := make([]string, 0, 8)
	for i := range p.specs[:min(len(p.specs), cap(names))] {
		names = append(names, p.specs[i].Name)
	}
	return inference.Inputf("the model has no input %q, but %q", key, names)
}
