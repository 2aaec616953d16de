package bundle

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/dhowfleet/dhow/models/strictyaml"
	"github.com/dhowfleet/dhow/models/tensor"
)

// ParseSpec reads bundle.yaml. It reports every mistake that it finds (at most strictyaml.MaxProblems), each with its line;
// unknown keys are mistakes, since a misspelt budget that is ignored is no budget.
func ParseSpec(data []byte) (Spec, error) {
	var s Spec
	if len(data) > MaxSpecBytes {
		return s, fmt.Errorf("%s has %d bytes, at most %d are allowed", SpecFile, len(data), MaxSpecBytes)
	}
	doc, err := strictyaml.Document(data)
	if err != nil {
		return s, fmt.Errorf("%s %w", SpecFile, err)
	}
	var p parser
	p.spec(doc, &s)
	if p.Err() == nil && s.Stages != nil {
		p.complete(&s)
	}
	if p.Err() == nil {
		p.names(&s)
	}
	if err := p.Err(); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", SpecFile, err)
	}
	return s, nil
}

// parser reads the parts of bundle.yaml.
type parser struct {
	strictyaml.Reader
	stageOf []*strictyaml.Node // the steps of a pipeline that is a list
}

func (p *parser) size(n *strictyaml.Node, where string, into *int64, least, most int64) {
	var s string
	p.Text(n, where, &s, func(s string) error {
		v, err := ParseSize(s)
		if err == nil && (v < least || v > most) {
			err = fmt.Errorf("%s is outside of %s to %s", s, FormatSize(least), FormatSize(most))
		}
		*into = v
		return err
	})
}

func (p *parser) duration(n *strictyaml.Node, where string, into *time.Duration, most time.Duration) {
	var s string
	p.Text(n, where, &s, func(s string) error {
		v, err := parseDuration(s)
		if err == nil && (v < time.Millisecond || v > most) {
			err = fmt.Errorf("%s is outside of 1ms to %s", s, most)
		}
		*into = v
		return err
	})
}

func (p *parser) spec(n *strictyaml.Node, s *Spec) {
	s.Budgets = Budgets{Memory: DefaultMemory, Load: DefaultLoad, Infer: DefaultInfer}
	var version string
	variants := false
	p.Mapping(n, "the bundle", append(p.traffic(s),
		strictyaml.Key("apiVersion", true, func(n *strictyaml.Node) {
			p.Text(n, "apiVersion", &version, func(v string) error {
				if v != APIVersion {
					return fmt.Errorf("this program reads %s, not %q", APIVersion, v)
				}
				return nil
			})
		}),
		strictyaml.Key("name", true, func(n *strictyaml.Node) { p.Text(n, "name", &s.Name, ValidName) }),
		strictyaml.Key("version", true, func(n *strictyaml.Node) { p.Text(n, "version", &s.Version, ValidVersion) }),
		strictyaml.Key("variants", false, func(n *strictyaml.Node) {
			variants = true
			p.List(n, "variants", MaxVariants, func(n *strictyaml.Node) { s.Variants = append(s.Variants, p.variant(n)) })
			if n.Kind == strictyaml.ListKind && len(n.Content) == 0 {
				p.Failf(n, "variants is empty; a bundle has at least one")
			}
		}),
		strictyaml.Key("inputs", true, func(n *strictyaml.Node) { s.Inputs = p.tensors(n, "inputs") }),
		strictyaml.Key("outputs", true, func(n *strictyaml.Node) { s.Outputs = p.tensors(n, "outputs") }),
		strictyaml.Key("pipeline", false, func(n *strictyaml.Node) {
			if n.Kind == strictyaml.ListKind {
				p.stages(n, s)
				return
			}
			p.Mapping(n, "pipeline",
				strictyaml.Key("pre", false, func(n *strictyaml.Node) { s.Pre = p.step(n, "pipeline.pre") }),
				strictyaml.Key("post", false, func(n *strictyaml.Node) { s.Post = p.step(n, "pipeline.post") }))
		}),
		strictyaml.Key("labels", false, func(n *strictyaml.Node) { p.Text(n, "labels", &s.Labels, ValidPath) }),
		strictyaml.Key("counters", false, func(n *strictyaml.Node) { s.Counters = p.metrics(n, "counters") }),
		strictyaml.Key("features", false, func(n *strictyaml.Node) { s.Features = p.metrics(n, "features") }),
		strictyaml.Key("budgets", false, func(n *strictyaml.Node) {
			p.Mapping(n, "budgets",
				strictyaml.Key("memory", false, func(n *strictyaml.Node) { p.size(n, "budgets.memory", &s.Budgets.Memory, 16<<20, 1<<40) }),
				strictyaml.Key("load", false, func(n *strictyaml.Node) { p.duration(n, "budgets.load", &s.Budgets.Load, 10*time.Minute) }),
				strictyaml.Key("infer", false, func(n *strictyaml.Node) { p.duration(n, "budgets.infer", &s.Budgets.Infer, time.Minute) }))
		}),
		strictyaml.Key("golden", false, func(n *strictyaml.Node) { p.Text(n, "golden", &s.GoldenDir, ValidPath) }),
	)...)
	if n.Kind == strictyaml.MappingKind && !variants && s.Stages == nil {
		p.Failf(n, "%q is missing in the bundle", "variants")
	}
}

func (p *parser) variant(n *strictyaml.Node) Variant {
	var v Variant
	p.Mapping(n, "a variant",
		strictyaml.Key("name", true, func(n *strictyaml.Node) { p.Text(n, "variant name", &v.Name, ValidName) }),
		strictyaml.Key("file", true, func(n *strictyaml.Node) { p.Text(n, "variant file", &v.File, ValidPath) }))
	return v
}

func (p *parser) tensors(n *strictyaml.Node, where string) []tensor.Spec {
	var out []tensor.Spec
	p.List(n, where, MaxTensors, func(n *strictyaml.Node) {
		var t tensor.Spec
		p.Mapping(n, "a tensor of "+where,
			strictyaml.Key("name", true, func(n *strictyaml.Node) { p.Text(n, "tensor name", &t.Name, validText) }),
			strictyaml.Key("datatype", true, func(n *strictyaml.Node) {
				var s string
				p.Text(n, "datatype", &s, func(s string) (err error) { t.Datatype, err = tensor.ParseDatatype(s); return err })
			}),
			strictyaml.Key("shape", true, func(n *strictyaml.Node) {
				t.Shape = []int64{}
				p.List(n, "shape", tensor.MaxRank, func(n *strictyaml.Node) {
					var s string
					p.Text(n, "shape", &s, func(s string) error {
						d, err := strconv.ParseInt(s, 10, 64)
						if err != nil || d < -1 || d > 1<<40 {
							return fmt.Errorf("%q is not a dimension; write a number, or -1 for one that varies", s)
						}
						t.Shape = append(t.Shape, d)
						return nil
					})
				})
			}),
		)
		out = append(out, t)
	})
	if n.Kind == strictyaml.ListKind && len(n.Content) == 0 {
		p.Failf(n, "%s is empty", where)
	}
	return out
}

func (p *parser) metrics(n *strictyaml.Node, where string) []string {
	var out []string
	p.List(n, where, MaxNames, func(n *strictyaml.Node) {
		var s string
		p.Text(n, where, &s, validMetric)
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
				p.Failf(nil, "%q occurs twice in %s", sorted[i], set.what)
			}
		}
	}
}
