// Package strictyaml reads YAML documents that people write for Dhow, and leaves nothing unsaid: an unknown key, a key
// that occurs twice, a value of another kind or out of its bounds is a mistake with its line, since a misspelt limit
// that is ignored is no limit. All mistakes of a document are reported at once, at most MaxProblems.
//
// A Reader walks the nodes of one document; each key's function reads its value. It never follows an alias, so that a
// document is never larger than its text. Numbers and versions are read as they are written: version: 1.10 stays "1.10".
//
// The package does no I/O. A Reader belongs to one goroutine.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxProblems is how many mistakes are told; that there are more is told too.
const MaxProblems = 10

// Node is a part of a document.
type Node = yaml.Node

// The kinds of nodes that callers tell apart.
const (
	MappingKind = yaml.MappingNode
	ListKind    = yaml.SequenceNode
)

// Reader collects what is wrong with a document. Its zero value is ready.
type Reader struct {
	problems []string
}

// Document returns the root of the only document in data. The error has no name of a file in it.
func Document(data []byte) (*Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("is empty")
		}
		return nil, fmt.Errorf("is no YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	if len(doc.Content) == 0 {
		return nil, errors.New("is empty")
	}
	return doc.Content[0], nil
}

// Failf records a mistake at n, which may be nil.
func (r *Reader) Failf(n *Node, format string, args ...any) {
	if len(r.problems) > MaxProblems {
		return
	}
	if len(r.problems) == MaxProblems {
		r.problems = append(r.problems, "and more")
		return
	}
	text := fmt.Sprintf(format, args...)
	if n != nil && n.Line > 0 {
		text = fmt.Sprintf("line %d: %s", n.Line, text)
	}
	r.problems = append(r.problems, text)
}

// Err returns all mistakes in one error, nil when there is none.
func (r *Reader) Err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(r.problems, "; "))
}

// Field says how a key of a mapping is read.
type Field struct {
	key      string
	required bool
	read     func(*Node)
}

// Key makes a Field.
func Key(name string, required bool, read func(*Node)) Field { return Field{name, required, read} }

// Mapping reads a mapping's keys; where names the mapping in messages.
func (r *Reader) Mapping(n *Node, where string, fields ...Field) {
	if n.Kind != yaml.MappingNode {
		r.Failf(n, "%s must be a mapping of keys to values", where)
		return
	}
	seen := make([]bool, len(fields))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := slices.IndexFunc(fields, func(f Field) bool { return f.key == key.Value })
		switch {
		case key.Kind != yaml.ScalarNode || at < 0:
			r.Failf(key, "unknown key %q in %s; known are %s", key.Value, where, keys(fields))
		case seen[at]:
			r.Failf(key, "key %q occurs twice in %s", key.Value, where)
		case value.Tag == "!!null":
			seen[at] = true
			r.Failf(key, "%q in %s has no value", key.Value, where)
		default:
			seen[at] = true
			fields[at].read(value)
		}
	}
	for i, f := range fields {
		if f.required && !seen[i] {
			r.Failf(n, "%q is missing in %s", f.key, where)
		}
	}
}

func keys(fields []Field) string {
	var out []string
	for _, f := range fields {
		out = append(out, f.key)
	}
	return strings.Join(out, ", ")
}

// List reads the entries of a list of at most most.
func (r *Reader) List(n *Node, where string, most int, each func(*Node)) {
	if n.Kind != yaml.SequenceNode {
		r.Failf(n, "%s must be a list", where)
		return
	}
	if len(n.Content) > most {
		r.Failf(n, "%s has %d entries, at most %d are allowed", where, len(n.Content), most)
		return
	}
	for _, e := range n.Content {
		each(e)
	}
}

// Text reads a scalar as it is written; check may be nil.
func (r *Reader) Text(n *Node, where string, into *string, check func(string) error) {
	if n.Kind != yaml.ScalarNode {
		r.Failf(n, "%s must be a single value", where)
		return
	}
	if check != nil {
		if err := check(n.Value); err != nil {
			r.Failf(n, "%s: %v", where, err)
			return
		}
	}
	*into = n.Value
}

// Int reads a whole number from least to most.
func Int[T int | int64](r *Reader, n *Node, where string, into *T, least, most T) {
	var s string
	r.Text(n, where, &s, func(s string) error {
		v, err := strconv.ParseInt(s, 10, strconv.IntSize)
		if err != nil || T(v) < least || T(v) > most {
			return fmt.Errorf("%q is no number from %d to %d", s, least, most)
		}
		*into = T(v)
		return nil
	})
}

// Bool reads true or false.
func (r *Reader) Bool(n *Node, where string, into *bool) {
	var s string
	r.Text(n, where, &s, func(s string) error {
		if s != "true" && s != "false" {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*into = s == "true"
		return nil
	})
}
