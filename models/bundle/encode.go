package bundle

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/dhowfleet/dhow/models/tensor"
)

// encode turns JSON data, flat or nested and row-major, into a tensor's bytes. FP16 and BF16 have no JSON form.
func encode(data json.RawMessage, d tensor.Datatype) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var out []byte
	for depth := 0; ; {
		tok, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("data is cut off") // the enclosing document was whole, so this cannot be reached with depth 0
		}
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '[':
				depth++
			case ']':
				depth--
			default:
				return nil, fmt.Errorf("data must be a list of values")
			}
			if depth > tensor.MaxRank {
				return nil, fmt.Errorf("data is nested deeper than %d", tensor.MaxRank)
			}
		default:
			if out, err = appendValue(out, tok, d); err != nil {
				return nil, err
			}
		}
		if depth == 0 {
			return out, nil
		}
	}
}

func appendValue(out []byte, tok json.Token, d tensor.Datatype) ([]byte, error) {
	var text string
	switch v := tok.(type) {
	case bool:
		if d != tensor.Bool {
			return nil, fmt.Errorf("%v is no %s", v, d)
		}
		if v {
			return append(out, 1), nil
		}
		return append(out, 0), nil
	case string:
		if d != tensor.Bytes {
			return nil, fmt.Errorf("text is no %s", d)
		}
		return tensor.AppendBytes(out, []byte(v)), nil
	case json.Number:
		text = v.String()
	default:
		return nil, fmt.Errorf("null is no value")
	}
	bits := d.Size() * 8
	switch d {
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64:
		n, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			return nil, fmt.Errorf("%s is no %s", text, d)
		}
		return appendInt(out, n, bits), nil
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			return nil, fmt.Errorf("%s is no %s", text, d)
		}
		return appendInt(out, uint64(n), bits), nil
	case tensor.FP32, tensor.FP64:
		v, err := strconv.ParseFloat(text, bits)
		if err != nil {
			return nil, fmt.Errorf("%s is no %s", text, d)
		}
		if d == tensor.FP32 {
			return binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(v))), nil
		}
		return binary.LittleEndian.AppendUint64(out, math.Float64bits(v)), nil
	case tensor.FP16, tensor.BF16:
		return nil, fmt.Errorf("%s has no JSON form; put the data into a file", d)
	default:
		return nil, fmt.Errorf("%s is no %s", text, d)
	}
}

func appendInt(out []byte, n uint64, bits int) []byte {
	for i := 0; i < bits; i += 8 {
		out = append(out, byte(n>>i))
	}
	return out
}
