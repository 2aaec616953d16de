// Package tracing reads and continues the W3C trace context, level 1: the traceparent header by which the parts of one
// request on several machines are found again.
//
// A request's trace id goes into its line of the access log, and nowhere else: no span is recorded or sent. What is
// malformed is ignored, as the standard wants, and a header of a later version is read as far as version 00 goes. The
// package is pure; random numbers are handed in.
package tracing

import "encoding/binary"

// Header is the name of the header.
const Header = "traceparent"

// size is the length of a header of version 00: "00-", trace id, "-", span id, "-", flags.
const size = 2 + 1 + 32 + 1 + 16 + 1 + 2

// Context is the place of a request in a trace. The zero value is none.
type Context struct {
	Trace   [16]byte
	Span    [8]byte // of the caller, or after Child our own
	Sampled bool    // the caller may have recorded it
}

// FromHeader reads a traceparent header. It reports false when the value is malformed, and nothing is to be continued.
func FromHeader(value string) (Context, bool) {
	var c Context
	var version, flags [1]byte
	if len(value) < size || value[2] != '-' || value[35] != '-' || value[52] != '-' {
		return Context{}, false
	}
	if !unhex(version[:], value[:2]) || !unhex(c.Trace[:], value[3:35]) || !unhex(c.Span[:], value[36:52]) || !unhex(flags[:], value[53:55]) {
		return Context{}, false
	}
	switch {
	case version[0] == 0xff: // forbidden
		return Context{}, false
	case version[0] == 0 && len(value) != size:
		return Context{}, false
	case len(value) > size && value[size] != '-': // later versions may add fields
		return Context{}, false
	case c.Trace == [16]byte{} || c.Span == [8]byte{}:
		return Context{}, false
	}
	c.Sampled = flags[0]&1 != 0
	return c, true
}

// FromHeaders reads the values of a request's traceparent headers: one is read, several contradict each other.
func FromHeaders(values []string) (Context, bool) {
	if len(values) != 1 {
		return Context{}, false
	}
	return FromHeader(values[0])
}

// Child returns the context for what the request causes in turn: the same trace, and a span made of a random number.
func (c Context) Child(random uint64) Context {
	binary.BigEndian.PutUint64(c.Span[:], max(random, 1)) // a span of zeros is invalid
	return c
}

// Valid reports whether there is a trace.
func (c Context) Valid() bool { return c.Trace != [16]byte{} && c.Span != [8]byte{} }

// String returns the header's value in version 00, or "" when there is no trace.
func (c Context) String() string {
	if !c.Valid() {
		return ""
	}
	b := make([]byte, 0, size)
	b = append(b, "00-"...)
	b = hex(b, c.Trace[:])
	b = append(b, '-')
	b = hex(b, c.Span[:])
	if c.Sampled {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

// TraceID returns the trace id as it is written, or "" when there is no trace.
func (c Context) TraceID() string {
	if !c.Valid() {
		return ""
	}
	return string(hex(make([]byte, 0, 2*len(c.Trace)), c.Trace[:]))
}

const digits = "0123456789abcdef"

func hex(b, bytes []byte) []byte {
	for _, v := range bytes {
		b = append(b, digits[v>>4], digits[v&15])
	}
	return b
}

// unhex fills dst from lower-case digits, as the standard wants them, twice as many.
func unhex(dst []byte, s string) bool {
	for i := range dst {
		high, ok1 := digit(s[2*i])
		low, ok2 := digit(s[2*i+1])
		if !ok1 || !ok2 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

func digit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
