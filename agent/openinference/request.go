package openinference

import (
	"math"
	"strconv"
	"time"

	"github.com/dhowfleet/dhow/models/jsontensor"
	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	maxTensors = 256  // inputs or outputs of one request
	maxID      = 1024 // bytes of a request's id
)

// request is an inference request as it was written. Data is a view of the body where it can be. The slices of inputs and
// outputs are used again by the next request that is parsed into it.
type request struct {
	id       string
	hasID    bool
	inputs   []tensor.Tensor
	outputs  []wanted
	binary   bool // binary_data_output: the form of outputs that do not say
	priority uint64
	timeout  time.Duration
	shapes   []int64 // what the inputs' shapes are cut from
}

// wanted is an output that was asked for.
type wanted struct {
	name    string
	binary  bool
	says    bool // binary was given
	classes int  // classification; 0 is the tensor itself
}

// input is what one element of "inputs" says, before its data is read.
type input struct {
	t          tensor.Tensor
	hasShape   bool
	binarySize int64 // -1: not binary
	encoded    bool
	dataAt     int // where data stands, -1: nowhere
}

// parser reads one request.
type parser struct {
	jsontensor.Scanner
	request *request
	rest    []byte // binary tensors that no input has taken yet
	memory  jsontensor.Memory
}

// reset makes r an empty request.
func (r *request) reset() {
	clear(r.inputs)
	clear(r.outputs)
	*r = request{inputs: r.inputs[:0], outputs: r.outputs[:0]}
}

// parse reads a request into r, which is empty: body[:header] is JSON, what follows are the binary tensors. memory is
// asked for what is used beyond the body itself.
func (r *request) parse(body []byte, header int, memory jsontensor.Memory) error {
	p := parser{Scanner: jsontensor.NewScanner(body[:header]), request: r, rest: body[header:], memory: memory}
	var seen struct{ inputs, outputs bool }
	err := p.Object(func(key []byte) error {
		switch string(key) {
		case "id":
			return p.id()
		case "parameters":
			return p.parameters(p.requestParameter)
		case "inputs":
			if seen.inputs {
				return badRequest(`"inputs" is given twice`)
			}
			seen.inputs = true
			return p.Array(func() error {
				if len(r.inputs) == maxTensors {
					return badRequest("more than %d inputs", maxTensors)
				}
				return p.input()
			})
		case "outputs":
			if seen.outputs {
				return badRequest(`"outputs" is given twice`)
			}
			seen.outputs = true
			if p.Null() {
				return nil
			}
			return p.Array(func() error {
				if len(r.outputs) == maxTensors {
					return badRequest("more than %d outputs", maxTensors)
				}
				return p.output()
			})
		}
		return p.Skip()
	})
	if err == nil {
		err = p.End()
	}
	if err != nil {
		return err
	}
	if !seen.inputs {
		return badRequest(`the request has no "inputs"`)
	}
	if len(p.rest) > 0 {
		return badRequest("%d bytes follow the binary tensors that the request describes", len(p.rest))
	}
	return nil
}

func (p *parser) id() error {
	if p.Null() {
		return nil
	}
	text, err := p.Text()
	if err != nil {
		return err
	}
	if len(text) > maxID {
		return badRequest("the id has %d bytes, at most %d are allowed", len(text), maxID)
	}
	p.request.id, p.request.hasID = string(text), true
	return nil
}

// parameters reads an object of parameters; null is an empty one.
func (p *parser) parameters(field func(name []byte) error) error {
	if p.Null() {
		return nil
	}
	return p.Object(field)
}

// requestParameter reads a parameter of the whole request. Those that are not known here may be known to other servers.
func (p *parser) requestParameter(name []byte) (err error) {
	switch string(name) {
	case "binary_data_output":
		p.request.binary, err = p.Bool()
		return err
	case "priority":
		p.request.priority, err = p.unsigned("priority")
		return err
	case "timeout":
		micros, err := p.unsigned("timeout")
		p.request.timeout = time.Duration(min(micros, math.MaxInt64/1000)) * time.Microsecond
		return err
	case "sequence_id":
		empty := p.Next() == '"'
		if empty {
			text, err := p.Text()
			if err != nil {
				return err
			}
			empty = len(text) == 0
		} else if n, err := p.unsigned("sequence_id"); err != nil {
			return err
		} else {
			empty = n == 0
		}
		if !empty {
			return badRequest("sequences are not served: leave sequence_id out, and send what a model keeps between requests as tensors")
		}
		return nil
	case "sequence_start", "sequence_end":
		set, err := p.Bool()
		if err == nil && set {
			err = badRequest("sequences are not served: leave %s out, and send what a model keeps between requests as tensors", name)
		}
		return err
	}
	return p.Skip()
}

// unsigned reads the number that is the value of a parameter.
func (p *parser) unsigned(name string) (uint64, error) {
	text, err := p.Number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return 0, badRequest("the parameter %s is %.40s, which is no whole number from 0 on", name, text)
	}
	return n, nil
}

// input reads one element of "inputs".
func (p *parser) input() error {
	in := input{binarySize: -1, dataAt: -1}
	err := p.Object(func(key []byte) error {
		switch string(key) {
		case "name":
			text, err := p.Text()
			in.t.Name = string(text)
			return err
		case "datatype":
			text, err := p.Text()
			if err != nil {
				return err
			}
			in.t.Datatype, err = tensor.ParseDatatype(string(text))
			if err != nil {
				return badRequest("input %q: %v", in.t.Name, err)
			}
			return nil
		case "shape":
			in.hasShape = true
			return p.shape(&in.t)
		case "parameters":
			return p.parameters(func(name []byte) error { return p.inputParameter(&in, name) })
		case "data":
			if in.dataAt >= 0 {
				return badRequest("input %q: data is given twice", in.t.Name)
			}
			p.Next()
			in.dataAt = p.Pos()
			// What data means depends on fields that usually stand before it; if not, it is passed over for now. How
			// strings are written is said by the parameters, which often come last.
			if in.hasShape && in.t.Datatype.Size() > 0 && in.binarySize < 0 {
				return p.data(&in)
			}
			return p.Skip()
		}
		return p.Skip()
	})
	if err == nil {
		err = in.check()
	}
	switch {
	case err != nil:
		return err
	case in.binarySize >= 0:
		if in.dataAt >= 0 {
			return badRequest("input %q has both data and binary_data_size", in.t.Name)
		}
		if in.binarySize > int64(len(p.rest)) {
			return badRequest("input %q: binary_data_size is %d, but only %d bytes follow the JSON (see the header %s)", in.t.Name, in.binarySize, len(p.rest), headerLength)
		}
		in.t.Data = p.rest[:in.binarySize:in.binarySize]
		p.rest = p.rest[in.binarySize:]
	case in.dataAt < 0:
		return badRequest("input %q has neither data nor binary_data_size", in.t.Name)
	case in.t.Data == nil:
		later := p.Pos()
		p.Seek(in.dataAt)
		if err := p.data(&in); err != nil {
			return err
		}
		p.Seek(later)
	}
	p.request.inputs = append(p.request.inputs, in.t)
	return nil
}

// data reads the JSON of an input whose datatype and shape are known.
func (p *parser) data(in *input) error {
	d := jsontensor.Decoder{Scanner: &p.Scanner, Memory: p.memory, Name: in.t.Name, Datatype: in.t.Datatype, Shape: in.t.Shape, Base64: in.encoded}
	err := d.Tensor()
	in.t.Data = d.Data
	return err
}

func (in *input) check() error {
	switch {
	case in.t.Name == "":
		return badRequest("an input has no name")
	case !in.t.Datatype.Valid():
		return badRequest("input %q has no datatype", in.t.Name)
	case !in.hasShape:
		return badRequest("input %q has no shape", in.t.Name)
	case in.encoded && in.t.Datatype != tensor.Bytes:
		return badRequest("input %q: content_type base64 is for BYTES", in.t.Name)
	}
	return nil
}

func (p *parser) inputParameter(in *input, name []byte) error {
	switch string(name) {
	case "binary_data_size":
		text, err := p.Number()
		if err != nil {
			return err
		}
		in.binarySize, err = strconv.ParseInt(string(text), 10, 64)
		if err != nil || in.binarySize < 0 {
			return badRequest("input %q: binary_data_size %.40s is no size", in.t.Name, text)
		}
		return nil
	case "content_type":
		text, err := p.Text()
		if err != nil {
			return err
		}
		// Other values are labels for whoever logs the request; this one says how data is written.
		in.encoded = string(text) == "base64"
		return nil
	case "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset":
		return badRequest("input %q: %s", in.t.Name, noSharedMemory)
	}
	return p.Skip()
}

const noSharedMemory = "shared memory is not served; send the data with the request, as binary data for speed"

// shape reads a shape into the request's own slice of them.
func (p *parser) shape(t *tensor.Tensor) error {
	r := p.request
	if r.shapes == nil {
		r.shapes = make([]int64, 0, 8)
	}
	at := len(r.shapes)
	err := p.Array(func() error {
		if len(r.shapes)-at == tensor.MaxRank {
			return badRequest("input %q: shape has more than %d dimensions", t.Name, tensor.MaxRank)
		}
		text, err := p.Number()
		if err != nil {
			return err
		}
		d, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil || d < 0 {
			return badRequest("input %q: dimension %.40s of shape is no size", t.Name, text)
		}
		r.shapes = append(r.shapes, d)
		return nil
	})
	t.Shape = r.shapes[at:len(r.shapes):len(r.shapes)]
	return err
}

func (p *parser) output() error {
	var w wanted
	err := p.Object(func(key []byte) error {
		switch string(key) {
		case "name":
			text, err := p.Text()
			w.name = string(text)
			return err
		case "parameters":
			return p.parameters(func(name []byte) error { return p.outputParameter(&w, name) })
		}
		return p.Skip()
	})
	if err != nil {
		return err
	}
	if w.name == "" {
		return badRequest("an output has no name")
	}
	for i := range p.request.outputs {
		if p.request.outputs[i].name == w.name {
			return badRequest("output %q is asked for twice", w.name)
		}
	}
	p.request.outputs = append(p.request.outputs, w)
	return nil
}

func (p *parser) outputParameter(w *wanted, name []byte) (err error) {
	switch string(name) {
	case "binary_data":
		w.says = true
		w.binary, err = p.Bool()
		return err
	case "classification":
		n, err := p.unsigned("classification")
		if err == nil && n == 0 {
			err = badRequest("output %q: classification 0 asks for no class; leave it out for the tensor itself", w.name)
		}
		w.classes = int(min(n, math.MaxInt32))
		return err
	case "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset":
		return badRequest("output %q: %s", w.name, noSharedMemory)
	}
	return p.Skip()
}
