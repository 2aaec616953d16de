package wire

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// Call is an inference request in one of its forms.
type Call struct {
	Version    string // "": not said
	ID         string
	Inputs     []Value
	Binary     func(i int) bool // which inputs are sent in the binary form; nil: none
	Nest       bool
	Outputs    []map[string]any // requested outputs; nil: not said
	Parameters map[string]any
}

// All is for Binary.
func All(int) bool { return true }

// Encode makes the body, and the length of its JSON when binary tensors follow, else -1.
func (c *Call) Encode() (body []byte, length int, err error) {
	request := map[string]any{}
	if c.ID != "" {
		request["id"] = c.ID
	}
	if c.Parameters != nil {
		request["parameters"] = c.Parameters
	}
	if c.Outputs != nil {
		request["outputs"] = c.Outputs
	}
	var tail []byte
	inputs := []any{}
	binary := false
	for i := range c.Inputs {
		v := &c.Inputs[i]
		in := map[string]any{"name": v.Name, "datatype": v.Datatype, "shape": append([]int64{}, v.Shape...)}
		switch {
		case c.Binary != nil && c.Binary(i):
			binary = true
			in["parameters"] = map[string]int{"binary_data_size": len(v.Raw)}
			tail = append(tail, v.Raw...)
		case c.Nest:
			in["data"] = Nested(v.List(), v.Shape)
		default:
			in["data"] = v.List()
		}
		inputs = append(inputs, in)
	}
	request["inputs"] = inputs
	head, err := json.Marshal(request)
	if err != nil || !binary {
		return head, -1, err
	}
	return append(head, tail...), len(head), nil
}

// LengthHeader is the header of a body that Encode made.
func LengthHeader(length int) http.Header {
	if length < 0 {
		return http.Header{"Content-Type": {"application/json"}}
	}
	return http.Header{"Content-Type": {"application/octet-stream"}, LengthName: {strconv.Itoa(length)}}
}

// Answer is an inference response as read.
type Answer struct {
	Model, Version, ID string
	Outputs            []Value
	Binary             map[string]bool // the outputs that came in the binary form
}

// Answer reads an inference response, JSON alone or with binary tensors behind it.
func (p *Reply) Answer() (*Answer, error) {
	if err := p.OK(); err != nil {
		return nil, err
	}
	head, tail := p.Body, []byte(nil)
	if text := p.Header.Get(LengthName); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > len(p.Body) {
			return nil, fmt.Errorf("%s is %q, the answer has %d bytes", LengthName, text, len(p.Body))
		}
		head, tail = p.Body[:n], p.Body[n:]
	}
	var doc struct {
		ModelName    *string `json:"model_name"`
		ModelVersion *string `json:"model_version"`
		ID           string  `json:"id"`
		Outputs      []struct {
			Name       string
			Datatype   string
			Shape      []int64
			Parameters struct {
				Size *int `json:"binary_data_size"`
			}
			Data json.RawMessage
		}
	}
	if err := Decode(head, &doc); err != nil {
		return nil, err
	}
	if doc.ModelName == nil {
		return nil, fmt.Errorf("the answer has no \"model_name\"")
	}
	out := &Answer{Model: *doc.ModelName, ID: doc.ID, Binary: map[string]bool{}}
	if doc.ModelVersion != nil {
		out.Version = *doc.ModelVersion
	}
	for _, o := range doc.Outputs {
		if _, known := Sizes[o.Datatype]; !known {
			return nil, fmt.Errorf("output %q has the datatype %q, which the protocol does not have", o.Name, o.Datatype)
		}
		for _, d := range o.Shape {
			if d < 0 {
				return nil, fmt.Errorf("output %q has the shape %v; an answer's dimensions are known", o.Name, o.Shape)
			}
		}
		v := Value{Name: o.Name, Datatype: o.Datatype, Shape: o.Shape}
		switch size := o.Parameters.Size; {
		case size != nil && o.Data != nil:
			return nil, fmt.Errorf("output %q has both \"data\" and \"binary_data_size\"", o.Name)
		case size != nil:
			if *size < 0 || *size > len(tail) {
				return nil, fmt.Errorf("output %q has binary_data_size %d, but %d bytes are left", o.Name, *size, len(tail))
			}
			v.Raw, tail = tail[:*size], tail[*size:]
			out.Binary[o.Name] = true
			if err := v.Each(func(int64, []byte) {}); err != nil {
				return nil, err
			}
		case o.Data == nil:
			return nil, fmt.Errorf("output %q has neither \"data\" nor \"binary_data_size\"", o.Name)
		default:
			var err error
			if v, err = parseList(o.Name, o.Datatype, o.Shape, o.Data); err != nil {
				return nil, err
			}
		}
		out.Outputs = append(out.Outputs, v)
	}
	if len(tail) > 0 {
		return nil, fmt.Errorf("%d bytes follow the last binary output", len(tail))
	}
	return out, nil
}

// Find returns an output, or nil.
func (a *Answer) Find(name string) *Value {
	for i := range a.Outputs {
		if a.Outputs[i].Name == name {
			return &a.Outputs[i]
		}
	}
	return nil
}

// Agrees compares an answer with the reference, output by output: both must have the same ones.
func (a *Answer) Agrees(with *Answer) error {
	if len(a.Outputs) != len(with.Outputs) {
		return fmt.Errorf("%d outputs came where %d were expected", len(a.Outputs), len(with.Outputs))
	}
	for i := range with.Outputs {
		w := &with.Outputs[i]
		v := a.Find(w.Name)
		if v == nil {
			return fmt.Errorf("output %q is missing", w.Name)
		}
		if err := w.Same(v); err != nil {
			return err
		}
	}
	return nil
}
