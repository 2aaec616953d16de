package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// The bounds of what Read reads.
const (
	MaxBytes     = 4 << 20
	MaxDocuments = 5000

	maxProblems = 20 // the rest of a file's problems is counted, not listed
)

// Document is one resource and where it was read.
type Document struct {
	Resource *fleetv1.Resource
	Source   string // a file's name, or what stands for it
	Number   int    // of the YAML document within the source, from 1
	Line     int
}

// Error is one thing wrong with a document.
type Error struct {
	Source   string
	Document int
	Line     int
	Path     string // such as "spec.stages[0].traffic"; empty when the document itself is wrong
	Message  string
}

func (e *Error) Error() string {
	where := fmt.Sprintf("%s: document %d, line %d", e.Source, e.Document, e.Line)
	if e.Path != "" {
		return where + ": " + e.Path + ": " + e.Message
	}
	return where + ": " + e.Message
}

// Read reads the resources of a YAML stream (JSON is YAML). It takes three forms of a document: the declared one
// (kind, metadata, spec), what JSON prints, and what JSON prints for a list. Status, and the metadata that the manager
// sets, are passed over, so that what was printed may be applied. Each resource is validated by itself.
//
// The error joins an *Error for each problem, in the order of the lines.
func Read(source string, data []byte) ([]Document, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%s: %d bytes are more than the %d that are read at once", source, len(data), MaxBytes)
	}
	r := reader{source: source}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		r.document++
		if err != nil {
			// The parser's own text names the line and cannot be continued from.
			r.problems = append(r.problems, fmt.Errorf("%s: document %d: this is no YAML: %s", source, r.document, strings.TrimPrefix(err.Error(), "yaml: ")))
			break
		}
		if r.document > MaxDocuments {
			return nil, fmt.Errorf("%s: more than %d documents", source, MaxDocuments)
		}
		if len(doc.Content) == 1 && doc.Content[0].Tag != "!!null" {
			r.top(doc.Content[0])
		}
	}
	if n := len(r.problems); n > maxProblems {
		r.problems = append(r.problems[:maxProblems:maxProblems], fmt.Errorf("%s: and %d more problems", source, n-maxProblems))
	}
	return r.out, errors.Join(r.problems...)
}

type reader struct {
	source   string
	document int
	lines    map[string]int // of the paths of the resource being read
	out      []Document
	problems []error
}

func (r *reader) fail(n *yaml.Node, path, format string, args ...any) {
	r.problems = append(r.problems, &Error{Source: r.source, Document: r.document, Line: n.Line, Path: path, Message: fmt.Sprintf(format, args...)})
}

// top reads a document: a resource or a list of them.
func (r *reader) top(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "", "a document is a mapping with kind, metadata and spec, this is %s", describe(n))
		return
	}
	list := value(n, "resources")
	if list == nil || value(n, "kind") != nil {
		r.resource(n)
		return
	}
	if list.Kind != yaml.SequenceNode {
		r.fail(list, "resources", "want a list, this is %s", describe(list))
		return
	}
	r.eachKey(n, "", func(key string, k, _ *yaml.Node) {
		if key != "resources" && key != "resourceVersion" {
			r.unknown(k, "", key, "a list of resources", []string{"resources", "resourceVersion"})
		}
	})
	for _, item := range list.Content {
		if len(r.out) >= MaxDocuments {
			r.fail(item, "resources", "more than %d resources", MaxDocuments)
			return
		}
		r.resource(item)
	}
}

func (r *reader) resource(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "", "a resource is a mapping with kind, metadata and spec, this is %s", describe(n))
		return
	}
	kind, ok := r.kind(n)
	if !ok {
		return
	}
	before := len(r.problems)
	r.lines = map[string]int{"": n.Line}
	res := New(kind.Name, "")
	body := res.ProtoReflect().Mutable(res.ProtoReflect().Descriptor().Fields().ByName(kind.body)).Message()
	r.eachKey(n, "", func(key string, k, v *yaml.Node) {
		switch {
		case key == "kind", key == "status":
		case key == "metadata":
			r.metadata(v, res.GetMetadata().ProtoReflect())
		case key == "spec":
			r.spec(v, body)
		case key == string(kind.body):
			if r.mapping(v, key) {
				r.eachKey(v, key, func(inner string, k, v *yaml.Node) {
					switch inner {
					case "spec":
						r.spec(v, body)
					case "status":
					default:
						r.unknown(k, key, inner, kind.Name, []string{"spec", "status"})
					}
				})
			}
		default:
			r.unknown(k, "", key, "a resource", []string{"kind", "metadata", "spec", "status"})
		}
	})
	if len(r.problems) > before {
		return // what could not be read cannot be judged either
	}
	for _, p := range Validate(res) {
		r.problems = append(r.problems, &Error{Source: r.source, Document: r.document, Line: r.line(p.Path), Path: p.Path, Message: p.Message})
	}
	if len(r.problems) == before {
		r.out = append(r.out, Document{Resource: res, Source: r.source, Number: r.document, Line: n.Line})
	}
}

func (r *reader) kind(n *yaml.Node) (Kind, bool) {
	v := value(n, "kind")
	if v == nil || v.Kind != yaml.ScalarNode || v.Value == "" {
		r.fail(n, "kind", "missing: it is one of %s", kindNames(func(k Kind) bool { return k.Applied }))
		return Kind{}, false
	}
	kind, ok := exactKind(v.Value)
	if !ok {
		var names []string
		for _, k := range kinds {
			names = append(names, k.Name)
		}
		if near := nearest(v.Value, names); near != "" {
			r.fail(v, "kind", "there is no kind %q: did you mean %s?", clip(v.Value), near)
		} else {
			r.fail(v, "kind", "there is no kind %q: it is one of %s", clip(v.Value), kindNames(func(k Kind) bool { return k.Applied }))
		}
		return Kind{}, false
	}
	if !kind.Applied {
		r.fail(v, "kind", "a %s is reported by its agent and cannot be applied", kind.Name)
		return Kind{}, false
	}
	return kind, true
}

// metadata reads what an operator declares and passes over what the manager sets.
func (r *reader) metadata(n *yaml.Node, m protoreflect.Message) {
	r.message(n, "metadata", m, "generation", "createdAt", "updatedAt")
}

func (r *reader) spec(n *yaml.Node, body protoreflect.Message) {
	field := body.Descriptor().Fields().ByName("spec")
	if n.Tag == "!!null" {
		return // "spec:" with nothing after it
	}
	r.message(n, "spec", body.Mutable(field).Message())
}

// message fills m from a mapping; the fields named in skip are passed over.
func (r *reader) message(n *yaml.Node, path string, m protoreflect.Message, skip ...string) {
	if !r.mapping(n, path) {
		return
	}
	r.lines[path] = n.Line
	fields := m.Descriptor().Fields()
	r.eachKey(n, path, func(key string, k, v *yaml.Node) {
		for _, s := range skip {
			if key == s {
				return
			}
		}
		field := fields.ByJSONName(key)
		if field == nil {
			var names []string
			for i := range fields.Len() {
				names = append(names, fields.Get(i).JSONName())
			}
			r.unknown(k, path, key, string(m.Descriptor().Name()), names)
			return
		}
		at := path + "." + key
		r.lines[at] = k.Line
		if v.Tag == "!!null" {
			return // named and left empty
		}
		r.field(v, at, m, field)
	})
}

func (r *reader) field(n *yaml.Node, path string, m protoreflect.Message, field protoreflect.FieldDescriptor) {
	switch {
	case field.IsMap():
		if !r.mapping(n, path) {
			return
		}
		out := m.Mutable(field).Map()
		r.eachKey(n, path, func(key string, _, v *yaml.Node) {
			r.lines[path+"."+key] = v.Line
			if value, ok := r.scalar(v, path+"."+key, field.MapValue()); ok {
				out.Set(protoreflect.ValueOfString(key).MapKey(), value)
			}
		})
	case field.IsList():
		if n.Kind != yaml.SequenceNode {
			r.fail(n, path, "want a list, this is %s", describe(n))
			return
		}
		out := m.Mutable(field).List()
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			r.lines[at] = item.Line
			if field.Message() != nil {
				r.message(item, at, out.AppendMutable().Message())
			} else if value, ok := r.scalar(item, at, field); ok {
				out.Append(value)
			}
		}
	case field.Message() != nil:
		r.message(n, path, m.Mutable(field).Message())
	default:
		if value, ok := r.scalar(n, path, field); ok {
			m.Set(field, value)
		}
	}
}

func (r *reader) mapping(n *yaml.Node, path string) bool {
	if n.Kind != yaml.MappingNode {
		r.fail(n, path, "want a mapping, this is %s", describe(n))
		return false
	}
	return true
}

// eachKey calls do for every key of a mapping and refuses a key that is no text or comes twice.
func (r *reader) eachKey(n *yaml.Node, path string, do func(key string, k, v *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			r.fail(k, path, "a key must be plain text")
			continue
		}
		if line, twice := seen[k.Value]; twice {
			r.fail(k, path, "%s is here a second time, the first is in line %d", clip(k.Value), line)
			continue
		}
		seen[k.Value] = k.Line
		do(k.Value, k, v)
	}
}

func (r *reader) unknown(k *yaml.Node, path, key, what string, known []string) {
	// Without case and separators, so that snake_case finds its camelCase.
	for _, name := range known {
		if strings.EqualFold(strings.NewReplacer("_", "", "-", "").Replace(key), name) {
			r.fail(k, path, "%q is not a field of %s: did you mean %s?", clip(key), what, name)
			return
		}
	}
	if near := nearest(key, known); near != "" {
		r.fail(k, path, "%q is not a field of %s: did you mean %s?", clip(key), what, near)
		return
	}
	if len(known) == 0 {
		r.fail(k, path, "%q is not a field of %s, which has none", clip(key), what)
		return
	}
	r.fail(k, path, "%q is not a field of %s: its fields are %s", clip(key), what, strings.Join(known, ", "))
}

// line finds the line of a path, or of the nearest part of the document that holds it.
func (r *reader) line(path string) int {
	for {
		if line, ok := r.lines[path]; ok {
			return line
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return r.lines[""]
		}
		path = path[:cut]
	}
}

// value returns the value of a key of a mapping, or nil.
func value(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
