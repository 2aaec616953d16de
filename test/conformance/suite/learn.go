package suite

import (
	"context"
	"fmt"
	"slices"

	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// Description is a tensor in a model's metadata.
type Description struct {
	Name, Datatype string
	Shape          []int64
}

// Metadata is what a model says of itself.
type Metadata struct {
	Name, Platform  *string
	Versions        []string
	Inputs, Outputs []Description
}

// Model is a model that the server has.
type Model struct {
	Name     string
	Metadata Metadata
	Inputs   []wire.Value // a request that the model answers
	// Reference is the answer to it, by which the other forms are judged.
	Reference *wire.Answer
	Steady    bool   // the same request gives the same answer
	Textual   string // why JSON cannot carry the request or the answer, "" when it can
	Unusable  string // why no check can use the model
	Malformed string // what is wrong with an answer that the server gave as a good one
}

// Learn asks what there is. It fails only when the server does not answer at all or no model is named or listed; what
// is wrong with an answer is for the checks.
func (s *Suite) Learn(ctx context.Context) error {
	r := &Run{Context: ctx, Suite: s}
	got, err := r.Get("/v2")
	if err != nil {
		return fmt.Errorf("cannot reach %s: %v", s.Options.URL, err)
	}
	var server struct{ Extensions []string }
	if got.OK() == nil && wire.Decode(got.Body, &server) == nil {
		s.Extensions = server.Extensions
	}
	names := slices.Clone(s.Options.Models)
	if len(names) == 0 {
		if names, err = r.index(); err != nil {
			return fmt.Errorf("cannot learn which models there are (%v); name them with -model", err)
		}
	}
	if s.Options.Fixture != "" && !slices.Contains(names, s.Options.Fixture) {
		names = append([]string{s.Options.Fixture}, names...)
	}
	if len(names) == 0 {
		return fmt.Errorf("the server lists no model that is ready; load one, or name one with -model")
	}
	for _, name := range names[:min(len(names), s.Options.MaxModels)] {
		m := &Model{Name: name}
		if m.Unusable = r.study(m); m.Unusable != "" {
			s.Unusable = append(s.Unusable, m)
		} else {
			s.Models = append(s.Models, m)
		}
	}
	return nil
}

// index lists the models that are ready.
func (r *Run) index() ([]string, error) {
	got, err := r.Post("/v2/repository/index", map[string]bool{"ready": true})
	if err != nil {
		return nil, err
	}
	var entries []struct{ Name, State string }
	if err := got.OK(); err != nil {
		return nil, fmt.Errorf("the repository index answers with status %d", got.Status)
	}
	if err := wire.Decode(got.Body, &entries); err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if (e.State == "" || e.State == "READY") && !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// study finds a request that the model answers, and returns why there is none.
func (r *Run) study(m *Model) string {
	got, err := r.Get(Path(m.Name, "", ""))
	if err != nil {
		return err.Error()
	}
	if err := got.Object(&m.Metadata); err != nil {
		return "its metadata: " + err.Error()
	}
	r.Model = m
	last := "its metadata lists no outputs"
	if len(m.Metadata.Outputs) == 0 {
		return last
	}
	for _, try := range r.candidates(m) {
		m.Inputs = try
		c := r.BinaryCall()
		if !r.Suite.Has("binary_tensor_data") {
			c = wire.Call{Inputs: try}
		}
		first, err := r.Infer(c)
		if err != nil {
			if r.answered {
				m.Malformed = err.Error()
			}
			last = fmt.Sprintf("no request of small numbers is answered (%v); say with -shape what fits", err)
			continue
		}
		m.Reference = first
		again, err := r.Infer(c)
		m.Steady = err == nil && again.Agrees(first) == nil
		for i := range m.Inputs {
			if why := m.Inputs[i].Textual(); why != "" {
				m.Textual = why
			}
		}
		for i := range first.Outputs {
			if why := first.Outputs[i].Textual(); why != "" {
				m.Textual = why
			}
		}
		return ""
	}
	return last
}

// candidates are requests that fit the metadata, simplest first.
func (r *Run) candidates(m *Model) [][]wire.Value {
	var out [][]wire.Value
	for _, varies := range []int64{1, 2, 32, 224} {
		again := false
		for _, pattern := range []func(name, datatype string, shape []int64) wire.Value{wire.Vary, zeros, ones} {
			var inputs []wire.Value
			variable := false
			for _, d := range m.Metadata.Inputs {
				if _, known := wire.Sizes[d.Datatype]; !known {
					return nil
				}
				shape, given := r.Suite.Options.Shapes[m.Name+"/"+d.Name]
				if !given {
					shape, given = r.Suite.Options.Shapes[d.Name]
				}
				if !given {
					shape = append([]int64{}, d.Shape...)
					for i := range shape {
						if shape[i] < 0 {
							shape[i], variable = varies, true
						}
					}
				}
				if n := wire.Elements(shape); n < 0 || n > 64<<20 {
					return out
				}
				inputs = append(inputs, pattern(d.Name, d.Datatype, shape))
			}
			out, again = append(out, inputs), variable
		}
		if !again {
			break // no dimension that another number could stand for
		}
	}
	return out
}

func zeros(name, datatype string, shape []int64) wire.Value {
	return wire.Fill(name, datatype, shape, false)
}

func ones(name, datatype string, shape []int64) wire.Value {
	return wire.Fill(name, datatype, shape, true)
}

// BinaryCall is the model's request with everything in the binary form.
func (r *Run) BinaryCall() wire.Call {
	return wire.Call{Inputs: r.Model.Inputs, Binary: wire.All, Parameters: map[string]any{"binary_data_output": true}}
}

// TextCall is the model's request in JSON, or a skip when JSON cannot carry it or its answer.
func (r *Run) TextCall() (wire.Call, error) {
	if r.Model.Textual != "" {
		return wire.Call{}, Skip("%s", r.Model.Textual)
	}
	return wire.Call{Inputs: r.Model.Inputs}, nil
}

// Carried is the model's request in a form that can carry it, for checks to which the form does not matter.
func (r *Run) Carried() wire.Call {
	if r.Model.Textual != "" {
		return r.BinaryCall()
	}
	return wire.Call{Inputs: r.Model.Inputs}
}

// Again asks the model for its reference once more: is the server still well?
func (r *Run) Again() error {
	got, err := r.Infer(r.Carried())
	if err != nil {
		return err
	}
	return r.Matches(got)
}

// Matches compares with the reference, in values when the model gives the same ones each time.
func (r *Run) Matches(got *wire.Answer) error {
	if got.Model != r.Model.Name {
		return fmt.Errorf("\"model_name\" is %q, not %q", got.Model, r.Model.Name)
	}
	if !r.Model.Steady {
		return r.Describes(got)
	}
	return got.Agrees(r.Model.Reference)
}

// Describes holds an answer against the metadata.
func (r *Run) Describes(got *wire.Answer) error {
	if len(got.Outputs) != len(r.Model.Metadata.Outputs) {
		return fmt.Errorf("%d outputs came, the metadata lists %d", len(got.Outputs), len(r.Model.Metadata.Outputs))
	}
	for _, d := range r.Model.Metadata.Outputs {
		v := got.Find(d.Name)
		if v == nil {
			return fmt.Errorf("output %q is missing", d.Name)
		}
		fits := v.Datatype == d.Datatype && len(v.Shape) == len(d.Shape)
		for i := 0; fits && i < len(d.Shape); i++ {
			fits = d.Shape[i] < 0 || d.Shape[i] == v.Shape[i]
		}
		if !fits {
			return fmt.Errorf("output %q is %s %v, its metadata says %s %v", d.Name, v.Datatype, v.Shape, d.Datatype, d.Shape)
		}
	}
	return nil
}
