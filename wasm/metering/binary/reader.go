package binary

import "unicode/utf8"

// Reader walks a part of the module. It accepts numbers in the way WebAssembly writes them and no other: what it lets
// through is copied or encoded anew, so a number that two readers could take differently must end here. After the first
// fault it returns zeros, and at stays where the fault lies.
type Reader struct {
	B    []byte // the whole module
	At   int
	End  int
	Base int    // where the part begins, for messages
	Fail string // the first fault
}

// Sub returns a Reader for the next n bytes and steps over them.
func (r *Reader) Sub(n uint32) Reader {
	if uint64(n) > uint64(r.End-r.At) {
		r.Fault("it ends before it should")
		return Reader{B: r.B, At: r.End, End: r.End, Base: r.End, Fail: r.Fail}
	}
	s := Reader{B: r.B, At: r.At, End: r.At + int(n), Base: r.At}
	r.At += int(n)
	return s
}

// Fault notes what is wrong, unless something was before.
func (r *Reader) Fault(text string) {
	if r.Fail == "" {
		r.Fail = text
	}
}

// More reports whether something is left and nothing is wrong.
func (r *Reader) More() bool { return r.At < r.End && r.Fail == "" }

// Byte reads one.
func (r *Reader) Byte() byte {
	if r.At >= r.End || r.Fail != "" {
		r.Fault("it ends before it should")
		return 0
	}
	c := r.B[r.At]
	r.At++
	return c
}

// Bytes returns the next n bytes, still part of the module.
func (r *Reader) Bytes(n uint32) []byte {
	if r.Fail != "" || uint64(n) > uint64(r.End-r.At) {
		r.Fault("it ends before it should")
		return nil
	}
	b := r.B[r.At : r.At+int(n)]
	r.At += int(n)
	return b
}

// U32 reads an unsigned number of at most five bytes, whose unused bits are zero.
func (r *Reader) U32() uint32 {
	if r.At < r.End && r.B[r.At] < 0x80 && r.Fail == "" {
		r.At++
		return uint32(r.B[r.At-1])
	}
	v, shift := uint32(0), 0
	for i := 0; i < 5; i++ {
		c := r.Byte()
		if i == 4 && c > 0x0f {
			break
		}
		v |= uint32(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
		shift += 7
	}
	r.Fault("a number is longer than 32 bits")
	return 0
}

// Signed steps over a signed number of at most size bits and returns it. The unused bits of a longest form must all
// repeat the sign.
func (r *Reader) Signed(size int) int64 {
	if r.At < r.End && r.B[r.At] < 0x80 && r.Fail == "" {
		r.At++
		return int64(int8(r.B[r.At-1]<<1) >> 1)
	}
	longest := (size + 6) / 7
	v, shift := int64(0), 0
	for i := 0; i < longest; i++ {
		c := r.Byte()
		if i == longest-1 {
			used := size - 7*i // bits of this byte, the sign among them
			rest := int8(c<<1) >> used
			if c >= 0x80 || (rest != 0 && rest != -1) {
				break
			}
		}
		v |= int64(c&0x7f) << shift
		shift += 7
		if c < 0x80 {
			if c&0x40 != 0 && shift < 64 {
				v |= -1 << shift
			}
			return v
		}
	}
	r.Fault("a number is longer than its type")
	return 0
}

// Count reads how many elements of at least one byte follow. More than there are bytes is refused here, so that no
// reader makes room for what cannot come.
func (r *Reader) Count(limit int, what string) int {
	n := r.U32()
	switch {
	case r.Fail != "":
	case uint64(n) > uint64(r.End-r.At):
		r.Fault("it announces more " + what + " than it has bytes")
	case int64(n) > int64(limit):
		r.Fail = OverLimit + what
	default:
		return int(n)
	}
	return 0
}

// OverLimit marks a fault that is a limit of this package and no fault of the module's form.
const OverLimit = "\x00"

// Name reads a name.
func (r *Reader) Name() string {
	b := r.Bytes(r.U32())
	if !utf8.Valid(b) {
		r.Fault("a name is not UTF-8")
		return ""
	}
	return string(b)
}

// Done refuses what is left over.
func (r *Reader) Done() {
	if r.Fail == "" && r.At != r.End {
		r.Fault("it is longer than its content")
	}
}

// AppendU32 appends an unsigned number.
func AppendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// AppendName appends a name with its length.
func AppendName(b []byte, s string) []byte {
	return append(AppendU32(b, uint32(len(s))), s...)
}

// MaxPadded is the largest number that PutPadded can hold.
const MaxPadded = 1<<20 - 1

// PutPadded writes v as a signed number of exactly three bytes, so that it can be set once it is known.
func PutPadded(b []byte, v int) {
	b[0], b[1], b[2] = byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)&0x3f
}

// AppendSigned appends a signed number.
func AppendSigned(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}
