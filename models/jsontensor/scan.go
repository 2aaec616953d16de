// Package jsontensor reads and writes JSON for the REST forms of inference: numbers go from the text straight into the
// bytes of tensors and back, without values in between.
//
// A Scanner walks over a text once, from front to back, and hands keys and values to whoever knows what they mean. A
// Decoder, on top of one, reads a tensor's data: nested as its shape is or flat, or nested with sizes that the data
// itself decides. Floats are rounded once, to the float that is nearest to the number as it is written. An Encoder
// writes the elements of a tensor, as texts from which the same bytes come back.
//
// What is wrong with a text is an *tensor.InputError that says where or which input. Memory is asked for before it is
// used, nesting is bounded, and nothing blocks or keeps state beyond its own values, which belong to one goroutine.
package jsontensor

import (
	"bytes"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dhowfleet/dhow/models/tensor"
)

// maxNesting bounds how deep values that are skipped may be nested.
const maxNesting = 64

// Scanner reads JSON from front to back. After an error it is not used further.
type Scanner struct {
	data []byte
	pos  int
}

// NewScanner returns a scanner of data, which must not change while it is in use.
func NewScanner(data []byte) Scanner { return Scanner{data: data} }

// Pos is how many bytes were read.
func (s *Scanner) Pos() int { return s.pos }

// Seek goes to a place that Pos gave.
func (s *Scanner) Seek(pos int) { s.pos = pos }

// syntaxError says where the JSON of a request is broken.
func (s *Scanner) syntaxError(format string, args ...any) error {
	return tensor.Inputf("the JSON is broken at byte %d: %s", s.pos, fmt.Sprintf(format, args...))
}

// Next skips white space and returns the byte that follows without consuming it; 0 stands for the end.
func (s *Scanner) Next() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *Scanner) expect(c byte) error {
	if got := s.Next(); got != c {
		return s.unexpected(fmt.Sprintf("%q", c))
	}
	s.pos++
	return nil
}

func (s *Scanner) unexpected(wanted string) error {
	if s.pos >= len(s.data) {
		return s.syntaxError("it ends where %s should be", wanted)
	}
	return s.syntaxError("%q is where %s should be", s.data[s.pos], wanted)
}

// Mismatch is for a value of another type than the one wanted: the JSON itself may well hold.
func (s *Scanner) Mismatch(wanted string) error {
	var got string
	switch c := s.Next(); {
	case c == '{':
		got = "an object"
	case c == '[':
		got = "a list"
	case c == '"':
		got = "a string"
	case c == 't', c == 'f':
		got = "true or false"
	case c == 'n':
		got = "null"
	case c == '-', c >= '0' && c <= '9':
		got = "a number"
	default:
		return s.unexpected(wanted)
	}
	return tensor.Inputf("the request has %s at byte %d, where %s should be", got, s.pos, wanted)
}

// End checks that nothing but white space follows.
func (s *Scanner) End() error {
	if s.Next(); s.pos < len(s.data) {
		return s.syntaxError("something follows the value")
	}
	return nil
}

// Object calls field for each key, which consumes the value. Keys are views that field must not keep.
func (s *Scanner) Object(field func(key []byte) error) error {
	if s.Next() != '{' {
		return s.Mismatch("an object")
	}
	s.pos++
	if s.Next() == '}' {
		s.pos++
		return nil
	}
	for {
		if s.Next() != '"' {
			return s.unexpected("a name in quotes")
		}
		key, err := s.Text()
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		if err := field(key); err != nil {
			return err
		}
		switch s.Next() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return s.unexpected("',' or '}'")
		}
	}
}

// Array calls element for each element, which consumes it.
func (s *Scanner) Array(element func() error) error {
	if s.Next() != '[' {
		return s.Mismatch("a list")
	}
	s.pos++
	if s.Next() == ']' {
		s.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		switch s.Next() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.unexpected("',' or ']'")
		}
	}
}

// Text reads a string. The result is a view of the data when nothing in it was escaped.
func (s *Scanner) Text() ([]byte, error) {
	if s.Next() != '"' {
		return nil, s.Mismatch("a string")
	}
	start := s.pos + 1
	rest := s.data[start:]
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		s.pos = len(s.data)
		return nil, s.syntaxError("a string does not end")
	}
	plain := rest[:end]
	for i, c := range plain {
		if c == '\\' {
			return s.escaped(start, i)
		}
		if c < ' ' {
			s.pos = start + i
			return nil, s.syntaxError("a string holds an unescaped control character")
		}
	}
	s.pos = start + end + 1
	return plain, nil
}

// escaped reads a string whose first escape is at data[start+first].
func (s *Scanner) escaped(start, first int) ([]byte, error) {
	out := append([]byte(nil), s.data[start:start+first]...)
	for s.pos = start + first; s.pos < len(s.data); {
		c := s.data[s.pos]
		switch {
		case c == '"':
			s.pos++
			return out, nil
		case c < ' ':
			return nil, s.syntaxError("a string holds an unescaped control character")
		case c != '\\':
			out = append(out, c)
			s.pos++
			continue
		}
		if s.pos+1 >= len(s.data) {
			break
		}
		s.pos += 2
		switch e := s.data[s.pos-1]; e {
		case '"', '\\', '/':
			out = append(out, e)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, err := s.hex4()
			if err != nil {
				return nil, err
			}
			if utf16.IsSurrogate(r) {
				r = s.surrogate(r)
			}
			out = utf8.AppendRune(out, r)
		default:
			s.pos--
			return nil, s.syntaxError("there is no escape \\%c", e)
		}
	}
	s.pos = len(s.data)
	return nil, s.syntaxError("a string does not end")
}

func (s *Scanner) hex4() (rune, error) {
	if s.pos+4 > len(s.data) {
		s.pos = len(s.data)
		return 0, s.syntaxError("a string does not end")
	}
	var r rune
	for _, c := range s.data[s.pos : s.pos+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, s.syntaxError("\\u wants four hexadecimal digits")
		}
		r = r<<4 | rune(c)
	}
	s.pos += 4
	return r, nil
}

// surrogate completes a surrogate pair; half a pair becomes U+FFFD, and what follows it stays.
func (s *Scanner) surrogate(high rune) rune {
	if s.pos+6 <= len(s.data) && s.data[s.pos] == '\\' && s.data[s.pos+1] == 'u' {
		at := s.pos
		s.pos += 2
		if low, err := s.hex4(); err == nil {
			if r := utf16.DecodeRune(high, low); r != utf8.RuneError {
				return r
			}
		}
		s.pos = at
	}
	return utf8.RuneError
}

// Number reads the text of a number.
func (s *Scanner) Number() ([]byte, error) {
	c := s.Next()
	if c != '-' && (c < '0' || c > '9') {
		return nil, s.Mismatch("a number")
	}
	d, start, i := s.data, s.pos, s.pos
	digits := func() bool {
		from := i
		for i < len(d) && d[i] >= '0' && d[i] <= '9' {
			i++
		}
		return i > from
	}
	if d[i] == '-' {
		i++
	}
	ok := true
	if i < len(d) && d[i] == '0' {
		i++
	} else {
		ok = digits()
	}
	if ok && i < len(d) && d[i] == '.' {
		i++
		ok = digits()
	}
	if ok && i < len(d) && (d[i] == 'e' || d[i] == 'E') {
		i++
		if i < len(d) && (d[i] == '+' || d[i] == '-') {
			i++
		}
		ok = digits()
	}
	s.pos = i
	if !ok {
		return nil, s.unexpected("a digit")
	}
	return d[start:i], nil
}

// Bool reads true or false.
func (s *Scanner) Bool() (bool, error) {
	switch s.Next() {
	case 't':
		return true, s.word("true")
	case 'f':
		return false, s.word("false")
	}
	return false, s.Mismatch("true or false")
}

func (s *Scanner) word(word string) error {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return s.unexpected(word)
	}
	s.pos += len(word)
	return nil
}

// Null consumes null if it is next.
func (s *Scanner) Null() bool { return s.Next() == 'n' && s.word("null") == nil }

// Skip consumes any value.
func (s *Scanner) Skip() error { return s.skip(0) }

func (s *Scanner) skip(depth int) error {
	if depth > maxNesting {
		return s.syntaxError("values are nested more than %d deep", maxNesting)
	}
	switch c := s.Next(); c {
	case '{':
		return s.Object(func([]byte) error { return s.skip(depth + 1) })
	case '[':
		return s.Array(func() error { return s.skip(depth + 1) })
	case '"':
		_, err := s.Text()
		return err
	case 't', 'f':
		_, err := s.Bool()
		return err
	case 'n':
		return s.word("null")
	default:
		_, err := s.Number()
		return err
	}
}
