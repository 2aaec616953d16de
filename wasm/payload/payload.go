// Package payload writes a request and reads an answer as the bytes that programs without Dhow's contract take and give:
// WASI commands on their standard streams, Extism plug-ins as input and output.
//
//	Tensors  the tensor list of wasm/abi, both ways
//	Raw      the bytes of the only element of the only tensor, which is BYTES, both ways; the answer has the request's
//	         name and shape
//	JSON     {"inputs":[{"name","shape","datatype","data"}]} in, {"outputs":[...]} out, as the Open Inference Protocol
//	         has them. BYTES that are not UTF-8 are written in base64, with the parameter content_type "base64", which an
//	         answer may use as well. FP16 and BF16 have no form in JSON.
//
// It is pure: it keeps no state, does no I/O and does not block. What an answer may take is bounded by the caller, and
// its tensors may be views of it.
package payload

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/dhowfleet/dhow/models/jsontensor"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// Format is how tensors are written.
type Format uint8

// The formats.
const (
	Tensors Format = iota
	Raw
	JSON
)

var names = [...]string{Tensors: "tensors", Raw: "raw", JSON: "json"}

// Parse reads a format's name.
func Parse(name string) (Format, error) {
	i := slices.Index(names[:], name)
	if i < 0 {
		return 0, fmt.Errorf("there is no format %q; there are tensors, raw and json", name)
	}
	return Format(i), nil
}

func (f Format) String() string {
	if int(f) < len(names) {
		return names[f]
	}
	return "unknown"
}

// Size says why a request cannot be written, or about how many bytes it takes: exactly for Tensors and Raw, and no fewer
// than its data for JSON.
func (f Format) Size(request []tensor.Tensor) (int, error) {
	size, err := abi.Size(request)
	if err != nil || f == Tensors {
		return size, err
	}
	if f == Raw {
		element, err := only(request)
		return len(element), err
	}
	for i := range request {
		if t := request[i].Datatype; t == tensor.FP16 || t == tensor.BF16 {
			return 0, fmt.Errorf("tensor %q: %s has no form in JSON", request[i].Name, t)
		}
	}
	return size, nil
}

// only returns the only element of a request's only tensor.
func only(request []tensor.Tensor) ([]byte, error) {
	if len(request) != 1 || request[0].Datatype != tensor.Bytes {
		return nil, errors.New("the format raw is for one tensor of datatype BYTES")
	}
	elements, err := tensor.SplitBytes(request[0].Data)
	if err != nil {
		return nil, err
	}
	if len(elements) != 1 {
		return nil, fmt.Errorf("the format raw is for one element, there are %d", len(elements))
	}
	return elements[0], nil
}

// Append writes a request.
func (f Format) Append(dst []byte, request []tensor.Tensor) ([]byte, error) {
	switch f {
	case Raw:
		element, err := only(request)
		return append(dst, element...), err
	case JSON:
		return appendJSON(dst, request)
	}
	size, err := abi.Size(request)
	if err != nil {
		return dst, err
	}
	at := len(dst)
	dst = slices.Grow(dst, size)[:at+size]
	return dst, abi.Put(dst[at:], request)
}

func appendJSON(b []byte, request []tensor.Tensor) ([]byte, error) {
	b = append(b, `{"inputs":[`...)
	for i := range request {
		t := &request[i]
		n, err := tensor.Elements(t.Shape)
		if err != nil {
			return b, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = jsontensor.AppendText(b, t.Name)
		b = append(b, `,"datatype":"`...)
		b = append(b, t.Datatype.String()...)
		b = append(b, `","shape":[`...)
		for j, d := range t.Shape {
			if j > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, d, 10)
		}
		b = append(b, ']')
		if t.Datatype == tensor.Bytes && !utf8.Valid(t.Data) {
			if b, err = appendBase64(b, t); err != nil {
				return b, err
			}
			continue
		}
		b = append(b, `,"data":[`...)
		encoder := jsontensor.NewEncoder(t, "use the format tensors")
		if b, err = encoder.Append(b, n); err != nil {
			return b, err
		}
		b = append(b, `]}`...)
	}
	return append(b, `]}`...), nil
}

// appendBase64 writes the end of a tensor whose bytes are no text. Lengths of elements that are no text either lead here
// too, which does no harm.
func appendBase64(b []byte, t *tensor.Tensor) ([]byte, error) {
	elements, err := tensor.SplitBytes(t.Data)
	if err != nil {
		return b, err
	}
	b = append(b, `,"parameters":{"content_type":"base64"},"data":[`...)
	for i, e := range elements {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, e)
		b = append(b, '"')
	}
	return append(b, `]}`...), nil
}

// Decode reads the answer to a request; its tensors take at most limit bytes. A sentence about what is wrong with the
// answer is the error.
func (f Format) Decode(answer []byte, request []tensor.Tensor, limit int64) ([]tensor.Tensor, error) {
	switch f {
	case Raw:
		if len(request) != 1 {
			return nil, errors.New("the format raw is for one tensor")
		}
		if int64(len(answer)) > min(limit, abi.MaxList)-4 {
			return nil, errTooLong
		}
		return []tensor.Tensor{{Name: request[0].Name, Datatype: tensor.Bytes, Shape: request[0].Shape, Data: tensor.AppendBytes(nil, answer)}}, nil
	case JSON:
		return decodeJSON(answer, limit)
	}
	return abi.Decode(answer)
}

var errTooLong = errors.New("the answer's tensors take more memory than they may")

// budget bounds what decoding takes.
type budget struct{ left int64 }

func (m *budget) Grow(data []byte, size int64) ([]byte, error) {
	if size > m.left || size > math.MaxInt32 {
		return nil, errTooLong
	}
	m.left -= size
	return append(make([]byte, 0, size), data...), nil
}

// parser reads an answer.
type parser struct {
	jsontensor.Scanner
	memory budget
	out    []tensor.Tensor
}

func decodeJSON(answer []byte, limit int64) ([]tensor.Tensor, error) {
	p := parser{Scanner: jsontensor.NewScanner(answer), memory: budget{limit}}
	seen := false
	err := p.Object(func(key []byte) error {
		if string(key) != "outputs" {
			return p.Skip()
		}
		if seen {
			return errors.New(`"outputs" is given twice`)
		}
		seen = true
		return p.Array(p.tensor)
	})
	if err == nil {
		err = p.End()
	}
	if err == nil && !seen {
		err = errors.New(`there is no "outputs"`)
	}
	if err == nil {
		_, err = abi.Size(p.out) // its bounds and its names hold for every answer
	}
	if err != nil {
		return nil, fmt.Errorf("its JSON cannot be read: %w", err)
	}
	return p.out, nil
}

// tensor reads one element of "outputs".
func (p *parser) tensor() error {
	if len(p.out) == abi.MaxTensors {
		return fmt.Errorf("there are more than %d outputs", abi.MaxTensors)
	}
	var t tensor.Tensor
	encoded, shaped, data := false, false, -1
	err := p.Object(func(key []byte) error {
		switch string(key) {
		case "name":
			text, err := p.Text()
			t.Name = string(text)
			return err
		case "datatype":
			text, err := p.Text()
			if err != nil {
				return err
			}
			t.Datatype, err = tensor.ParseDatatype(string(text))
			return err
		case "shape":
			t.Shape, shaped = nil, true
			return p.Array(func() error { return p.dimension(&t) })
		case "parameters":
			return p.Object(func(key []byte) error {
				if string(key) != "content_type" {
					return p.Skip()
				}
				text, err := p.Text()
				encoded = string(text) == "base64"
				return err
			})
		case "data":
			p.Next()
			data = p.Pos()
		}
		return p.Skip()
	})
	switch {
	case err != nil:
		return err
	case !shaped || data < 0 || !t.Datatype.Valid():
		return fmt.Errorf("output %q lacks its shape, its datatype or its data", t.Name)
	}
	after := p.Pos()
	p.Seek(data)
	d := jsontensor.Decoder{Scanner: &p.Scanner, Memory: &p.memory, Name: t.Name, Datatype: t.Datatype, Shape: t.Shape, Base64: encoded, Wrapped: true}
	if err := d.Tensor(); err != nil {
		return err
	}
	p.Seek(after)
	t.Data = d.Data
	p.out = append(p.out, t)
	return nil
}

func (p *parser) dimension(t *tensor.Tensor) error {
	text, err := p.Number()
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 0 || len(t.Shape) == abi.MaxRank {
		return fmt.Errorf("output %q: %.40s is no dimension of a tensor of at most %d", t.Name, text, abi.MaxRank)
	}
	t.Shape = append(t.Shape, n)
	return nil
}
