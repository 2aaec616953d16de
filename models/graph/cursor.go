package graph

import (
	"fmt"
	"io"
)

// Wire types of protocol buffers.
const (
	varint  = 0
	fixed64 = 1
	length  = 2
	fixed32 = 5
)

// cursor reads a protocol buffer from a file through a small window, so that what is skipped is never read.
type cursor struct {
	r    io.ReaderAt
	size int64
	pos  int64
	// window holds the bytes from start on.
	window []byte
	start  int64
	buffer [4096]byte
}

// field is one field of a message. For a length-delimited one, the cursor stands at its content and end is behind it;
// for the others, value holds it.
type field struct {
	number uint64
	wire   uint8
	value  uint64
	end    int64
}

func (c *cursor) byte() (byte, error) {
	if c.pos >= c.start && c.pos < c.start+int64(len(c.window)) {
		b := c.window[c.pos-c.start]
		c.pos++
		return b, nil
	}
	if c.pos >= c.size {
		return 0, c.cut()
	}
	n, err := c.r.ReadAt(c.buffer[:min(int64(len(c.buffer)), c.size-c.pos)], c.pos)
	if n == 0 {
		if err == nil || err == io.EOF {
			return 0, c.cut()
		}
		return 0, fmt.Errorf("cannot read the file: %v", err)
	}
	c.window, c.start = c.buffer[:n], c.pos
	c.pos++
	return c.window[0], nil
}

func (c *cursor) cut() error {
	return fmt.Errorf("the file ends at byte %d in the middle of the model: it is cut off", c.size)
}

func (c *cursor) varint(end int64) (uint64, error) {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		if c.pos >= end && end < c.size {
			return 0, fmt.Errorf("a number at byte %d runs past its message: the file is corrupt or no ONNX model", c.pos)
		}
		b, err := c.byte()
		if err != nil {
			return 0, err
		}
		if shift == 63 && b > 1 {
			break
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("byte %d holds no number: the file is corrupt or no ONNX model", c.pos)
}

// fixed reads n little-endian bytes.
func (c *cursor) fixed(n int, end int64) (uint64, error) {
	if c.pos+int64(n) > end {
		if end == c.size {
			return 0, c.cut()
		}
		return 0, fmt.Errorf("a number at byte %d runs past its message: the file is corrupt or no ONNX model", c.pos)
	}
	var v uint64
	for i := range n {
		b, err := c.byte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b) << (8 * i)
	}
	return v, nil
}

// next reads the head of the next field of the message that ends at end.
func (c *cursor) next(end int64) (field, error) {
	at := c.pos
	tag, err := c.varint(end)
	if err != nil {
		return field{}, err
	}
	f := field{number: tag >> 3, wire: uint8(tag & 7)}
	if f.number == 0 || f.number > 1<<29-1 {
		return f, fmt.Errorf("byte %d begins no field: the file is corrupt or no ONNX model", at)
	}
	switch f.wire {
	case varint:
		f.value, err = c.varint(end)
	case fixed64:
		f.value, err = c.fixed(8, end)
	case fixed32:
		f.value, err = c.fixed(4, end)
	case length:
		var n uint64
		if n, err = c.varint(end); err == nil && n > uint64(end-c.pos) {
			if end == c.size {
				return f, c.cut()
			}
			return f, fmt.Errorf("a field of %d bytes at byte %d runs past its message: the file is corrupt or no ONNX model", n, at)
		}
		f.end = c.pos + int64(n)
	default:
		err = fmt.Errorf("byte %d begins no field: the file is corrupt or no ONNX model", at)
	}
	return f, err
}

// each calls visit for every field of the message that ends at end. A length-delimited field that visit leaves unread
// is skipped.
func (c *cursor) each(end int64, visit func(field) error) error {
	for c.pos < end {
		f, err := c.next(end)
		if err != nil {
			return err
		}
		if err := visit(f); err != nil {
			return err
		}
		if f.wire == length {
			c.pos = f.end
		}
	}
	return nil
}

// bytes reads a length-delimited field, which the caller knows to be short.
func (c *cursor) bytes(f field) ([]byte, error) {
	b := make([]byte, f.end-c.pos)
	for i := range b {
		var err error
		if b[i], err = c.byte(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// text reads a length-delimited field as a string of at most most bytes.
func (c *cursor) text(f field, most int) (string, error) {
	if f.wire != length {
		return "", fmt.Errorf("field %d at byte %d is no text: the file is corrupt or no ONNX model", f.number, c.pos)
	}
	n := f.end - c.pos
	if n > int64(most) {
		return "", fmt.Errorf("a text of %d bytes at byte %d is longer than the %d that are allowed", n, c.pos, most)
	}
	b, err := c.bytes(f)
	return string(b), err
}
