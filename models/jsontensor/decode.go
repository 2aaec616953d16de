package jsontensor

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

// Memory gives the bytes of tensors.
type Memory interface {
	// Grow returns data with a capacity of at least size bytes, or an error when there is not enough memory for it.
	Grow(data []byte, size int64) ([]byte, error)
}

// Decoder turns the JSON of one tensor into the tensor's bytes, without a value in between.
type Decoder struct {
	*Scanner
	Memory Memory
	// Name, Datatype and Shape are the tensor's. -1 in Shape is a size that the first list of that dimension decides.
	Name     string
	Datatype tensor.Datatype
	Shape    []int64
	// Base64 says that elements of BYTES are written in base64. Wrapped allows elements {"b64": "..."} beside strings.
	Base64, Wrapped bool
	// Data is what was decoded so far.
	Data []byte
}

// Tensor reads all data, nested by Shape or flat. Shape has no -1.
func (d *Decoder) Tensor() error {
	n, err := tensor.Elements(d.Shape)
	if err != nil {
		return tensor.Inputf("input %q: %v", d.Name, err)
	}
	// An element takes at least a digit and a comma, so a shape that promises more than the text holds is refused before
	// memory is given to it.
	if n > int64(len(d.data)-d.pos)/2+1 {
		return tensor.Inputf("input %q: shape %v has %d elements, data has fewer", d.Name, d.Shape, n)
	}
	if err := d.check(); err != nil {
		return err
	}
	size := d.Datatype.Size()
	if size == 0 {
		size = 4 // the length of each of BYTES, at least
	}
	if d.Data, err = d.Memory.Grow(nil, n*int64(size)); err != nil {
		return err
	}
	if d.Next() != '[' {
		return d.unexpected("the array of input " + strconv.Quote(d.Name))
	}
	start := d.pos
	d.pos++
	nested := d.Next() == '['
	d.pos = start
	if nested {
		if len(d.Shape) < 2 {
			return tensor.Inputf("input %q: data is nested, but shape %v is not", d.Name, d.Shape)
		}
		return d.list(0)
	}
	d.pos++
	got, err := d.elements(n)
	switch {
	case err != nil:
		return err
	case got > n:
		return tensor.Inputf("input %q: data has more elements than the %d of shape %v", d.Name, n, d.Shape)
	case got < n:
		return tensor.Inputf("input %q: data has %d elements, shape %v wants %d", d.Name, got, d.Shape, n)
	}
	return nil
}

// Value reads what one entry of the dimension before level is: a list for the dimensions from level on, or an element when
// there are none.
func (d *Decoder) Value(level int) error {
	if err := d.check(); err != nil {
		return err
	}
	if level == len(d.Shape) {
		return d.element()
	}
	return d.list(level)
}

func (d *Decoder) check() error {
	if d.Datatype == tensor.FP16 || d.Datatype == tensor.BF16 {
		return tensor.Inputf("input %q: %s has no form in JSON; send it as binary data (binary_data_size)", d.Name, d.Datatype)
	}
	return nil
}

// list reads the list that is dimension l of nested data.
func (d *Decoder) list(l int) error {
	if d.Next() != '[' {
		return d.Mismatch("a list")
	}
	d.pos++
	want, got := d.Shape[l], int64(0)
	limit := want
	if want < 0 {
		limit = math.MaxInt64
	}
	if l == len(d.Shape)-1 {
		var err error
		if got, err = d.elements(limit); err != nil {
			return err
		}
	} else if d.Next() == ']' {
		d.pos++
	} else {
		for done := false; !done; {
			if got++; got > limit {
				break
			}
			err := d.list(l + 1)
			if err == nil {
				done, err = d.separator()
			}
			if err != nil {
				return err
			}
		}
	}
	switch {
	case want < 0:
		d.Shape[l] = got
	case got > want:
		return d.misfit(l, "more than")
	case got < want:
		return d.misfit(l, fmt.Sprintf("%d and not", got))
	}
	return nil
}

func (d *Decoder) misfit(level int, sentence string) error {
	return tensor.Inputf("input %q: dimension %d of data has %s the %d entries that shape %v says", d.Name, level, sentence, d.Shape[level], d.Shape)
}

// separator reads what follows an entry of a list; done when it is the list's end.
func (d *Decoder) separator() (done bool, err error) {
	switch d.Next() {
	case ',':
		d.pos++
		return false, nil
	case ']':
		d.pos++
		return true, nil
	}
	return false, d.unexpected("',' or ']'")
}

// elements reads the rest of a list of elements and returns how many there are. It stops early at the one above limit.
func (d *Decoder) elements(limit int64) (int64, error) {
	if d.Next() == ']' {
		d.pos++
		return 0, nil
	}
	for got := int64(0); ; {
		// The loops below read what is usual. They begin at an element and stop at one, before what is not usual.
		d.Next()
		room := int64(math.MaxInt64)
		if size := d.Datatype.Size(); size > 0 {
			room = int64((cap(d.Data) - len(d.Data)) / size)
		}
		switch room = min(room, limit-got); d.Datatype {
		case tensor.FP32:
			got += d.float32s(room)
		case tensor.FP64:
			got += d.float64s(room)
		case tensor.Bool, tensor.Bytes:
		default:
			got += d.integers(room)
		}
		if got++; got > limit {
			return got, nil
		}
		if err := d.element(); err != nil {
			return got, err
		}
		if done, err := d.separator(); done || err != nil {
			return got, err
		}
	}
}

// follows says where the next element begins when one ends at data[i] and another one follows it, and 0 otherwise.
func follows(data []byte, i int) int {
	if data[i] != ',' { // no number ends less than some bytes before the end here
		return 0
	}
	if data[i+1] == ' ' {
		return i + 2
	}
	return i + 1
}

func (d *Decoder) float32s(room int64) (got int64) {
	data, i, out := d.data, d.pos, d.Data
	for got < room {
		if len(data)-i >= 16 { // whole numbers of few digits, as of pixels, are floats as they are
			values, n := digits(binary.LittleEndian.Uint64(data[i:]))
			if next := follows(data, i+n); next != 0 && n > 0 && n < 8 && (n == 1 || data[i] != '0') {
				out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(number(values, n))))
				got++
				i = next
				continue
			}
		}
		decimal, end, ok := scanDecimal(data, i)
		if !ok || end+2 > len(data) {
			break
		}
		v, ok := decimal.float32()
		next := follows(data, end)
		if !ok || next == 0 {
			break
		}
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		got++
		i = next
	}
	d.pos, d.Data = i, out
	return got
}

func (d *Decoder) float64s(room int64) (got int64) {
	data, i, out := d.data, d.pos, d.Data
	for got < room {
		decimal, end, ok := scanDecimal(data, i)
		if !ok || end+2 > len(data) {
			break
		}
		v, ok := decimal.float64()
		next := follows(data, end)
		if !ok || next == 0 {
			break
		}
		out = binary.LittleEndian.AppendUint64(out, math.Float64bits(v))
		got++
		i = next
	}
	d.pos, d.Data = i, out
	return got
}

// integers reads those of at most seven digits; they fit all types of 32 and 64 bits.
func (d *Decoder) integers(room int64) (got int64) {
	data, i, out := d.data, d.pos, d.Data
	size, above, below := d.Datatype.Size(), d.limit(false), d.limit(true)
	for got < room && len(data)-i >= 16 {
		at, limit := i, above
		negative := data[at] == '-'
		if negative {
			at++
			limit = below
		}
		values, n := digits(binary.LittleEndian.Uint64(data[at:]))
		if n == 0 || n == 8 || n > 1 && data[at] == '0' {
			break
		}
		v := number(values, n)
		next := follows(data, at+n)
		if next == 0 || v > limit {
			break
		}
		if negative {
			v = -v
		}
		switch size {
		case 1:
			out = append(out, byte(v))
		case 2:
			out = binary.LittleEndian.AppendUint16(out, uint16(v))
		case 4:
			out = binary.LittleEndian.AppendUint32(out, uint32(v))
		default:
			out = binary.LittleEndian.AppendUint64(out, v)
		}
		got++
		i = next
	}
	d.pos, d.Data = i, out
	return got
}

// limit is the largest integer of the datatype, or the largest that may follow a minus.
func (d *Decoder) limit(negative bool) uint64 {
	limit := uint64(math.MaxUint64) >> (64 - 8*d.Datatype.Size())
	switch {
	case d.Datatype >= tensor.Int8 && negative:
		return limit>>1 + 1
	case d.Datatype >= tensor.Int8:
		return limit >> 1
	case negative:
		return 0
	}
	return limit
}

// element reads any one element.
func (d *Decoder) element() error {
	switch d.Datatype {
	case tensor.Bytes:
		return d.bytes()
	case tensor.Bool:
		v, err := d.Bool()
		if err != nil {
			return err
		}
		b := uint64(0)
		if v {
			b = 1
		}
		return d.append(b)
	}
	if d.Datatype == tensor.FP32 || d.Datatype == tensor.FP64 {
		return d.float()
	}
	text, err := d.Number()
	if err != nil {
		return err
	}
	digits, negative := text, text[0] == '-'
	if negative {
		digits = text[1:]
	}
	v, err := strconv.ParseUint(unsafe.String(&digits[0], len(digits)), 10, 64)
	if err != nil || v > d.limit(negative) {
		return d.refuse(text)
	}
	if negative {
		v = -v
	}
	return d.append(v)
}

// float reads any FP32 or FP64.
func (d *Decoder) float() error {
	size := 8 * d.Datatype.Size()
	if d.Next() != 0 {
		if number, end, ok := scanDecimal(d.data, d.pos); ok {
			var bits uint64
			if size == 32 {
				var v float32
				v, ok = number.float32()
				bits = uint64(math.Float32bits(v))
			} else {
				var v float64
				v, ok = number.float64()
				bits = math.Float64bits(v)
			}
			if ok {
				d.pos = end
				return d.append(bits)
			}
		}
	}
	text, err := d.Number()
	if err != nil {
		return err
	}
	v, err := strconv.ParseFloat(unsafe.String(&text[0], len(text)), size)
	if err != nil {
		return d.refuse(text)
	}
	if size == 32 {
		return d.append(uint64(math.Float32bits(float32(v))))
	}
	return d.append(math.Float64bits(v))
}

// append adds an element of fixed size.
func (d *Decoder) append(v uint64) error {
	size := d.Datatype.Size()
	if err := d.grow(size); err != nil {
		return err
	}
	for range size {
		d.Data = append(d.Data, byte(v))
		v >>= 8
	}
	return nil
}

// grow makes room for n more bytes.
func (d *Decoder) grow(n int) error {
	need := len(d.Data) + n
	if need <= cap(d.Data) {
		return nil
	}
	data, err := d.Memory.Grow(d.Data, int64(max(need, 2*cap(d.Data), 256)))
	if err == nil {
		d.Data = data
	}
	return err
}

func (d *Decoder) refuse(text []byte) error {
	if len(text) > 40 {
		text = text[:40]
	}
	return tensor.Inputf("input %q: %s is no %s", d.Name, text, d.Datatype)
}

// bytes reads an element of BYTES.
func (d *Decoder) bytes() error {
	encoded := d.Base64
	var text []byte
	var err error
	if d.Wrapped && d.Next() == '{' {
		encoded = true
		found := false
		err = d.Object(func(key []byte) (err error) {
			if found || string(key) != "b64" {
				return tensor.Inputf(`input %q: an element of BYTES is a string or {"b64": "..."}`, d.Name)
			}
			found = true
			text, err = d.Text()
			return err
		})
		if err == nil && !found {
			err = tensor.Inputf(`input %q: an element of BYTES is a string or {"b64": "..."}`, d.Name)
		}
	} else {
		text, err = d.Text()
	}
	if err != nil {
		return err
	}
	if err := d.grow(4 + len(text)); err != nil {
		return err
	}
	if !encoded {
		if !utf8.Valid(text) {
			return tensor.Inputf("input %q: a string is not UTF-8; send such bytes in base64 (parameters.content_type) or as binary data", d.Name)
		}
		d.Data = tensor.AppendBytes(d.Data, text)
		return nil
	}
	at := len(d.Data)
	d.Data = append(d.Data, 0, 0, 0, 0)
	if d.Data, err = base64.StdEncoding.AppendDecode(d.Data, text); err != nil {
		return tensor.Inputf("input %q: a string is no base64", d.Name)
	}
	binary.LittleEndian.PutUint32(d.Data[at:], uint32(len(d.Data)-at-4))
	return nil
}
