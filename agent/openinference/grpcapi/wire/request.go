// Package wire reads and writes the two messages of the Open Inference Protocol that hold tensors: ModelInferRequest and
// ModelInferResponse, the latter also inside ModelStreamInferResponse.
//
// Generated code would copy each tensor out of a message and each into one; here a request's tensors are views of the
// message wherever its form is the tensor's own, which raw inputs and packed floats are, and a response is appended to
// the buffer that is sent. Everything else about the messages is as the generated code has it (protocol/gen/inference).
//
// A Request is read whole or refused with an *inference.InputError; counts, names and ranks are bounded, and memory is
// asked for before a message grows by being read. Nothing blocks; a Request or Response belongs to its user and lives as
// long as the message it was read from.
package wire

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	maxTensors = 256 // inputs or outputs of one request
	// MaxName bounds a name, version or id, in bytes.
	MaxName = 1024
)

// Request is a ModelInferRequest. Data is a view of the message where it can be; names are not, since they outlive it.
type Request struct {
	Model, Version, ID string
	Priority           uint64        // 1 is the most urgent one, 0 none
	Timeout            time.Duration // 0: none
	Inputs             []tensor.Tensor
	Outputs            []string // that are asked for; none: all
	Classes            []int    // of each of Outputs, how many of the highest; 0: the output as it is

	contents [][]byte // the typed contents of inputs, nil where there are none
	raw      [][]byte
	shapes   []int64 // of all inputs, one after the other
}

// Reset forgets a request but not its memory.
func (r *Request) Reset() {
	clear(r.Inputs)
	clear(r.contents)
	clear(r.raw)
	clear(r.Outputs)
	*r = Request{
		Inputs: r.Inputs[:0], contents: r.contents[:0], raw: r.raw[:0], Outputs: r.Outputs[:0],
		Classes: r.Classes[:0], shapes: r.shapes[:0],
	}
}

func invalid(format string, args ...any) error { return inference.Inputf(format, args...) }

var errMalformed = invalid("the message is no ModelInferRequest: it is cut off, or not protobuf")

// fields calls each for every field of a message, with the value of a field that has a length in b and of the others in
// n. What is unknown is for each to pass over.
func fields(message []byte, each func(number protowire.Number, kind protowire.Type, b []byte, n uint64) error) error {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return errMalformed
		}
		message = message[size:]
		var b []byte
		var n uint64
		switch kind {
		case protowire.BytesType:
			b, size = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			n, size = protowire.ConsumeVarint(message)
		case protowire.Fixed32Type:
			var v uint32
			v, size = protowire.ConsumeFixed32(message)
			n = uint64(v)
		case protowire.Fixed64Type:
			n, size = protowire.ConsumeFixed64(message)
		default:
			size = protowire.ConsumeFieldValue(number, kind, message)
		}
		if size < 0 {
			return errMalformed
		}
		message = message[size:]
		if err := each(number, kind, b, n); err != nil {
			return err
		}
	}
	return nil
}

// text checks a string field.
func text(what string, b []byte) (string, error) {
	if len(b) > MaxName {
		return "", invalid("%s has %d bytes, at most %d are allowed", what, len(b), MaxName)
	}
	if !utf8.Valid(b) {
		return "", invalid("%s is not UTF-8", what)
	}
	return string(b), nil
}

// Decode reads a message into r, which is empty. reserve is asked before memory is taken for what the message grows by.
func (r *Request) Decode(message []byte, reserve func(int64) error) error {
	err := fields(message, func(number protowire.Number, kind protowire.Type, b []byte, _ uint64) (err error) {
		if kind != protowire.BytesType {
			return nil
		}
		switch number {
		case 1:
			r.Model, err = text("model_name", b)
		case 2:
			r.Version, err = text("model_version", b)
		case 3:
			r.ID, err = text("id", b)
		case 4:
			return r.parameter(b)
		case 5:
			return r.input(b)
		case 6:
			return r.output(b)
		case 7:
			if len(r.raw) == maxTensors {
				return invalid("the request has more than %d raw_input_contents", maxTensors)
			}
			r.raw = append(r.raw, b)
		}
		return err
	})
	if err != nil {
		return err
	}
	if r.Model == "" {
		return invalid("model_name is missing")
	}
	return r.fill(reserve)
}

// fill gives the inputs their data.
func (r *Request) fill(reserve func(int64) error) error {
	if len(r.raw) == 0 {
		for i := range r.Inputs {
			if err := fillTyped(&r.Inputs[i], r.contents[i], reserve); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range r.Inputs {
		if r.contents[i] != nil {
			return invalid("input %q has contents beside raw_input_contents; send all inputs one way or all the other", r.Inputs[i].Name)
		}
	}
	if len(r.raw) != len(r.Inputs) {
		return invalid("the request has %d inputs and %d raw_input_contents; each input needs one, in the same order", len(r.Inputs), len(r.raw))
	}
	for i := range r.Inputs {
		r.Inputs[i].Data = r.raw[i]
		if err := r.Inputs[i].Validate(); err != nil {
			return invalid("%v", err)
		}
	}
	return nil
}

// value is an InferParameter.
type value struct {
	kind   protowire.Number // its field, 0: none is set
	number uint64           // bits of a number or a bool
	text   []byte
}

const (
	kindBool   = 1
	kindInt64  = 2
	kindString = 3
	kindDouble = 4
	kindUint64 = 5
)

// entry reads one entry of a map of parameters.
func entry(b []byte) (key string, v value, err error) {
	err = fields(b, func(number protowire.Number, kind protowire.Type, b []byte, _ uint64) (err error) {
		switch {
		case number == 1 && kind == protowire.BytesType:
			key, err = text("the name of a parameter", b)
			return err
		case number == 2 && kind == protowire.BytesType:
			return fields(b, func(number protowire.Number, kind protowire.Type, b []byte, n uint64) error {
				switch {
				case number == kindString && kind == protowire.BytesType:
					if !utf8.Valid(b) {
						return invalid("a parameter's text is not UTF-8")
					}
					v = value{kind: number, text: b}
				case number == kindDouble && kind == protowire.Fixed64Type,
					(number == kindBool || number == kindInt64 || number == kindUint64) && kind == protowire.VarintType:
					v = value{kind: number, number: n}
				}
				return nil
			})
		}
		return nil
	})
	return key, v, err
}

// whole returns a value that is an integer and not negative.
func (v value) whole() (uint64, bool) {
	switch v.kind {
	case kindUint64:
		return v.number, true
	case kindInt64:
		return v.number, int64(v.number) >= 0
	}
	return 0, false
}

// parameter reads one parameter of the request. Those that it does not know are for other servers, or a model's.
func (r *Request) parameter(b []byte) error {
	key, v, err := entry(b)
	if err != nil {
		return err
	}
	switch key {
	case "priority", "timeout":
		n, ok := v.whole()
		if !ok {
			return invalid("parameter %q is to be an integer that is not negative (int64_param or uint64_param)", key)
		}
		if key == "priority" {
			r.Priority = n
			return nil
		}
		if n > math.MaxInt64/uint64(time.Microsecond) {
			n = 0 // it does not shorten the model's own
		}
		r.Timeout = time.Duration(n) * time.Microsecond
	case "sequence_id", "sequence_start", "sequence_end":
		if v.number != 0 || len(v.text) > 0 {
			return invalid("parameter %q: models here keep no sequences; send each request by itself", key)
		}
	}
	return nil
}

const noSharedMemory = "%s %q: shared memory is not served; send the data in the message"

func isSharedMemory(key string) bool {
	return key == "shared_memory_region" || key == "shared_memory_byte_size" || key == "shared_memory_offset"
}

// input reads an InferInputTensor, but for its data.
func (r *Request) input(message []byte) error {
	if len(r.Inputs) == maxTensors {
		return invalid("the request has more than %d inputs", maxTensors)
	}
	var t tensor.Tensor
	var contents []byte
	var datatype []byte
	shared := false
	start := len(r.shapes)
	dimension := func(n uint64) error {
		if len(r.shapes)-start == tensor.MaxRank {
			return invalid("input %q: shape has more than %d dimensions", t.Name, tensor.MaxRank)
		}
		r.shapes = append(r.shapes, int64(n))
		return nil
	}
	err := fields(message, func(number protowire.Number, kind protowire.Type, b []byte, n uint64) (err error) {
		switch {
		case number == 3 && kind == protowire.VarintType:
			return dimension(n)
		case kind != protowire.BytesType:
			return nil
		case number == 1:
			t.Name, err = text("the name of an input", b)
			return err
		case number == 2:
			datatype = b
		case number == 3:
			for len(b) > 0 {
				n, size := protowire.ConsumeVarint(b)
				if size < 0 {
					return errMalformed
				}
				if err := dimension(n); err != nil {
					return err
				}
				b = b[size:]
			}
		case number == 4:
			key, _, err := entry(b)
			shared = shared || isSharedMemory(key)
			return err
		case number == 5 && contents == nil:
			contents = b[:len(b):len(b)]
		case number == 5:
			contents = append(contents, b...) // messages one after the other are one
		}
		return nil
	})
	if err != nil {
		return err
	}
	if t.Name == "" {
		return invalid("an input has no name")
	}
	if shared {
		return invalid(noSharedMemory, "input", t.Name)
	}
	if t.Datatype, err = parseDatatype(datatype); err != nil {
		return invalid("input %q: %v", t.Name, err)
	}
	t.Shape = r.shapes[start:len(r.shapes):len(r.shapes)]
	if _, err := tensor.Elements(t.Shape); err != nil {
		return invalid("input %q: %v", t.Name, err)
	}
	r.Inputs, r.contents = append(r.Inputs, t), append(r.contents, contents)
	return nil
}

func parseDatatype(b []byte) (tensor.Datatype, error) {
	for d := tensor.Bool; d.Valid(); d++ {
		if string(b) == d.String() {
			return d, nil
		}
	}
	return tensor.Invalid, invalid("datatype %s is not one of the protocol's", strconv.Quote(Clip(string(b[:min(len(b), 100)]), 40)))
}

// output reads an InferRequestedOutputTensor.
func (r *Request) output(message []byte) error {
	if len(r.Outputs) == maxTensors {
		return invalid("the request asks for more than %d outputs", maxTensors)
	}
	name, classes, shared := "", 0, false
	err := fields(message, func(number protowire.Number, kind protowire.Type, b []byte, _ uint64) (err error) {
		switch {
		case number == 1 && kind == protowire.BytesType:
			name, err = text("the name of an output", b)
		case number == 2 && kind == protowire.BytesType:
			key, v, err := entry(b)
			if err != nil {
				return err
			}
			shared = shared || isSharedMemory(key)
			if key != "classification" {
				return nil
			}
			n, ok := v.whole()
			if !ok || n == 0 {
				return invalid("parameter \"classification\" of an output is to be a number of classes, from 1 (int64_param)")
			}
			classes = int(min(n, math.MaxInt32))
		}
		return err
	})
	if err != nil {
		return err
	}
	if name == "" {
		return invalid("an output has no name")
	}
	if shared {
		return invalid(noSharedMemory, "output", name)
	}
	for _, n := range r.Outputs {
		if n == name {
			return invalid("output %q is asked for twice", name)
		}
	}
	r.Outputs, r.Classes = append(r.Outputs, name), append(r.Classes, classes)
	return nil
}

// Clip shortens what came from outside to about n bytes, for messages.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
