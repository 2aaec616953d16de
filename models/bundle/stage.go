package bundle

import (
	"fmt"
	"slices"

	"github.com/dhowfleet/dhow/models/dataflow"
	"github.com/dhowfleet/dhow/models/strictyaml"
	"github.com/dhowfleet/dhow/models/tensor"
)

// MaxStages bounds a pipeline that is written as a list.
const MaxStages = 32

// Stage is one step of a pipeline that is written as a list. The tensors of all stages and of the bundle have one space
// of names, in which each name is made once; a stage runs when what it takes is there, whatever its place in the list.
type Stage struct {
	Name string
	// Module is the WASM module that computes it, nil for a model.
	Module *Step
	// Model is the file of the model that computes it; "" for a module, and for the model that the variant names.
	Model string
	// Inputs and Outputs connect the stage's own names with the pipeline's. Of a module they are complete and in the order
	// in which it is handed its tensors. Of a model they are those whose names differ: its other inputs keep their names,
	// and so do all its outputs where Outputs is nil; otherwise those that are not in Outputs are not used.
	Inputs, Outputs []Port
}

// Port is a tensor by its stage's name for it and by the pipeline's.
type Port struct{ Own, Name string }

// Runs returns the file of the model that the stage runs when the variant is v, or "" for a module.
func (s *Stage) Runs(v Variant) string {
	switch {
	case s.Module != nil:
		return ""
	case s.Model != "":
		return s.Model
	}
	return v.File
}

// Step describes the stage to package dataflow; takes and gives are what its model says of itself. What a module returns
// is known when it runs.
func (s *Stage) Step(takes, gives []tensor.Spec) dataflow.Step {
	d := dataflow.Step{Name: s.Name, Takes: takes, Gives: gives, Inputs: map[string]string{}, Outputs: map[string]string{}}
	if s.Module != nil {
		d.Takes, d.Gives = open(s.Inputs), open(s.Outputs)
	} else {
		for _, t := range takes {
			d.Inputs[t.Name] = t.Name
		}
		for _, t := range gives {
			if s.Outputs == nil {
				d.Outputs[t.Name] = t.Name
			}
		}
	}
	for _, p := range s.Inputs {
		d.Inputs[p.Own] = p.Name
	}
	for _, p := range s.Outputs {
		d.Outputs[p.Own] = p.Name
	}
	return d
}

func open(ports []Port) []tensor.Spec {
	out := make([]tensor.Spec, len(ports))
	for i, p := range ports {
		out[i].Name = p.Own
	}
	return out
}

// stages reads a pipeline that is a list.
func (p *parser) stages(n *strictyaml.Node, s *Spec) {
	s.Stages = []Stage{}
	p.stageOf = n.Content
	p.List(n, "pipeline", MaxStages, func(n *strictyaml.Node) { s.Stages = append(s.Stages, p.stage(n)) })
	if len(n.Content) == 0 {
		p.Failf(n, "pipeline is empty; leave it out, or name its steps")
	}
}

func (p *parser) stage(n *strictyaml.Node) Stage {
	var s Stage
	var variant string
	var moduleOnly *strictyaml.Node // the first key that only a module has
	step := defaultStep()
	of := func(n *strictyaml.Node) {
		if moduleOnly == nil {
			moduleOnly = n
		}
	}
	where := "a step of the pipeline"
	fields := []strictyaml.Field{
		strictyaml.Key("name", true, func(n *strictyaml.Node) {
			p.Text(n, "step name", &s.Name, ValidName)
			where = "step " + s.Name
		}),
		strictyaml.Key("module", false, func(n *strictyaml.Node) { p.Text(n, where+": module", &step.Module, ValidPath) }),
		strictyaml.Key("model", false, func(n *strictyaml.Node) { p.Text(n, where+": model", &s.Model, ValidPath) }),
		strictyaml.Key("variant", false, func(n *strictyaml.Node) {
			p.Text(n, where+": variant", &variant, func(v string) error {
				if v != "true" {
					return fmt.Errorf("write true where the variant's file runs, and leave it out otherwise")
				}
				return nil
			})
		}),
		strictyaml.Key("takes", false, func(n *strictyaml.Node) { of(n); s.Inputs = p.ports(n, where+": takes", s.Inputs) }),
		strictyaml.Key("gives", false, func(n *strictyaml.Node) { of(n); s.Outputs = p.ports(n, where+": gives", s.Outputs) }),
		strictyaml.Key("inputs", false, func(n *strictyaml.Node) { s.Inputs = p.renames(n, where+": inputs", s.Inputs) }),
		strictyaml.Key("outputs", false, func(n *strictyaml.Node) { s.Outputs = p.renames(n, where+": outputs", s.Outputs) }),
	}
	p.Mapping(n, where, append(fields, p.module(&step, func(n *strictyaml.Node, key string) string {
		of(n)
		return where + ": " + key
	})...)...)
	kinds := 0
	for _, given := range []string{step.Module, s.Model, variant} {
		if given != "" {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		p.Failf(n, "%s must have one of module (a WASM module), model (a file), or variant: true (the file that the variant names)", where)
	case step.Module != "":
		p.fits(n, where, &step)
		s.Module = &step
	case moduleOnly != nil:
		p.Failf(moduleOnly, "%s: takes, gives and the limits of a call are for modules; budgets bound a model, inputs and outputs rename its tensors", where)
	}
	return s
}

// ports reads a list of names that are the same on both sides.
func (p *parser) ports(n *strictyaml.Node, where string, out []Port) []Port {
	if out != nil {
		p.Failf(n, "%s: the same is said by another key", where)
		return out
	}
	p.List(n, where, MaxTensors, func(n *strictyaml.Node) {
		var s string
		p.Text(n, where, &s, validText)
		if slices.ContainsFunc(out, func(o Port) bool { return o.Own == s }) {
			p.Failf(n, "%s: %q occurs twice", where, s)
		}
		out = append(out, Port{s, s})
	})
	if n.Kind == strictyaml.ListKind && len(n.Content) == 0 {
		p.Failf(n, "%s is empty", where)
	}
	return out
}

// renames reads a mapping of the stage's own names to the pipeline's.
func (p *parser) renames(n *strictyaml.Node, where string, out []Port) []Port {
	switch {
	case out != nil:
		p.Failf(n, "%s: the same is said by another key", where)
		return out
	case n.Kind != strictyaml.MappingKind || len(n.Content) == 0:
		p.Failf(n, "%s must map the step's own names to the pipeline's", where)
		return nil
	case len(n.Content) > 2*MaxTensors:
		p.Failf(n, "%s has %d entries, at most %d are allowed", where, len(n.Content)/2, MaxTensors)
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		var port Port
		p.Text(n.Content[i], where, &port.Own, validText)
		p.Text(n.Content[i+1], where, &port.Name, validText)
		if slices.ContainsFunc(out, func(o Port) bool { return o.Own == port.Own }) {
			p.Failf(n.Content[i], "%s: %q occurs twice", where, port.Own)
		}
		out = append(out, port)
	}
	return out
}

// complete fills in what a list leaves to be understood: that the first module takes what clients send, that the last
// one gives what they get, and a variant for a bundle that has only one form.
func (p *parser) complete(s *Spec) {
	models, variants := 0, 0
	for i := range s.Stages {
		st, n := &s.Stages[i], p.stageOf[i]
		if slices.ContainsFunc(s.Stages[:i], func(o Stage) bool { return o.Name == st.Name }) {
			p.Failf(n, "two steps of the pipeline are called %q", st.Name)
		}
		switch {
		case st.Module == nil && st.Model == "":
			variants++
			fallthrough
		case st.Module == nil:
			models++
			continue
		}
		if st.Inputs == nil && i == 0 {
			st.Inputs = ports(s.Inputs)
		}
		if st.Outputs == nil && i == len(s.Stages)-1 {
			st.Outputs = ports(s.Outputs)
		}
		if st.Inputs == nil {
			p.Failf(n, "step %s needs takes: the names of the tensors that it is handed", st.Name)
		}
		if st.Outputs == nil {
			p.Failf(n, "step %s needs gives: the names of the tensors that it returns for other steps", st.Name)
		}
	}
	first := p.stageOf[0]
	switch {
	case models == 0:
		p.Failf(first, "the pipeline has no model")
	case variants > 1:
		p.Failf(first, "%d steps of the pipeline run the variant, at most one can", variants)
	case variants == 1 && s.Variants == nil:
		p.Failf(first, "a step of the pipeline runs the variant, but the bundle has no variants")
	case variants == 0 && s.Variants != nil:
		p.Failf(first, "the bundle has variants, but no step of the pipeline runs them: write variant: true in one")
	case s.Variants == nil:
		at := slices.IndexFunc(s.Stages, func(st Stage) bool { return st.Model != "" })
		s.Variants = []Variant{{Name: "default", File: s.Stages[at].Model}}
	}
}

func ports(specs []tensor.Spec) []Port {
	var out []Port
	for _, t := range specs {
		out = append(out, Port{t.Name, t.Name})
	}
	return out
}
