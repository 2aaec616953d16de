package runner

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Network answers requests with an ONNX model, as its configuration describes it. It is a serving.Scheduler: when
// requests are joined, they wait for places in the batches and not in the table.
type Network struct {
	model     inference.Model // the batches, or direct
	direct    inference.Model
	places    *serving.Places
	scheduled bool

	inputs, outputs []tensor.Spec
	names           []string // of outputs
	ask             []string // when a request names none; nil where those are the model's own
	check           bool     // the configuration is stricter than the model
	takes, gives    map[string]reshape
	maxBatch        int  // rows of a request; 0 has no batch dimension
	lenient         bool // nobody chose maxBatch: a larger request runs by itself

	release func()
	once    sync.Once
}

// NetworkOptions are what a Network is made of.
type NetworkOptions struct {
	Config *triton.Config // complete and valid
	// Model answers; it joins requests and takes places by itself when Scheduled is set. Direct is one instance without.
	Model, Direct inference.Model
	Scheduled     bool
	Places        *serving.Places // for what goes past Model; may be nil
	// Lenient lets requests past max_batch_size run by themselves.
	Lenient bool
	Release func() // called once after the model is closed
}

// NewNetwork describes a model as its configuration says.
func NewNetwork(o NetworkOptions) *Network {
	n := &Network{
		model: o.Model, direct: o.Direct, places: o.Places, scheduled: o.Scheduled, lenient: o.Lenient, release: o.Release,
		maxBatch: o.Config.MaxBatchSize,
	}
	n.describe(o.Config)
	return n
}

func (n *Network) describe(c *triton.Config) {
	n.inputs, n.outputs = c.Specs()
	n.takes, n.gives = map[string]reshape{}, map[string]reshape{}
	for i := range c.Inputs {
		if c.Inputs[i].Reshape != nil {
			n.takes[c.Inputs[i].Name] = reshape{c.Inputs[i].Dims, *c.Inputs[i].Reshape}
		}
	}
	all := len(c.Outputs) == len(n.direct.Outputs())
	for i := range c.Outputs {
		o := &c.Outputs[i]
		n.names = append(n.names, o.Name)
		if o.Reshape != nil {
			n.gives[o.Name] = reshape{*o.Reshape, o.Dims}
		}
		all = all && n.direct.Outputs()[i].Name == o.Name
	}
	if !all {
		n.ask = n.names
	}
	n.check = n.maxBatch > 0 || len(n.takes) > 0 || !slices.EqualFunc(n.inputs, n.direct.Inputs(), func(a, b tensor.Spec) bool {
		return a.Name == b.Name && a.Datatype == b.Datatype && slices.Equal(a.Shape, b.Shape)
	})
}

// Inputs are what a request must bring, as the configuration says.
func (n *Network) Inputs() []tensor.Spec { return n.inputs }

// Outputs are what an answer brings, as the configuration says.
func (n *Network) Outputs() []tensor.Spec { return n.outputs }

// Scheduled implements serving.Scheduler.
func (n *Network) Scheduled() bool { return n.scheduled }

// Provider is the execution provider that the model runs on.
func (n *Network) Provider() string { return n.direct.Provider() }

// Infer implements serving.Runner.
func (n *Network) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
	for _, w := range wanted {
		if !slices.Contains(n.names, w) {
			return nil, inference.Inputf("the model has no output %q", w)
		}
	}
	rows := 1
	if n.check {
		var order [8]int
		found, err := inference.Check(n.inputs, in, order[:0])
		if err != nil {
			return nil, err
		}
		if rows, err = n.rows(in, found); err != nil {
			return nil, err
		}
	}
	if len(n.takes) > 0 {
		in = n.reshaped(in)
	}
	if len(wanted) == 0 {
		wanted = n.ask
	}
	out, err := n.run(ctx, in, wanted, rows)
	if err != nil || len(n.gives) == 0 {
		return out, err
	}
	return out, n.restore(out)
}

func (n *Network) run(ctx context.Context, in []tensor.Tensor, wanted []string, rows int) ([]tensor.Tensor, error) {
	model := n.model
	if n.scheduled && n.lenient && rows > n.maxBatch {
		if n.places != nil {
			if err := n.places.Acquire(ctx, serving.PriorityOf(ctx)); err != nil {
				return nil, err
			}
			defer n.places.Release()
		}
		model = n.direct
	}
	if model == n.direct {
		if t := statistics.Of(ctx); t != nil {
			t.Rows, t.Executed = rows, rows
		}
	}
	return model.Run(ctx, in, wanted)
}

// rows wants the same batch in all inputs, and no larger one than was chosen.
func (n *Network) rows(in []tensor.Tensor, order []int) (int, error) {
	if n.maxBatch == 0 || len(order) == 0 {
		return 1, nil
	}
	rows := in[order[0]].Shape[0]
	for i, at := range order {
		if in[at].Shape[0] != rows {
			return 0, inference.Inputf("input %q has a batch of %d, input %q one of %d", n.inputs[i].Name, in[at].Shape[0], n.inputs[0].Name, rows)
		}
	}
	if rows > int64(n.maxBatch) && !n.lenient {
		return 0, inference.Inputf("the request has a batch of %d, the model's max_batch_size is %d", rows, n.maxBatch)
	}
	return int(rows), nil
}

// reshaped gives the inputs the shapes that the model takes.
func (n *Network) reshaped(in []tensor.Tensor) []tensor.Tensor {
	out := slices.Clone(in)
	for i := range out {
		if t, ok := n.takes[out[i].Name]; ok {
			// What Check has accepted has the dims that the reshape is from.
			out[i].Shape, _ = t.apply(out[i].Shape, n.maxBatch > 0)
		}
	}
	return out
}

// restore gives the outputs the shapes that clients see.
func (n *Network) restore(out []tensor.Tensor) error {
	for i := range out {
		t, ok := n.gives[out[i].Name]
		if !ok {
			continue
		}
		shape, ok := t.apply(out[i].Shape, n.maxBatch > 0)
		if !ok {
			return fmt.Errorf("the model's output %q has the shape %v, which is not the one that its reshape is for", out[i].Name, out[i].Shape)
		}
		out[i].Shape = shape
	}
	return nil
}

// reshape is two shapes of the same elements: what varies in one varies in the other, in the same order.
type reshape struct{ from, to []int64 }

// apply turns a shape like from into one like to. The batch before them stays.
func (r reshape) apply(shape []int64, batch bool) ([]int64, bool) {
	out := make([]int64, 0, len(r.to)+1)
	if batch {
		if len(shape) == 0 {
			return nil, false
		}
		out, shape = append(out, shape[0]), shape[1:]
	}
	if len(shape) != len(r.from) {
		return nil, false
	}
	var varies []int64
	for i, d := range r.from {
		switch {
		case d < 0:
			varies = append(varies, shape[i])
		case d != shape[i]:
			return nil, false
		}
	}
	for _, d := range r.to {
		if d < 0 {
			d, varies = varies[0], varies[1:] // Validate wants as many in both
		}
		out = append(out, d)
	}
	return out, true
}

// Close implements serving.Runner.
func (n *Network) Close() error {
	err := n.model.Close()
	n.once.Do(n.release)
	return err
}
