// Package textformat reads protocol buffers' text format, and the JSON of the same messages, into values that say where
// they stand. It knows the syntax alone: which fields there are, and of what type, is for whoever visits the values.
//
// The package is pure. Sizes, counts and nesting are bounded; a Value belongs to the caller.
package textformat

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of a text.
const (
	MaxBytes   = 1 << 20
	MaxNesting = 32
	MaxValues  = 200_000
)

// SyntaxError says what is wrong with a text and where.
type SyntaxError struct {
	Line    int
	Message string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Message) }

// Failf makes a *SyntaxError.
func Failf(line int, format string, args ...any) error {
	return &SyntaxError{line, fmt.Sprintf(format, args...)}
}

// Kind of a value as it was written.
type Kind uint8

// The kinds.

const (
	Quoted  Kind = iota + 1 // a string, its escapes undone
	Word                    // a number, an enumeration's name, true or false
	Message                 // fields between braces
	List                    // values between brackets
)

func (k Kind) String() string {
	return [...]string{Quoted: "a string", Word: "a number or word", Message: "a message", List: "a list"}[k]
}

// Value is a piece of a text that was read but not understood yet.
type Value struct {
	Line   int
	Kind   Kind
	Text   string  // of Quoted and Word
	Fields []Field // of Message
	Items  []Value // of List
}

// Field is a name with a value. One that has several occurs several times, or has a List.
type Field struct {
	Line  int
	Name  string
	Value Value
}

// reader turns a text in protocol buffers' text format into a message value.
type reader struct {
	text   string
	at     int
	line   int
	values int
}

// Read reads a text as the fields of one message. An error is a *SyntaxError unless the text as a whole is too large.
func Read(text []byte) (Value, error) {
	if len(text) > MaxBytes {
		return Value{}, fmt.Errorf("the text has %d bytes, at most %d are allowed", len(text), MaxBytes)
	}
	r := &reader{text: strings.TrimPrefix(string(text), "\ufeff"), line: 1}
	fields, err := r.message(0, 0)
	return Value{Line: 1, Kind: Message, Fields: fields}, err
}

// space skips blanks and comments.
func (r *reader) space() {
	for ; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; c {
		case '\n':
			r.line++
		case ' ', '\t', '\r', '\v', '\f':
		case '#':
			end := strings.IndexByte(r.text[r.at:], '\n')
			if end < 0 {
				r.at = len(r.text)
				return
			}
			r.at += end - 1
		default:
			return
		}
	}
}

// peek returns the next character that is neither blank nor comment, 0 at the end.
func (r *reader) peek() byte {
	r.space()
	if r.at == len(r.text) {
		return 0
	}
	return r.text[r.at]
}

// skip passes c when it comes next.
func (r *reader) skip(c byte) bool {
	if r.at < len(r.text) && r.peek() == c {
		r.at++
		return true
	}
	return false
}

// found names what comes next in messages.
func (r *reader) found() string {
	if r.peek(); r.at == len(r.text) {
		return "the text ends"
	}
	c, _ := utf8.DecodeRuneInString(r.text[r.at:])
	return fmt.Sprintf("found %q", c)
}

func (r *reader) count(line int) error {
	if r.values++; r.values > MaxValues {
		return Failf(line, "the text has more than %d values", MaxValues)
	}
	return nil
}

// message reads fields up to the closing character, or to the end of the text when that is 0.
func (r *reader) message(closing byte, depth int) ([]Field, error) {
	if depth > MaxNesting {
		return nil, Failf(r.line, "messages are nested deeper than %d", MaxNesting)
	}
	var fields []Field
	for {
		c := r.peek()
		switch {
		case r.at == len(r.text) && closing == 0:
			return fields, nil
		case closing != 0 && c == closing && r.at < len(r.text):
			r.at++
			return fields, nil
		case c == '[':
			return nil, Failf(r.line, "extensions in brackets are not known here")
		}
		line, name := r.line, r.identifier()
		if name == "" {
			if closing != 0 {
				return nil, Failf(r.line, "want the name of a field or %q, but %s", closing, r.found())
			}
			return nil, Failf(r.line, "want the name of a field, but %s", r.found())
		}
		colon := r.skip(':')
		v, err := r.value(name, colon, depth)
		if err != nil {
			return nil, err
		}
		fields = append(fields, Field{Line: line, Name: name, Value: v})
		if !r.skip(',') {
			r.skip(';')
		}
	}
}

func (r *reader) value(name string, colon bool, depth int) (Value, error) {
	c := r.peek()
	v := Value{Line: r.line}
	if err := r.count(r.line); err != nil {
		return v, err
	}
	var err error
	switch {
	case c == '{' || c == '<':
		r.at++
		closing := byte('}')
		if c == '<' {
			closing = '>'
		}
		v.Kind = Message
		v.Fields, err = r.message(closing, depth+1)
		return v, err
	case c == '[':
		r.at++
		v.Kind = List
		v.Items, err = r.list(name, colon, depth)
		return v, err
	case !colon:
		return v, Failf(r.line, "want ':' and a value after %q, but %s", name, r.found())
	case c == '"' || c == '\'':
		v.Kind = Quoted
		v.Text, err = r.quoted()
		return v, err
	}
	v.Kind = Word
	if r.skip('-') {
		r.space()
		v.Text = "-"
	}
	start := r.at
	for r.at < len(r.text) && isWord(r.text[r.at], r.text[start:r.at]) {
		r.at++
	}
	if r.at == start {
		return v, Failf(r.line, "want a value for %q, but %s", name, r.found())
	}
	v.Text += r.text[start:r.at]
	return v, nil
}

// list reads values up to the bracket; name is for messages.
func (r *reader) list(name string, colon bool, depth int) ([]Value, error) {
	items := []Value{}
	if r.skip(']') {
		return items, nil
	}
	for {
		v, err := r.value(name, colon, depth)
		if err != nil {
			return nil, err
		}
		if v.Kind == List {
			return nil, Failf(v.Line, "%q has a list inside a list", name)
		}
		items = append(items, v)
		switch {
		case r.skip(']'):
			return items, nil
		case !r.skip(','):
			return nil, Failf(r.line, "want ',' or ']' in the list %q, but %s", name, r.found())
		}
	}
}

func (r *reader) identifier() string {
	start := r.at
	for r.at < len(r.text) {
		c := r.text[r.at]
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9' || r.at == start) {
			break
		}
		r.at++
	}
	return r.text[start:r.at]
}

// isWord reports whether c goes on what a number or name began.
func isWord(c byte, before string) bool {
	switch {
	case c == '_' || c == '.' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z':
		return true
	case c == '+' || c == '-':
		return before != "" && before[len(before)-1]|0x20 == 'e' && (before[0] == '.' || before[0] >= '0' && before[0] <= '9')
	}
	return false
}

// quoted reads one or several adjacent strings.
func (r *reader) quoted() (string, error) {
	var out []byte
	line := r.line
	for c := r.peek(); c == '"' || c == '\''; c = r.peek() {
		r.at++
		var err error
		if out, err = r.part(out, c); err != nil {
			return "", err
		}
	}
	if !utf8.Valid(out) {
		return "", Failf(line, "the string is no UTF-8 text")
	}
	return string(out), nil
}

// part appends a string up to its closing quote.
func (r *reader) part(out []byte, quote byte) ([]byte, error) {
	for r.at < len(r.text) {
		c := r.text[r.at]
		switch c {
		case quote:
			r.at++
			return out, nil
		case '\n':
			return nil, Failf(r.line, "the string is not closed")
		case '\\':
			var err error
			if out, err = r.escape(out); err != nil {
				return nil, err
			}
		default:
			out = append(out, c)
			r.at++
		}
	}
	return nil, Failf(r.line, "the string is not closed")
}

// simple are the escapes of one letter and what they stand for.
const simple = "n\nr\rt\ta\ab\bf\fv\v\\\\??''\"\""

func (r *reader) escape(out []byte) ([]byte, error) {
	r.at++ // the backslash
	if r.at == len(r.text) {
		return nil, Failf(r.line, "the string is not closed")
	}
	c := r.text[r.at]
	for i := 0; i < len(simple); i += 2 {
		if simple[i] == c {
			r.at++
			return append(out, simple[i+1]), nil
		}
	}
	switch {
	case c >= '0' && c <= '7':
		n, _ := r.digits(8, 1, 3)
		if n > 255 {
			return nil, Failf(r.line, "the escape \\%o is no byte", n)
		}
		return append(out, byte(n)), nil
	case c == 'x' || c == 'X':
		r.at++
		n, ok := r.digits(16, 1, 2)
		if !ok {
			return nil, Failf(r.line, "\\x wants hexadecimal digits")
		}
		return append(out, byte(n)), nil
	case c == 'u' || c == 'U':
		return r.unicode(out, c)
	}
	return nil, Failf(r.line, "the string has the unknown escape \\%c", c)
}

// unicode reads \uXXXX, where two halves of a surrogate pair make one, or \UXXXXXXXX.
func (r *reader) unicode(out []byte, c byte) ([]byte, error) {
	digits := 4
	if c == 'U' {
		digits = 8
	}
	r.at++
	n, ok := r.digits(16, digits, digits)
	if ok && n >= 0xd800 && n < 0xdc00 && strings.HasPrefix(r.text[r.at:], "\\u") {
		r.at += 2
		low, whole := r.digits(16, 4, 4)
		if ok = whole && low >= 0xdc00 && low < 0xe000; ok {
			n = 0x10000 + (n-0xd800)<<10 + (low - 0xdc00)
		}
	}
	if !ok || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
		return nil, Failf(r.line, "\\%c wants the %d hexadecimal digits of a character", c, digits)
	}
	return utf8.AppendRune(out, rune(n)), nil
}

// digits reads between least and most digits of a number.
func (r *reader) digits(base uint32, least, most int) (uint32, bool) {
	var n uint32
	i := 0
	for ; i < most && r.at < len(r.text); i++ {
		d := base
		switch c := r.text[r.at]; {
		case c >= '0' && c <= '9':
			d = uint32(c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			d = uint32(c|0x20-'a') + 10
		}
		if d >= base {
			break
		}
		n = n*base + d
		r.at++
	}
	return n, i >= least
}
