package metering

import "unicode/utf8"

// reader walks a part of the module. It accepts numbers in the way WebAssembly writes them and no other: what it lets
// through is copied or encoded anew, so a number that two readers could take differently must end here. After the first
// fault it returns zeros, and at stays where the fault lies.
type reader struct {
	b    []byte // the whole module
	at   int
	end  int
	base int // where the part begins, for messages
	fail string
}

// sub returns a reader for the next n bytes and steps over them.
func (r *reader) sub(n uint32) reader {
	if uint64(n) > uint64(r.end-r.at) {
		r.fault("it ends before it should")
		return reader{b: r.b, at: r.end, end: r.end, base: r.end, fail: r.fail}
	}
	s := reader{b: r.b, at: r.at, end: r.at + int(n), base: r.at}
	r.at += int(n)
	return s
}

func (r *reader) fault(text string) {
	if r.fail == "" {
		r.fail = text
	}
}

func (r *reader) more() bool { return r.at < r.end && r.fail == "" }

func (r *reader) byte() byte {
	if r.at >= r.end || r.fail != "" {
		r.fault("it ends before it should")
		return 0
	}
	c := r.b[r.at]
	r.at++
	return c
}

// bytes returns the next n bytes, still part of the module.
func (r *reader) bytes(n uint32) []byte {
	if r.fail != "" || uint64(n) > uint64(r.end-r.at) {
		r.fault("it ends before it should")
		return nil
	}
	b := r.b[r.at : r.at+int(n)]
	r.at += int(n)
	return b
}

// u32 reads an unsigned number of at most five bytes, whose unused bits are zero.
func (r *reader) u32() uint32 {
	if r.at < r.end && r.b[r.at] < 0x80 && r.fail == "" {
		r.at++
		return uint32(r.b[r.at-1])
	}
	v, shift := uint32(0), 0
	for i := 0; i < 5; i++ {
		c := r.byte()
		if i == 4 && c > 0x0f {
			break
		}
		v |= uint32(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
		shift += 7
	}
	r.fault("a number is longer than 32 bits")
	return 0
}

// signed steps over a signed number of at most size bits and returns it. The unused bits of a longest form must all
// repeat the sign.
func (r *reader) signed(size int) int64 {
	if r.at < r.end && r.b[r.at] < 0x80 && r.fail == "" {
		r.at++
		return int64(int8(r.b[r.at-1]<<1) >> 1)
	}
	longest := (size + 6) / 7
	v, shift := int64(0), 0
	for i := 0; i < longest; i++ {
		c := r.byte()
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
	r.fault("a number is longer than its type")
	return 0
}

// count reads how many elements of at least one byte follow. More than there are bytes is refused here, so that no
// reader makes room for what cannot come.
func (r *reader) count(limit int, what string) int {
	n := r.u32()
	switch {
	case r.fail != "":
	case uint64(n) > uint64(r.end-r.at):
		r.fault("it announces more " + what + " than it has bytes")
	case int64(n) > int64(limit):
		r.fail = overLimit + what
	default:
		return int(n)
	}
	return 0
}

// overLimit marks a fault that is a limit of this package and no fault of the module's form.
const overLimit = "\x00"

func (r *reader) name() string {
	b := r.bytes(r.u32())
	if !utf8.Valid(b) {
		r.fault("a name is not UTF-8")
		return ""
	}
	return string(b)
}

// done refuses what is left over.
func (r *reader) done() {
	if r.fail == "" && r.at != r.end {
		r.fault("it is longer than its content")
	}
}

func appendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendName(b []byte, s string) []byte {
	return append(appendU32(b, uint32(len(s))), s...)
}

// maxPadded is the largest number that putPadded can hold.
const maxPadded = 1<<20 - 1

// putPadded writes v as a signed number of exactly three bytes, so that it can be set once it is known.
func putPadded(b []byte, v int) {
	b[0], b[1], b[2] = byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)&0x3f
}
