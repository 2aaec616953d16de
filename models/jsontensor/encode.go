package jsontensor

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Encoder writes the elements of a tensor, in their order.
type Encoder struct {
	t    *tensor.Tensor
	data []byte // not written yet
	// binary says what to do instead about what JSON cannot hold.
	binary string
}

// NewEncoder returns an encoder of a tensor that holds what its shape says. binary completes the sentence about a value
// that JSON cannot hold: how to ask for it instead.
func NewEncoder(t *tensor.Tensor, binary string) Encoder {
	return Encoder{t: t, data: t.Data, binary: binary}
}

// AppendNested writes the next n entries of the dimension before level, with commas between them: lists for the
// dimensions from level on, or elements when there are none.
func (e *Encoder) AppendNested(b []byte, n int64, level int) ([]byte, error) {
	if level == len(e.t.Shape) {
		return e.Append(b, n)
	}
	var err error
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '[')
		if b, err = e.AppendNested(b, e.t.Shape[level], level+1); err != nil {
			return b, err
		}
		b = append(b, ']')
	}
	return b, nil
}

// Append writes the next n elements, with commas between them. What JSON cannot hold is an error that says how to ask
// instead.
func (e *Encoder) Append(b []byte, n int64) ([]byte, error) {
	if n == 0 {
		return b, nil
	}
	var err error
	datatype := e.t.Datatype
	switch datatype {
	case tensor.Bytes:
		return e.strings(b, n)
	case tensor.FP32, tensor.FP64:
		b, err = e.floats(b, n)
		return b, err
	case tensor.FP16, tensor.BF16, tensor.Invalid:
		return b, tensor.Inputf("output %q: %s has no form in JSON; %s", e.t.Name, datatype, e.binary)
	}
	size := datatype.Size()
	d := e.data[:n*int64(size)]
	e.data = e.data[len(d):]
	for ; len(d) > 0; d = d[size:] {
		switch datatype {
		case tensor.Bool:
			b = strconv.AppendBool(b, d[0] != 0)
		case tensor.Uint8:
			b = strconv.AppendUint(b, uint64(d[0]), 10)
		case tensor.Uint16:
			b = strconv.AppendUint(b, uint64(binary.LittleEndian.Uint16(d)), 10)
		case tensor.Uint32:
			b = strconv.AppendUint(b, uint64(binary.LittleEndian.Uint32(d)), 10)
		case tensor.Uint64:
			b = strconv.AppendUint(b, binary.LittleEndian.Uint64(d), 10)
		case tensor.Int8:
			b = strconv.AppendInt(b, int64(int8(d[0])), 10)
		case tensor.Int16:
			b = strconv.AppendInt(b, int64(int16(binary.LittleEndian.Uint16(d))), 10)
		case tensor.Int32:
			b = strconv.AppendInt(b, int64(int32(binary.LittleEndian.Uint32(d))), 10)
		case tensor.Int64:
			b = strconv.AppendInt(b, int64(binary.LittleEndian.Uint64(d)), 10)
		}
		b = append(b, ',')
	}
	return b[:len(b)-1], nil
}

func (e *Encoder) floats(b []byte, n int64) ([]byte, error) {
	size := e.t.Datatype.Size()
	d := e.data[:n*int64(size)]
	e.data = e.data[len(d):]
	for ; len(d) > 0; d = d[size:] {
		var v float64
		if size == 4 {
			v = float64(math.Float32frombits(binary.LittleEndian.Uint32(d)))
		} else {
			v = math.Float64frombits(binary.LittleEndian.Uint64(d))
		}
		switch whole := int64(v); {
		// Whole numbers are common (classes, counts, what a threshold left) and cheaper to write. -0 is not one of them.
		case float64(whole) == v && whole > -1<<24 && whole < 1<<24 && (whole != 0 || !math.Signbit(v)):
			b = strconv.AppendInt(b, whole, 10)
		case math.IsNaN(v) || math.IsInf(v, 0):
			return b, tensor.Inputf("output %q holds a value that JSON cannot (%v); %s", e.t.Name, v, e.binary)
		default:
			b = strconv.AppendFloat(b, v, 'g', -1, 8*size)
		}
		b = append(b, ',')
	}
	return b[:len(b)-1], nil
}

func (e *Encoder) strings(b []byte, n int64) ([]byte, error) {
	for i := range n {
		if len(e.data) < 4 || uint64(binary.LittleEndian.Uint32(e.data)) > uint64(len(e.data)-4) {
			return b, tensor.Inputf("output %q: its strings do not fit its data", e.t.Name)
		}
		text := e.data[4 : 4+binary.LittleEndian.Uint32(e.data)]
		e.data = e.data[4+len(text):]
		if !utf8.Valid(text) {
			return b, tensor.Inputf("output %q holds bytes that are not UTF-8 text; %s", e.t.Name, e.binary)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendText(b, text)
	}
	return b, nil
}

const hexDigits = "0123456789abcdef"

// AppendText writes a JSON string; what is not UTF-8 becomes U+FFFD.
func AppendText[T string | []byte](b []byte, text T) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune([]byte(text[i:min(i+utf8.UTFMax, len(text))]))
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
