package textformat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// ReadJSON reads a message as JSON: objects are messages, and maps too; null is left out. The bounds are those of Read.
func ReadJSON(text []byte) (Value, error) {
	if len(text) > MaxBytes {
		return Value{}, fmt.Errorf("the text has %d bytes, at most %d are allowed", len(text), MaxBytes)
	}
	r := &jsonReader{text: text, in: json.NewDecoder(bytes.NewReader(text)), line: 1}
	r.in.UseNumber()
	v, _, err := r.value(0)
	if err == nil {
		if _, end := r.in.Token(); !errors.Is(end, io.EOF) {
			err = Failf(r.lineNow(), "there is more after the message")
		}
	}
	return v, err
}

// jsonReader turns JSON into the values that the text format gives.
type jsonReader struct {
	text   []byte
	in     *json.Decoder
	at     int64
	line   int
	values int
}

func (r *jsonReader) lineNow() int {
	now := r.in.InputOffset()
	r.line += bytes.Count(r.text[r.at:now], []byte("\n"))
	r.at = now
	return r.line
}

func (r *jsonReader) token() (json.Token, error) {
	t, err := r.in.Token()
	line := r.lineNow()
	if err != nil {
		return nil, Failf(line, "the text is no JSON: %s", jsonReason(err))
	}
	if r.values++; r.values > MaxValues {
		return nil, Failf(line, "the text has more than %d values", MaxValues)
	}
	return t, nil
}

func jsonReason(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return syntax.Error()
	}
	return "it ends too early"
}

// value reads one; null is no value.
func (r *jsonReader) value(depth int) (v Value, null bool, err error) {
	t, err := r.token()
	v.Line = r.line
	if err != nil {
		return v, false, err
	}
	switch t := t.(type) {
	case string:
		v.Kind, v.Text = Quoted, t
	case json.Number:
		v.Kind, v.Text = Word, t.String()
	case bool:
		v.Kind, v.Text = Word, strconv.FormatBool(t)
	case nil:
		return v, true, nil
	case json.Delim:
		if depth >= MaxNesting {
			return v, false, Failf(r.line, "messages are nested deeper than %d", MaxNesting)
		}
		v.Kind = Message
		if t == '[' {
			v.Kind, v.Items = List, []Value{}
		}
		err = r.inside(&v, depth)
	}
	return v, false, err
}

// inside reads an object or array up to its end.
func (r *jsonReader) inside(v *Value, depth int) error {
	for r.in.More() {
		f := Field{}
		if v.Kind == Message {
			t, err := r.token()
			if err != nil {
				return err
			}
			name, ok := t.(string)
			if !ok {
				return Failf(r.line, "the text is no JSON: want a key")
			}
			f.Name, f.Line = name, r.line
		}
		inner, null, err := r.value(depth + 1)
		switch {
		case err != nil:
			return err
		case null:
			continue
		case v.Kind == List && inner.Kind == List:
			return Failf(inner.Line, "there is a list inside a list")
		case v.Kind == List:
			v.Items = append(v.Items, inner)
		default:
			f.Value = inner
			v.Fields = append(v.Fields, f)
		}
	}
	_, err := r.token()
	return err
}
