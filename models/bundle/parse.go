package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhowfleet/dhow/models/tensor"
)

// ParseSpec reads bundle.yaml. It reports every mistake that it finds (at most maxProblems), each with its line;
// unknown keys are mistakes, since a misspelt budget that is ignored is no budget.
func ParseSpec(data []byte) (Spec, error) {
	var s Spec
	if len(data) > MaxSpecBytes {
		return s, fmt.Errorf("%s has %d bytes, at most %d are allowed", SpecFile, len(data), MaxSpecBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return s, fmt.Errorf("%s is empty", SpecFile)
		}
		return s, fmt.Errorf("%s is no YAML: %s", SpecFile, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return s, fmt.Errorf("%s holds more than one document", SpecFile)
	}
	if len(doc.Content) == 0 {
		return s, fmt.Errorf("%s is empty", SpecFile)
	}
	var p parser
	p.spec(doc.Content[0], &s)
	if len(p.problems) == 0 && s.Stages != nil {
		p.complete(&s)
	}
	if len(p.problems) == 0 {
		p.names(&s)
	}
	if len(p.problems) > 0 {
		return Spec{}, fmt.Errorf("%s: %s", SpecFile, strings.Join(p.problems, "; "))
	}
	return s, nil
}

const (
	maxProblems    = 10
	maxStepTimeout = time.Minute
)

// parser walks the nodes and collects what is wrong. It never follows an alias, so that a document is never larger
// than its text.
type parser struct {
	problems []string
	stageOf  []*yaml.Node // the steps of a pipeline that is a list
}

func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	if len(p.problems) > maxProblems {
		return
	}
	if len(p.problems) == maxProblems {
		p.problems = append(p.problems, "and more")
		return
	}
	text := fmt.Sprintf(format, args...)
	if n != nil && n.Line > 0 {
		text = fmt.Sprintf("line %d: %s", n.Line, text)
	}
	p.problems = append(p.problems, text)
}

// field says how a key of a mapping is read.
type field struct {
	key      string
	required bool
	read     func(*yaml.Node)
}

// mapping reads a mapping's keys; where names the mapping in messages.
func (p *parser) mapping(n *yaml.Node, where string, fields ...field) {
	if n.Kind != yaml.MappingNode {
		p.fail(n, "%s must be a mapping of keys to values", where)
		return
	}
	seen := make([]bool, len(fields))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := slices.IndexFunc(fields, func(f field) bool { return f.key == key.Value })
		switch {
		case key.Kind != yaml.ScalarNode || at < 0:
			p.fail(key, "unknown key %q in %s; known are %s", key.Value, where, keys(fields))
		case seen[at]:
			p.fail(key, "key %q occurs twice in %s", key.Value, where)
		case value.Tag == "!!null":
			seen[at] = true
			p.fail(key, "%q in %s has no value", key.Value, where)
		default:
			seen[at] = true
			fields[at].read(value)
		}
	}
	for i, f := range fields {
		if f.required && !seen[i] {
			p.fail(n, "%q is missing in %s", f.key, where)
		}
	}
}

func keys(fields []field) string {
	var out []string
	for _, f := range fields {
		out = append(out, f.key)
	}
	return strings.Join(out, ", ")
}

func (p *parser) list(n *yaml.Node, where string, most int, each func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		p.fail(n, "%s must be a list", where)
		return
	}
	if len(n.Content) > most {
		p.fail(n, "%s has %d entries, at most %d are allowed", where, len(n.Content), most)
		return
	}
	for _, e := range n.Content {
		each(e)
	}
}

// text reads a scalar as it is written, so that version: 1.10 stays "1.10".
func (p *parser) text(n *yaml.Node, where string, into *string, check func(string) error) {
	if n.Kind != yaml.ScalarNode {
		p.fail(n, "%s must be a single value", where)
		return
	}
	if check != nil {
		if err := check(n.Value); err != nil {
			p.fail(n, "%s: %v", where, err)
			return
		}
	}
	*into = n.Value
}

func (p *parser) size(n *yaml.Node, where string, into *int64, least, most int64) {
	var s string
	p.text(n, where, &s, func(s string) error {
		v, err := ParseSize(s)
		if err == nil && (v < least || v > most) {
			err = fmt.Errorf("%s is outside of %s to %s", s, FormatSize(least), FormatSize(most))
		}
		*into = v
		return err
	})
}

func (p *parser) duration(n *yaml.Node, where string, into *time.Duration, most time.Duration) {
	var s string
	p.text(n, where, &s, func(s string) error {
		v, err := parseDuration(s)
		if err == nil && (v < time.Millisecond || v > most) {
			err = fmt.Errorf("%s is outside of 1ms to %s", s, most)
		}
		*into = v
		return err
	})
}

func (p *parser) spec(n *yaml.Node, s *Spec) {
	s.Budgets = Budgets{Memory: DefaultMemory, Load: DefaultLoad, Infer: DefaultInfer}
	var version string
	variants := false
	p.mapping(n, "the bundle", append(p.traffic(s),
		field{"apiVersion", true, func(n *yaml.Node) {
			p.text(n, "apiVersion", &version, func(v string) error {
				if v != APIVersion {
					return fmt.Errorf("this program reads %s, not %q", APIVersion, v)
				}
				return nil
			})
		}},
		field{"name", true, func(n *yaml.Node) { p.text(n, "name", &s.Name, ValidName) }},
		field{"version", true, func(n *yaml.Node) { p.text(n, "version", &s.Version, ValidVersion) }},
		field{"variants", false, func(n *yaml.Node) {
			variants = true
			p.list(n, "variants", MaxVariants, func(n *yaml.Node) { s.Variants = append(s.Variants, p.variant(n)) })
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				p.fail(n, "variants is empty; a bundle has at least one")
			}
		}},
		field{"inputs", true, func(n *yaml.Node) { s.Inputs = p.tensors(n, "inputs") }},
		field{"outputs", true, func(n *yaml.Node) { s.Outputs = p.tensors(n, "outputs") }},
		field{"pipeline", false, func(n *yaml.Node) {
			if n.Kind == yaml.SequenceNode {
				p.stages(n, s)
				return
			}
			p.mapping(n, "pipeline",
				field{"pre", false, func(n *yaml.Node) { s.Pre = p.step(n, "pipeline.pre") }},
				field{"post", false, func(n *yaml.Node) { s.Post = p.step(n, "pipeline.post") }})
		}},
		field{"labels", false, func(n *yaml.Node) { p.text(n, "labels", &s.Labels, ValidPath) }},
		field{"counters", false, func(n *yaml.Node) { s.Counters = p.metrics(n, "counters") }},
		field{"features", false, func(n *yaml.Node) { s.Features = p.metrics(n, "features") }},
		field{"budgets", false, func(n *yaml.Node) {
			p.mapping(n, "budgets",
				field{"memory", false, func(n *yaml.Node) { p.size(n, "budgets.memory", &s.Budgets.Memory, 16<<20, 1<<40) }},
				field{"load", false, func(n *yaml.Node) { p.duration(n, "budgets.load", &s.Budgets.Load, 10*time.Minute) }},
				field{"infer", false, func(n *yaml.Node) { p.duration(n, "budgets.infer", &s.Budgets.Infer, time.Minute) }})
		}},
		field{"golden", false, func(n *yaml.Node) { p.text(n, "golden", &s.GoldenDir, ValidPath) }},
	)...)
	if n.Kind == yaml.MappingNode && !variants && s.Stages == nil {
		p.fail(n, "%q is missing in the bundle", "variants")
	}
}

func (p *parser) variant(n *yaml.Node) Variant {
	var v Variant
	p.mapping(n, "a variant",
		field{"name", true, func(n *yaml.Node) { p.text(n, "variant name", &v.Name, ValidName) }},
		field{"file", true, func(n *yaml.Node) { p.text(n, "variant file", &v.File, ValidPath) }})
	return v
}

func (p *parser) step(n *yaml.Node, where string) *Step {
	s := &Step{Timeout: DefaultStepTimeout, Memory: DefaultStepMemory}
	p.mapping(n, where,
		field{"module", true, func(n *yaml.Node) { p.text(n, where+".module", &s.Module, ValidPath) }},
		field{"timeout", false, func(n *yaml.Node) { p.duration(n, where+".timeout", &s.Timeout, maxStepTimeout) }},
		field{"memory", false, func(n *yaml.Node) { p.size(n, where+".memory", &s.Memory, 64<<10, 2<<30) }})
	return s
}

func (p *parser) tensors(n *yaml.Node, where string) []tensor.Spec {
	var out []tensor.Spec
	p.list(n, where, MaxTensors, func(n *yaml.Node) {
		var t tensor.Spec
		p.mapping(n, "a tensor of "+where,
			field{"name", true, func(n *yaml.Node) { p.text(n, "tensor name", &t.Name, validText) }},
			field{"datatype", true, func(n *yaml.Node) {
				var s string
				p.text(n, "datatype", &s, func(s string) (err error) { t.Datatype, err = tensor.ParseDatatype(s); return err })
			}},
			field{"shape", true, func(n *yaml.Node) {
				t.Shape = []int64{}
				p.list(n, "shape", tensor.MaxRank, func(n *yaml.Node) {
					var s string
					p.text(n, "shape", &s, func(s string) error {
						d, err := strconv.ParseInt(s, 10, 64)
						if err != nil || d < -1 || d > 1<<40 {
							return fmt.Errorf("%q is not a dimension; write a number, or -1 for one that varies", s)
						}
						t.Shape = append(t.Shape, d)
						return nil
					})
				})
			}})
		out = append(out, t)
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		p.fail(n, "%s is empty", where)
	}
	return out
}

func (p *parser) metrics(n *yaml.Node, where string) []string {
	var out []string
	p.list(n, where, MaxNames, func(n *yaml.Node) {
		var s string
		p.text(n, where, &s, validMetric)
		out = append(out, s)
	})
	return out
}

// names refuses what is named twice.
func (p *parser) names(s *Spec) {
	var variants, inputs, outputs []string
	for _, v := range s.Variants {
		variants = append(variants, v.Name)
	}
	for _, t := range s.Inputs {
		inputs = append(inputs, t.Name)
	}
	for _, t := range s.Outputs {
		outputs = append(outputs, t.Name)
	}
	for _, set := range []struct {
		what  string
		names []string
	}{{"variants", variants}, {"inputs", inputs}, {"outputs", outputs}, {"counters", s.Counters}, {"features", s.Features}} {
		sorted := slices.Sorted(slices.Values(set.names))
		for i := 1; i < len(sorted); i++ {
			if sorted[i] == sorted[i-1] {
				p.fail(nil, "%q occurs twice in %s", sorted[i], set.what)
			}
		}
	}
}
