package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/agent/ensemble"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
	"github.com/dhowfleet/dhow/wasm/host"
)

// prepare sees to it that the models of an ensemble serve, and notes what they are like. In mode Explicit it loads
// them; in the others they come by themselves.
func (r *Repository) prepare(ctx context.Context, m *model, c *triton.Config, chain []string) error {
	var needs []need
	for i := range c.Ensemble {
		s := &c.Ensemble[i]
		n := need{model: s.ModelName}
		if s.ModelVersion > 0 {
			n.version = strconv.FormatInt(s.ModelVersion, 10)
		}
		if slices.ContainsFunc(needs, func(have need) bool { return have.model == n.model && have.version == n.version }) {
			continue
		}
		if slices.Contains(chain, n.model) {
			return fmt.Errorf("the ensemble contains itself: %s -> %s", strings.Join(chain, " -> "), n.model)
		}
		if r.Mode == Explicit && r.Table.Has(n.model, n.version) != nil {
			if err := r.loadNeeded(ctx, n.model, chain); err != nil {
				return err
			}
		}
		needs = append(needs, n)
	}
	m.needs = needs
	for i := range needs {
		var there bool
		if needs[i].form, there = r.form(&needs[i]); !there {
			return &waitingError{m.name, needs[i].String()}
		}
	}
	return nil
}

func (r *Repository) loadNeeded(ctx context.Context, name string, chain []string) error {
	f, err := r.find(name)
	if err != nil {
		return fmt.Errorf("it needs the model %q: %w", name, err)
	}
	r.model(name).wanted = true
	if err := r.load(ctx, &f, chain); err != nil {
		return fmt.Errorf("it needs the model %q: %w", name, err)
	}
	return nil
}

func (n *need) String() string {
	if n.version == "" {
		return strconv.Quote(n.model)
	}
	return fmt.Sprintf("%q in version %s", n.model, n.version)
}

// form describes the tensors of a model that an ensemble calls.
func (r *Repository) form(n *need) (string, bool) {
	info, err := r.Table.Lookup(n.model, n.version)
	if err != nil {
		return "", false
	}
	return fmt.Sprint(info.Inputs, info.Outputs), true
}

// forms are those of all models that an ensemble calls, which it is made anew for when they change.
func (m *model) forms() []byte {
	var out []byte
	for i := range m.needs {
		out = append(append(out, m.needs[i].form...), 0)
	}
	return out
}

// missing says what an ensemble waits for.
func (r *Repository) missing(m *model) error {
	for i := range m.needs {
		if _, there := r.form(&m.needs[i]); !there {
			return &waitingError{m.name, m.needs[i].String()}
		}
	}
	return nil
}

// settle brings ensembles in line with the models that they are made of: those of which one is gone leave the table,
// those whose models have all come or have changed are loaded. It ends, since models only come or go by what it does in
// one direction for each round, and ensembles do not contain themselves.
func (r *Repository) settle(ctx context.Context) {
	models := r.all()
	for range len(models) + 1 {
		changed := false
		for _, m := range models {
			if !m.wanted || len(m.needs) == 0 {
				continue
			}
			changed = r.settleOne(ctx, m) || changed
		}
		if !changed {
			return
		}
	}
}

func (r *Repository) settleOne(ctx context.Context, m *model) bool {
	missing := r.missing(m)
	stale := slices.ContainsFunc(m.needs, func(n need) bool {
		form, there := r.form(&n)
		return there && form != n.form
	})
	switch {
	case missing != nil && len(m.loaded) > 0:
		gone := m.loaded
		m.loaded, m.waits, m.err = nil, true, missing
		r.Logger.Warn("an ensemble is out of service", "model", m.name, "error", missing)
		r.replace(m, gone, missing.Error())
		return true
	case missing == nil && (m.waits || stale):
		f, err := r.find(m.name)
		return err == nil && r.load(ctx, &f, nil) == nil
	}
	return false
}

// openEnsemble connects the models of an ensemble.
func (r *Repository) openEnsemble(m *model, c *triton.Config) (loaded, error) {
	if err := c.Validate(); err != nil {
		return loaded{}, err
	}
	spec := ensemble.Spec{}
	spec.Inputs, spec.Outputs = c.Specs()
	for i := range c.Ensemble {
		s := &c.Ensemble[i]
		n := need{model: s.ModelName}
		if s.ModelVersion > 0 {
			n.version = strconv.FormatInt(s.ModelVersion, 10)
		}
		info, err := r.Table.Lookup(n.model, n.version)
		if err != nil {
			return loaded{}, &waitingError{m.name, n.String()}
		}
		spec.Steps = append(spec.Steps, ensemble.Step{
			Name: fmt.Sprintf("%d (%s)", i+1, s.ModelName), Inputs: s.InputMap, Outputs: s.OutputMap,
			Caller: &caller{table: r.Table, model: n.model, version: n.version, inputs: info.Inputs, outputs: info.Outputs},
		})
	}
	e, err := ensemble.New(spec)
	if err != nil {
		return loaded{}, err
	}
	return loaded{runner: e}, nil
}

// caller asks a model of the table, as a client would.
type caller struct {
	table           *serving.Table
	model, version  string
	inputs, outputs []tensor.Spec
}

func (c *caller) Inputs() []tensor.Spec  { return c.inputs }
func (c *caller) Outputs() []tensor.Spec { return c.outputs }

// Infer implements ensemble.Caller. What the model's own steps emit is recorded with its own request.
func (c *caller) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
	res, err := c.table.Infer(ctx, serving.Request{Model: c.model, Version: c.version, Inputs: in, Outputs: wanted, Priority: serving.PriorityOf(ctx)})
	var gone *serving.NotFoundError
	if errors.As(err, &gone) {
		// The model left between the look at the table and the call; the ensemble follows it.
		return nil, fmt.Errorf("the model is not in service any more: %v", err)
	}
	return res.Outputs, err
}
