package access

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	maxFile     = 4 << 20
	maxKeys     = 10_000
	maxProblems = 20 // the rest of a file's problems is counted, not listed
)

// seen is how a file was when it was read.
type seen struct {
	info fs.FileInfo
	at   time.Time // when it was read
	hash [sha256.Size]byte
}

// settled is how old a file's time must be for another change to show in it: some file systems count in seconds.
const settled = 2 * time.Second

// same reports whether the file can be taken to be as it was.
func (s *seen) same(info fs.FileInfo) bool {
	return s.info != nil && os.SameFile(s.info, info) && s.info.Size() == info.Size() && s.info.Mode() == info.Mode() &&
		s.info.ModTime().Equal(info.ModTime()) && s.at.Sub(info.ModTime()) > settled
}

// read puts the file's rules in force if they hold. changed is whether that, or what is wrong, is news.
func (p *Policy) read() (changed bool, err error) {
	info, err := os.Stat(p.path)
	if err != nil {
		err = fmt.Errorf("cannot read the serving keys: %w", err)
	}
	if err == nil && p.seen.same(info) {
		return false, p.fault
	}
	now := seen{info: info, at: time.Now()} // the file system's time and not Options.Now
	var data []byte
	if err == nil {
		data, err = load(p.path)
	}
	var keys []Key
	if err == nil {
		now.hash = sha256.Sum256(data)
		keys, err = Parse(p.path, data)
	}
	before := p.seen
	p.seen = now
	if err != nil {
		return p.fault == nil || p.fault.Error() != err.Error(), err
	}
	if now.hash == before.hash && p.fault == nil {
		return false, nil
	}
	p.rules.Store(p.rules.Load().next(keys))
	return true, nil
}

func load(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the serving keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read the serving keys: %w", err)
	}
	// Whoever may write it could let themselves in.
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("cannot trust the serving keys: everyone on this machine may write %s; take that away with chmod o-w", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the serving keys: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("cannot read the serving keys: %s has more than %d bytes", path, maxFile)
	}
	return data, nil
}

// next returns the rules of keys. What a key has used before, it has used.
func (r *rules) next(keys []Key) *rules {
	out := &rules{byHash: make(map[Hash]*rule, len(keys))}
	for _, k := range keys {
		u := newUsage()
		if old := r.byHash[k.Hash]; old != nil {
			u = old.usage
		}
		out.byHash[k.Hash] = &rule{Key: k, groups: k.set(), usage: u}
	}
	return out
}

func (r *rules) list() []Key {
	out := make([]Key, 0, len(r.byHash))
	for _, k := range r.byHash {
		out = append(out, k.Key)
	}
	slices.SortFunc(out, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Parse reads the ServingKey documents of a YAML stream; source is its name in errors, which join one for each problem
// with its document, line and path. An unknown field is a problem: a rule that is misspelt must not pass for none.
func Parse(source string, data []byte) ([]Key, error) {
	r := reader{source: source, names: map[string]int{}, hashes: map[Hash]int{}}
	var keys []Key
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
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
		if len(doc.Content) != 1 || doc.Content[0].Tag == "!!null" {
			continue // nothing between two separators
		}
		if len(keys) == maxKeys {
			return nil, fmt.Errorf("%s: more than %d keys", source, maxKeys)
		}
		keys = append(keys, r.key(doc.Content[0]))
	}
	if n := len(r.problems); n > maxProblems {
		r.problems = append(r.problems[:maxProblems:maxProblems], fmt.Errorf("%s: and %d more problems", source, n-maxProblems))
	}
	if len(r.problems) > 0 {
		return nil, errors.Join(r.problems...)
	}
	return keys, nil
}

type reader struct {
	source   string
	document int
	problems []error
	names    map[string]int // the document that has the name
	hashes   map[Hash]int
}

func (r *reader) fail(line int, path, message string) {
	where := fmt.Sprintf("%s: document %d, line %d: ", r.source, r.document, line)
	if path != "" {
		where += path + ": "
	}
	r.problems = append(r.problems, errors.New(where+message))
}

// key reads one document. What it returns after a problem is not used.
func (r *reader) key(n *yaml.Node) (k Key) {
	before := len(r.problems)
	lines := map[string]int{}
	kind := ""
	text := func(to *string) func(string, *yaml.Node) {
		return func(path string, v *yaml.Node) { *to = r.scalar(path, v) }
	}
	number := func(to *int) func(string, *yaml.Node) {
		return func(path string, v *yaml.Node) { *to = int(r.number(path, v)) }
	}
	r.mapping("", n, lines, map[string]func(string, *yaml.Node){
		"kind": text(&kind),
		"metadata": func(path string, v *yaml.Node) {
			r.mapping(path, v, lines, map[string]func(string, *yaml.Node){"name": text(&k.Name)})
		},
		"spec": func(path string, v *yaml.Node) {
			r.mapping(path, v, lines, map[string]func(string, *yaml.Node){
				"hash": func(path string, v *yaml.Node) {
					h, err := parseHash(r.scalar(path, v))
					if err != nil {
						r.fail(v.Line, path, err.Error())
					}
					k.Hash = h
				},
				"groups": func(path string, v *yaml.Node) {
					for _, s := range r.list(path, v) {
						k.Groups = append(k.Groups, Group(s))
					}
				},
				"models": func(path string, v *yaml.Node) {
					// None at all would mean every model, which an empty list hardly wants to say.
					if k.Models = r.list(path, v); len(k.Models) == 0 {
						r.fail(v.Line, path, "an empty list: leave models out to allow all")
					}
				},
				"quota": func(path string, v *yaml.Node) {
					r.mapping(path, v, lines, map[string]func(string, *yaml.Node){
						"requestsPerMinute": number(&k.Quota.RequestsPerMinute), "burst": number(&k.Quota.Burst), "concurrent": number(&k.Quota.Concurrent),
					})
				},
				"priority": func(path string, v *yaml.Node) { k.Priority = uint64(r.number(path, v)) },
				"expires": func(path string, v *yaml.Node) {
					t, err := ParseExpiry(r.scalar(path, v))
					if err != nil {
						r.fail(v.Line, path, err.Error())
					}
					k.Expires = t
				},
			})
		},
	})
	if len(r.problems) > before {
		return k // what could not be read cannot be judged either
	}
	if kind != KindServingKey {
		r.fail(n.Line, "kind", "it is "+clip(kind)+", this file takes "+KindServingKey)
		return k
	}
	k.check(func(path, message string) {
		line := n.Line
		for p := path; p != ""; p = p[:max(strings.LastIndexByte(p, '.'), 0)] {
			if l, ok := lines[p]; ok {
				line = l
				break
			}
		}
		r.fail(line, path, message)
	})
	if first, ok := r.names[k.Name]; ok {
		r.fail(n.Line, "metadata.name", fmt.Sprintf("document %d has the name %s already", first, k.Name))
	}
	if first, ok := r.hashes[k.Hash]; ok {
		r.fail(n.Line, "spec.hash", fmt.Sprintf("document %d has this key already", first))
	}
	r.names[k.Name], r.hashes[k.Hash] = r.document, r.document
	return k
}

// mapping hands each value of n to its field.
func (r *reader) mapping(path string, n *yaml.Node, lines map[string]int, fields map[string]func(string, *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		r.fail(n.Line, path, "a mapping should be here")
		return
	}
	given := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, v := n.Content[i], n.Content[i+1]
		at := strings.TrimPrefix(path+"."+name.Value, ".")
		field := fields[name.Value]
		switch {
		case field == nil:
			r.fail(name.Line, path, "there is no field "+clip(name.Value))
		case given[name.Value]:
			r.fail(name.Line, at, "it is given twice")
		default:
			given[name.Value] = true
			lines[at] = v.Line
			field(at, v)
		}
	}
}

func (r *reader) scalar(path string, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.fail(n.Line, path, "a single value should be here")
		return ""
	}
	return n.Value
}

func (r *reader) number(path string, n *yaml.Node) uint32 {
	text := r.scalar(path, n)
	v, err := strconv.ParseUint(text, 10, 31)
	if err != nil && n.Kind == yaml.ScalarNode {
		r.fail(n.Line, path, clip(text)+" is no whole number")
	}
	return uint32(v)
}

func (r *reader) list(path string, n *yaml.Node) []string {
	if n.Kind != yaml.SequenceNode {
		r.fail(n.Line, path, "a list should be here, such as [a, b]")
		return nil
	}
	var out []string
	for _, e := range n.Content {
		out = append(out, r.scalar(path, e))
	}
	return out
}
