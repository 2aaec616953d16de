package openinference

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/dhowfleet/dhow/models/tensor"
)

// decoder turns the JSON data of one tensor into the tensor's bytes, without a value in between.
type decoder struct {
	*scanner
	t       *tensor.Tensor
	base64  bool // BYTES elements are written in base64
	element func(*decoder) error
	after   int // see short
}

// decodeData reads data, nested by the tensor's shape or flat, for a tensor whose datatype and shape are known. reserve
// is asked for the memory first.
func decodeData(s *scanner, t *tensor.Tensor, encoded bool, reserve func(int64) error) error {
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return badRequest("input %q: %v", t.Name, err)
	}
	// An element takes at least a digit and a comma, so a shape that promises more than the text holds is refused before
	// memory is given to it.
	if n > int64(len(s.data)-s.pos)/2+1 {
		return badRequest("input %q: shape %v has %d elements, data has fewer", t.Name, t.Shape, n)
	}
	size := n * int64(t.Datatype.Size())
	d := decoder{scanner: s, t: t, base64: encoded}
	switch t.Datatype {
	case tensor.FP32:
		d.element = (*decoder).float32
	case tensor.FP64:
		d.element = (*decoder).float64
	case tensor.Bool:
		d.element = (*decoder).bool
	case tensor.Bytes:
		d.element = (*decoder).bytes
		size = int64(len(s.data)-s.pos) + n // a length takes a byte more than the quotes and the comma
	case tensor.FP16, tensor.BF16:
		return badRequest("input %q: %s has no form in JSON; send it as binary data (binary_data_size)", t.Name, t.Datatype)
	default:
		d.element = (*decoder).integer
	}
	if err := reserve(size); err != nil {
		return err
	}
	if t.Datatype != tensor.Bytes {
		t.Data = make([]byte, 0, size)
	}
	if s.next() != '[' {
		return s.unexpected("the array of input " + strconv.Quote(t.Name))
	}
	start := s.pos
	s.pos++
	nested := s.next() == '['
	s.pos = start
	if !nested {
		return d.flat(n)
	}
	if len(t.Shape) < 2 {
		return badRequest("input %q: data is nested, but shape %v is not", t.Name, t.Shape)
	}
	return d.level(0)
}

// flat reads an array of n elements.
func (d *decoder) flat(n int64) error {
	got := int64(0)
	err := d.array(func() error {
		if got++; got > n {
			return badRequest("input %q: data has more elements than the %d of shape %v", d.t.Name, n, d.t.Shape)
		}
		return d.element(d)
	})
	if err == nil && got < n {
		return badRequest("input %q: data has %d elements, shape %v wants %d", d.t.Name, got, d.t.Shape, n)
	}
	return err
}

// level reads the array that is dimension l of nested data.
func (d *decoder) level(l int) error {
	want := d.t.Shape[l]
	if l == len(d.t.Shape)-1 {
		got := int64(0)
		err := d.array(func() error {
			if got++; got > want {
				return d.misfit(l, "more than")
			}
			return d.element(d)
		})
		if err == nil && got < want {
			return d.misfit(l, fmt.Sprintf("%d and not", got))
		}
		return err
	}
	got := int64(0)
	err := d.array(func() error {
		if got++; got > want {
			return d.misfit(l, "more than")
		}
		return d.level(l + 1)
	})
	if err == nil && got < want {
		return d.misfit(l, fmt.Sprintf("%d and not", got))
	}
	return err
}

func (d *decoder) misfit(level int, sentence string) error {
	return badRequest("input %q: dimension %d of data has %s the %d entries that shape %v says", d.t.Name, level, sentence, d.t.Shape[level], d.t.Shape)
}

func (d *decoder) refuse(text []byte) error {
	if len(text) > 40 {
		text = text[:40]
	}
	return badRequest("input %q: %s is no %s", d.t.Name, text, d.t.Datatype)
}

func (d *decoder) float32() error {
	v, exact := d.short()
	// The nearest float64 rounds to the same float32 as the number itself does, unless it lies where two float32 meet (its
	// last 29 bits are then half of their range, give or take what the first rounding moved) or outside their range.
	if tail := math.Float64bits(v) & (1<<29 - 1); !exact || tail-(1<<28-1) <= 2 || v != 0 && (math.Abs(v) < 0x1p-126 || math.Abs(v) > math.MaxFloat32) {
		text, err := d.number()
		if err != nil {
			return err
		}
		if v, err = strconv.ParseFloat(unsafe.String(&text[0], len(text)), 32); err != nil {
			return d.refuse(text)
		}
	} else {
		d.pos = d.after
	}
	d.t.Data = binary.LittleEndian.AppendUint32(d.t.Data, math.Float32bits(float32(v)))
	return nil
}

func (d *decoder) float64() error {
	v, exact := d.short()
	if exact {
		d.pos = d.after
	} else {
		text, err := d.number()
		if err != nil {
			return err
		}
		if v, err = strconv.ParseFloat(unsafe.String(&text[0], len(text)), 64); err != nil {
			return d.refuse(text)
		}
	}
	d.t.Data = binary.LittleEndian.AppendUint64(d.t.Data, math.Float64bits(v))
	return nil
}

var powersOfTen = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// short reads a number of few digits and no exponent, as most are, into the float64 nearest to it: digits below 2^53
// and powers of ten up to 10^22 are float64s, and so one division rounds once. It leaves the position where it is and
// says in after where the number ends; whatever else stands there, exact is false.
func (d *decoder) short() (v float64, exact bool) {
	if d.next() == 0 {
		return 0, false
	}
	data, i := d.data, d.pos
	negative := data[i] == '-'
	if negative {
		i++
	}
	first := i
	digits := uint64(0)
	for ; i < len(data) && data[i]-'0' <= 9; i++ {
		digits = digits*10 + uint64(data[i]-'0')
	}
	whole := i - first
	if whole == 0 || whole > 1 && data[first] == '0' {
		return 0, false
	}
	fraction := 0
	if i < len(data) && data[i] == '.' {
		i++
		for point := i; i < len(data) && data[i]-'0' <= 9; i++ {
			digits = digits*10 + uint64(data[i]-'0')
			fraction = i - point + 1
		}
		if fraction == 0 {
			return 0, false
		}
	}
	// With at most 19 digits nothing has overflown.
	if whole+fraction > 19 || digits >= 1<<53 || i < len(data) && (data[i] == 'e' || data[i] == 'E') {
		return 0, false
	}
	v = float64(digits) / powersOfTen[fraction]
	if negative {
		v = -v
	}
	d.after = i
	return v, true
}

func (d *decoder) bool() error {
	v, err := d.boolean()
	if err != nil {
		return err
	}
	b := byte(0)
	if v {
		b = 1
	}
	d.t.Data = append(d.t.Data, b)
	return nil
}

func (d *decoder) integer() error {
	text, err := d.number()
	if err != nil {
		return err
	}
	digits, negative := text, text[0] == '-'
	if negative {
		digits = text[1:]
	}
	if len(digits) > 20 {
		return d.refuse(text)
	}
	v := uint64(0)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return d.refuse(text)
		}
		if v > math.MaxUint64/10 || v*10 > math.MaxUint64-uint64(c-'0') {
			return d.refuse(text)
		}
		v = v*10 + uint64(c-'0')
	}
	size := d.t.Datatype.Size()
	limit := uint64(math.MaxUint64) >> (64 - 8*size) // of an unsigned type
	if d.t.Datatype >= tensor.Int8 {
		limit >>= 1
		if negative {
			limit++
		}
	} else if negative {
		limit = 0
	}
	if v > limit {
		return d.refuse(text)
	}
	if negative {
		v = -v
	}
	for range size {
		d.t.Data = append(d.t.Data, byte(v))
		v >>= 8
	}
	return nil
}

func (d *decoder) bytes() error {
	text, err := d.text()
	if err != nil {
		return err
	}
	if !d.base64 {
		if !utf8.Valid(text) {
			return badRequest("input %q: a string is not UTF-8; send such bytes in base64 (parameters.content_type) or as binary data", d.t.Name)
		}
		d.t.Data = tensor.AppendBytes(d.t.Data, text)
		return nil
	}
	at := len(d.t.Data)
	d.t.Data = append(d.t.Data, 0, 0, 0, 0)
	d.t.Data, err = base64.StdEncoding.AppendDecode(d.t.Data, text)
	if err != nil {
		return badRequest("input %q: a string is no base64: %v", d.t.Name, err)
	}
	binary.LittleEndian.PutUint32(d.t.Data[at:], uint32(len(d.t.Data)-at-4))
	return nil
}
