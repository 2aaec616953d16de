package openinference

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
)

// appendResponse writes the JSON of an answer and returns it with the tensors that follow it in binary, in order.
func appendResponse(b []byte, model string, r *request, res *serving.Response, binaryTensors [][]byte) ([]byte, [][]byte, error) {
	b = append(b, `{"model_name":`...)
	b = appendText(b, []byte(model))
	b = append(b, `,"model_version":`...)
	b = appendText(b, []byte(res.Version))
	if r.hasID {
		b = append(b, `,"id":`...)
		b = appendText(b, []byte(r.id))
	}
	b = append(b, `,"outputs":[`...)
	for i := range res.Outputs {
		t := &res.Outputs[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendText(b, []byte(t.Name))
		b = append(b, `,"datatype":"`...)
		b = append(b, t.Datatype.String()...)
		b = append(b, `","shape":`...)
		b = appendShape(b, t.Shape)
		if r.wantsBinary(t.Name) {
			b = append(b, `,"parameters":{"binary_data_size":`...)
			b = strconv.AppendInt(b, int64(len(t.Data)), 10)
			b = append(b, `}}`...)
			binaryTensors = append(binaryTensors, t.Data)
			continue
		}
		b = append(b, `,"data":[`...)
		var err error
		if b, err = appendData(b, t); err != nil {
			return b, binaryTensors, err
		}
		b = append(b, `]}`...)
	}
	return append(b, `]}`...), binaryTensors, nil
}

func (r *request) wantsBinary(name string) bool {
	for i := range r.outputs {
		if r.outputs[i].name == name && r.outputs[i].says {
			return r.outputs[i].binary
		}
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

// appendData writes the elements, flat. What JSON cannot hold is an error that says how to ask instead.
func appendData(b []byte, t *tensor.Tensor) ([]byte, error) {
	if t.Datatype == tensor.Bytes {
		return appendStrings(b, t)
	}
	d, size := t.Data, t.Datatype.Size()
	for i := 0; i+size <= len(d); i += size {
		if i > 0 {
			b = append(b, ',')
		}
		switch e := d[i:]; t.Datatype {
		case tensor.FP32, tensor.FP64:
			var v float64
			if size == 4 {
				v = float64(math.Float32frombits(binary.LittleEndian.Uint32(e)))
			} else {
				v = math.Float64frombits(binary.LittleEndian.Uint64(e))
			}
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return b, badRequest("output %q holds a value that JSON cannot (%v); ask for it as binary data (parameters.binary_data)", t.Name, v)
			}
			b = strconv.AppendFloat(b, v, 'g', -1, 8*size)
		case tensor.Bool:
			b = strconv.AppendBool(b, e[0] != 0)
		case tensor.Uint8:
			b = strconv.AppendUint(b, uint64(e[0]), 10)
		case tensor.Uint16:
			b = strconv.AppendUint(b, uint64(binary.LittleEndian.Uint16(e)), 10)
		case tensor.Uint32:
			b = strconv.AppendUint(b, uint64(binary.LittleEndian.Uint32(e)), 10)
		case tensor.Uint64:
			b = strconv.AppendUint(b, binary.LittleEndian.Uint64(e), 10)
		case tensor.Int8:
			b = strconv.AppendInt(b, int64(int8(e[0])), 10)
		case tensor.Int16:
			b = strconv.AppendInt(b, int64(int16(binary.LittleEndian.Uint16(e))), 10)
		case tensor.Int32:
			b = strconv.AppendInt(b, int64(int32(binary.LittleEndian.Uint32(e))), 10)
		case tensor.Int64:
			b = strconv.AppendInt(b, int64(binary.LittleEndian.Uint64(e)), 10)
		default:
			return b, badRequest("output %q: %s has no form in JSON; ask for it as binary data (parameters.binary_data)", t.Name, t.Datatype)
		}
	}
	return b, nil
}

func appendStrings(b []byte, t *tensor.Tensor) ([]byte, error) {
	for d := t.Data; len(d) >= 4; {
		n := int(binary.LittleEndian.Uint32(d))
		if n > len(d)-4 {
			break
		}
		if !utf8.Valid(d[4 : 4+n]) {
			return b, badRequest("output %q holds bytes that are not UTF-8 text; ask for it as binary data (parameters.binary_data)", t.Name)
		}
		if len(d) < len(t.Data) {
			b = append(b, ',')
		}
		b = appendText(b, d[4:4+n])
		d = d[4+n:]
	}
	return b, nil
}

const hexDigits = "0123456789abcdef"

// appendText writes a JSON string; what is not UTF-8 becomes U+FFFD.
func appendText(b, text []byte) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, text[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, text[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(b, text[start:]...), '"')
}
