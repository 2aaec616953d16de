package openinference

import (
	"bytes"
	"strconv"

	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	maxTensors = 256  // inputs or outputs of one request
	maxID      = 1024 // bytes of a request's id
)

// request is an inference request as it was written. Names and data are views of the body where they can be.
type request struct {
	id      string
	hasID   bool
	inputs  []tensor.Tensor
	outputs []wanted
	binary  bool // binary_data_output: the form of outputs that do not say
}

// wanted is an output that was asked for.
type wanted struct {
	name   string
	binary bool
	says   bool // binary was given
}

// input is what one element of "inputs" says, before its data is read.
type input struct {
	t          tensor.Tensor
	hasShape   bool
	binarySize int64 // -1: not binary
	encoded    bool
	dataAt     int // where data stands, -1: nowhere
}

// parse reads a request: body[:header] is JSON, what follows are the binary tensors. reserve is asked before memory is
// used beyond the body itself.
func parse(body []byte, header int, reserve func(int64) error) (*request, error) {
	r := &request{}
	s := &scanner{data: body[:header]}
	rest := body[header:]
	var seen struct{ inputs, outputs bool }
	err := s.object(func(key []byte) error {
		switch string(key) {
		case "id":
			if s.null() {
				return nil
			}
			text, err := s.text()
			if err != nil {
				return err
			}
			if len(text) > maxID {
				return badRequest("the id has %d bytes, at most %d are allowed", len(text), maxID)
			}
			r.id, r.hasID = string(text), true
			return nil
		case "parameters":
			return s.parameters(func(name []byte) (err error) {
				if string(name) == "binary_data_output" {
					r.binary, err = s.boolean()
					return err
				}
				return s.skip(0)
			})
		case "inputs":
			if seen.inputs {
				return badRequest(`"inputs" is given twice`)
			}
			seen.inputs = true
			return s.array(func() error {
				if len(r.inputs) == maxTensors {
					return badRequest("more than %d inputs", maxTensors)
				}
				t, after, err := s.input(rest, reserve)
				if err != nil {
					return err
				}
				rest = after
				r.inputs = append(r.inputs, t)
				return nil
			})
		case "outputs":
			if seen.outputs {
				return badRequest(`"outputs" is given twice`)
			}
			seen.outputs = true
			if s.null() {
				return nil
			}
			return s.array(func() error {
				if len(r.outputs) == maxTensors {
					return badRequest("more than %d outputs", maxTensors)
				}
				w, err := s.output()
				r.outputs = append(r.outputs, w)
				return err
			})
		}
		return s.skip(0)
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	if !seen.inputs {
		return nil, badRequest(`the request has no "inputs"`)
	}
	if len(rest) > 0 {
		return nil, badRequest("%d bytes follow the binary tensors that the request describes", len(rest))
	}
	return r, nil
}

// parameters reads an object of parameters; null is an empty one.
func (s *scanner) parameters(field func(name []byte) error) error {
	if s.null() {
		return nil
	}
	return s.object(field)
}

// input reads one element of "inputs" and returns what it leaves of the binary data.
func (s *scanner) input(rest []byte, reserve func(int64) error) (tensor.Tensor, []byte, error) {
	in := input{binarySize: -1, dataAt: -1}
	err := s.object(func(key []byte) error {
		switch string(key) {
		case "name":
			text, err := s.text()
			in.t.Name = string(text)
			return err
		case "datatype":
			text, err := s.text()
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
			var err error
			in.t.Shape, err = s.shape(in.t.Name)
			return err
		case "parameters":
			return s.parameters(func(name []byte) error { return s.inputParameter(&in, name) })
		case "data":
			if in.dataAt >= 0 {
				return badRequest("input %q: data is given twice", in.t.Name)
			}
			s.next()
			in.dataAt = s.pos
			// What data means depends on fields that usually stand before it; if not, it is passed over for now. How
			// strings are written is said by the parameters, which often come last.
			if in.hasShape && in.t.Datatype.Size() > 0 && in.binarySize < 0 {
				return decodeData(s, &in.t, in.encoded, reserve)
			}
			return s.skip(0)
		}
		return s.skip(0)
	})
	if err == nil {
		err = in.check()
	}
	switch {
	case err != nil:
		return in.t, rest, err
	case in.binarySize >= 0:
		if in.dataAt >= 0 {
			return in.t, rest, badRequest("input %q has both data and binary_data_size", in.t.Name)
		}
		if in.binarySize > int64(len(rest)) {
			return in.t, rest, badRequest("input %q: binary_data_size is %d, but only %d bytes follow the JSON (see the header %s)", in.t.Name, in.binarySize, len(rest), headerLength)
		}
		in.t.Data = rest[:in.binarySize:in.binarySize]
		rest = rest[in.binarySize:]
	case in.dataAt < 0:
		return in.t, rest, badRequest("input %q has neither data nor binary_data_size", in.t.Name)
	case in.t.Data == nil:
		later := s.pos
		s.pos = in.dataAt
		err := decodeData(s, &in.t, in.encoded, reserve)
		s.pos = later
		return in.t, rest, err
	}
	return in.t, rest, nil
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

func (s *scanner) inputParameter(in *input, name []byte) error {
	switch string(name) {
	case "binary_data_size":
		text, err := s.number()
		if err != nil {
			return err
		}
		in.binarySize, err = strconv.ParseInt(string(text), 10, 64)
		if err != nil || in.binarySize < 0 {
			return badRequest("input %q: binary_data_size %s is no size", in.t.Name, text)
		}
		return nil
	case "content_type":
		text, err := s.text()
		if err != nil {
			return err
		}
		// Other values are labels for whoever logs the request; this one says how data is written.
		in.encoded = string(text) == "base64"
		return nil
	}
	return s.skip(0)
}

func (s *scanner) shape(name string) ([]int64, error) {
	shape := make([]int64, 0, 4)
	err := s.array(func() error {
		if len(shape) == tensor.MaxRank {
			return badRequest("input %q: shape has more than %d dimensions", name, tensor.MaxRank)
		}
		text, err := s.number()
		if err != nil {
			return err
		}
		d, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil || d < 0 {
			return badRequest("input %q: dimension %s of shape is no size", name, text)
		}
		shape = append(shape, d)
		return nil
	})
	return shape, err
}

func (s *scanner) output() (wanted, error) {
	var w wanted
	err := s.object(func(key []byte) error {
		switch string(key) {
		case "name":
			text, err := s.text()
			w.name = string(text)
			return err
		case "parameters":
			return s.parameters(func(name []byte) (err error) {
				switch {
				case bytes.Equal(name, []byte("binary_data")):
					w.says = true
					w.binary, err = s.boolean()
					return err
				case bytes.Equal(name, []byte("classification")):
					return badRequest("output %q: classification is not supported", w.name)
				}
				return s.skip(0)
			})
		}
		return s.skip(0)
	})
	if err == nil && w.name == "" {
		err = badRequest("an output has no name")
	}
	return w, err
}
