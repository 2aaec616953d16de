package triton

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Fill sets what follows from the model's folder and from the keys that are said: the name where none is said, backend
// and platform from each other, the model file's name, the version policy. A name that is not the folder's, and a
// backend that is not served, are errors.
func (c *Config) Fill(folder string) error {
	if c.Name == "" {
		c.Name = folder
	}
	if c.Name != folder {
		return fmt.Errorf("the configuration names the model %q, but its folder is %q: they must be the same", c.Name, folder)
	}
	if c.Platform == "" && c.Backend == "" {
		switch {
		case len(c.Ensemble) > 0:
			c.Platform = PlatformEnsemble
		case strings.HasSuffix(c.DefaultFile, ".wasm"):
			c.Backend = BackendWASM
		default:
			c.Backend = BackendONNX
		}
	}
	switch {
	case c.Platform == PlatformEnsemble && (c.Backend == "" || c.Backend == PlatformEnsemble):
		c.Backend = "" // an ensemble has none
	case c.Platform == PlatformONNX && (c.Backend == "" || c.Backend == BackendONNX):
		c.Backend = BackendONNX
	case c.Platform == "" && c.Backend == BackendONNX:
		c.Platform = PlatformONNX
	case c.Platform == "" && c.Backend == PlatformEnsemble:
		c.Platform, c.Backend = PlatformEnsemble, ""
	case c.Platform == "" && c.Backend == BackendWASM:
	case c.Platform != "" && c.Backend != "":
		return fmt.Errorf("platform %q does not go with backend %q; leave platform out", c.Platform, c.Backend)
	default:
		return fmt.Errorf("%q is not served; Dhow has the backends %q and %q and the platform %q", c.Platform+c.Backend, BackendONNX, BackendWASM, PlatformEnsemble)
	}
	if c.DefaultFile == "" && c.Backend == BackendONNX {
		c.DefaultFile = "model.onnx"
	}
	if c.DefaultFile == "" && c.Backend == BackendWASM {
		c.DefaultFile = "model.wasm"
	}
	if p := &c.VersionPolicy; p.Latest == 0 && !p.All && len(p.Specific) == 0 {
		p.Latest = 1
	}
	return nil
}

// IsEnsemble reports whether the model is made of others.
func (c *Config) IsEnsemble() bool { return c.Platform == PlatformEnsemble }

// Instances is how many requests, or batches of them, compute at a time by instance_group; 0 when it does not say.
func (c *Config) Instances() int {
	n := 0
	for i := range c.InstanceGroups {
		n += max(c.InstanceGroups[i].Count, 1) * max(len(c.InstanceGroups[i].GPUs), 1)
	}
	return n
}

// Parameter returns the value of a parameter, "" when there is none.
func (c *Config) Parameter(key string) string {
	for i := range c.Parameters {
		if c.Parameters[i].Key == key {
			return c.Parameters[i].Value
		}
	}
	return ""
}

// Validate checks a configuration that Fill and, for a model with a file, Complete have seen. An error is a sentence
// that names the key.
func (c *Config) Validate() error {
	switch {
	case len(c.Inputs) == 0 && c.Backend != BackendONNX: // a graph may be made of constants
		return fmt.Errorf("the configuration has no input")
	case len(c.Outputs) == 0:
		return fmt.Errorf("the configuration has no output")
	case len(c.Ensemble) > 0 && !c.IsEnsemble():
		return fmt.Errorf("ensemble_scheduling is for the platform %q, the model has %q", PlatformEnsemble, c.Platform+c.Backend)
	case c.DefaultFile != "" && !fs.ValidPath(c.DefaultFile):
		return fmt.Errorf("default_model_filename %q is no file in the version's folder", c.DefaultFile)
	case c.MaxBatchSize < 0 || c.MaxBatchSize > MaxBatch:
		return fmt.Errorf("max_batch_size is outside of 0 to %d", MaxBatch)
	}
	if err := c.validTensors(); err != nil {
		return err
	}
	if err := c.validBatching(); err != nil {
		return err
	}
	if err := c.validInstances(); err != nil {
		return err
	}
	if err := c.validWarmup(); err != nil {
		return err
	}
	return c.validEnsemble()
}

func (c *Config) validTensors() error {
	seen := map[string]bool{}
	for i := range c.Inputs {
		in := &c.Inputs[i]
		if seen[in.Name] {
			return fmt.Errorf("input %q is said twice", in.Name)
		}
		seen[in.Name] = true
		if err := c.validTensor("input", in.Name, in.DataType, in.Dims, in.Reshape); err != nil {
			return err
		}
	}
	clear(seen)
	for i := range c.Outputs {
		out := &c.Outputs[i]
		if seen[out.Name] {
			return fmt.Errorf("output %q is said twice", out.Name)
		}
		seen[out.Name] = true
		if err := c.validTensor("output", out.Name, out.DataType, out.Dims, out.Reshape); err != nil {
			return err
		}
		if out.LabelFilename != "" && !fs.ValidPath(out.LabelFilename) {
			return fmt.Errorf("label_filename %q of output %q is no file in the model's folder", out.LabelFilename, out.Name)
		}
	}
	return nil
}

func (c *Config) validTensor(what, name, datatype string, dims []int64, reshape *[]int64) error {
	switch {
	case name == "":
		return fmt.Errorf("an %s has no name", what)
	case datatype == "":
		return fmt.Errorf("%s %q has no data_type", what, name)
	case !Datatype(datatype).Valid():
		return fmt.Errorf("%s %q has the unknown data_type %q", what, name, datatype)
	case dims == nil:
		return fmt.Errorf("%s %q has no dims", what, name)
	}
	shapes := [][]int64{dims}
	if reshape != nil {
		shapes = append(shapes, *reshape)
	}
	for _, shape := range shapes {
		if len(shape) >= tensor.MaxRank {
			return fmt.Errorf("%s %q has %d dimensions, at most %d are allowed", what, name, len(shape), tensor.MaxRank-1)
		}
		for _, d := range shape {
			if d < -1 || d == 0 {
				return fmt.Errorf("%s %q has the dimension %d; a dimension is 1 or more, or -1 where it varies", what, name, d)
			}
		}
	}
	if reshape != nil && !interchangeable(dims, *reshape) {
		return fmt.Errorf("%s %q cannot be reshaped from %v to %v: they do not hold as many elements", what, name, dims, *reshape)
	}
	return nil
}

// interchangeable reports whether tensors of one shape always have the elements of the other, -1 standing for the same
// number in both, in order.
func interchangeable(a, b []int64) bool {
	x, okX := segments(a)
	y, okY := segments(b)
	return okX && okY && slices.Equal(x, y)
}

// segments multiplies the dimensions between those that vary.
func segments(shape []int64) ([]int64, bool) {
	out := []int64{1}
	for _, d := range shape {
		if d < 0 {
			out = append(out, 1)
			continue
		}
		last := &out[len(out)-1]
		if d == 0 || *last > (1<<62)/d {
			return nil, false
		}
		*last *= d
	}
	return out, true
}

func (c *Config) validBatching() error {
	b := c.DynamicBatching
	if b == nil {
		return nil
	}
	for _, n := range b.Preferred {
		if n < 1 || n > max(c.MaxBatchSize, 1) {
			return fmt.Errorf("dynamic_batching: preferred_batch_size %d is outside of 1 to max_batch_size, which is %d", n, c.MaxBatchSize)
		}
	}
	if b.PriorityLevels == 0 && b.DefaultPriorityLevel == 0 && len(b.PriorityPolicies) == 0 {
		return nil
	}
	if b.DefaultPriorityLevel < 1 || b.DefaultPriorityLevel > b.PriorityLevels {
		return fmt.Errorf("dynamic_batching: default_priority_level %d is outside of 1 to priority_levels, which is %d", b.DefaultPriorityLevel, b.PriorityLevels)
	}
	for level := range b.PriorityPolicies {
		if level < 1 || level > b.PriorityLevels {
			return fmt.Errorf("dynamic_batching: priority_queue_policy has the level %d, which is outside of 1 to priority_levels, which is %d", level, b.PriorityLevels)
		}
	}
	return nil
}

func (c *Config) validInstances() error {
	if c.IsEnsemble() && len(c.InstanceGroups) > 0 {
		return fmt.Errorf("instance_group: an ensemble has no instances of its own; say it for the models of its steps")
	}
	for i := range c.InstanceGroups {
		if g := &c.InstanceGroups[i]; g.Kind == "KIND_CPU" && len(g.GPUs) > 0 {
			return fmt.Errorf("instance_group: KIND_CPU does not go with gpus")
		}
	}
	if n := c.Instances(); n > MaxInstances {
		return fmt.Errorf("instance_group: %d instances are asked for, at most %d are allowed", n, MaxInstances)
	}
	return nil
}

func (c *Config) validWarmup() error {
	for i := range c.Warmup {
		w := &c.Warmup[i]
		if w.BatchSize > max(c.MaxBatchSize, 1) {
			return fmt.Errorf("model_warmup %q: batch_size %d is more than max_batch_size, which is %d", w.Name, w.BatchSize, c.MaxBatchSize)
		}
		seen := map[string]bool{}
		for j := range w.Inputs {
			in := &w.Inputs[j]
			at := slices.IndexFunc(c.Inputs, func(have Input) bool { return have.Name == in.Name })
			switch {
			case at < 0:
				return fmt.Errorf("model_warmup %q: the model has no input %q", w.Name, in.Name)
			case seen[in.Name]:
				return fmt.Errorf("model_warmup %q: input %q is said twice", w.Name, in.Name)
			case in.DataType != c.Inputs[at].DataType:
				return fmt.Errorf("model_warmup %q: input %q is %s, the model takes %s", w.Name, in.Name, in.DataType, c.Inputs[at].DataType)
			case in.File != "" && !fs.ValidPath(in.File):
				return fmt.Errorf("model_warmup %q: input_data_file %q is no file in the model's folder warmup", w.Name, in.File)
			case slices.ContainsFunc(in.Dims, func(d int64) bool { return d < 1 }) || len(in.Dims) >= tensor.MaxRank:
				return fmt.Errorf("model_warmup %q: input %q has the dims %v; those of a request do not vary", w.Name, in.Name, in.Dims)
			}
			seen[in.Name] = true
		}
		for j := range c.Inputs {
			if !seen[c.Inputs[j].Name] {
				return fmt.Errorf("model_warmup %q: input %q is missing", w.Name, c.Inputs[j].Name)
			}
		}
	}
	return nil
}

// validEnsemble checks names; whether the steps fit together is known when their models are.
func (c *Config) validEnsemble() error {
	if !c.IsEnsemble() {
		return nil
	}
	if len(c.Ensemble) == 0 {
		return fmt.Errorf("an ensemble wants ensemble_scheduling with steps")
	}
	made := map[string]bool{}
	for i := range c.Inputs {
		made[c.Inputs[i].Name] = true
	}
	for i := range c.Ensemble {
		s := &c.Ensemble[i]
		switch {
		case s.ModelName == "":
			return fmt.Errorf("ensemble_scheduling: step %d has no model_name", i+1)
		case s.ModelName == c.Name:
			return fmt.Errorf("ensemble_scheduling: step %d is the ensemble itself", i+1)
		case len(s.InputMap) == 0 || len(s.OutputMap) == 0:
			return fmt.Errorf("ensemble_scheduling: step %d (%s) wants both input_map and output_map", i+1, s.ModelName)
		}
		for _, name := range s.OutputMap {
			if made[name] {
				return fmt.Errorf("ensemble_scheduling: the tensor %q is made twice, the second time by step %d (%s)", name, i+1, s.ModelName)
			}
			made[name] = true
		}
	}
	for i := range c.Ensemble {
		for _, name := range c.Ensemble[i].InputMap {
			if !made[name] {
				return fmt.Errorf("ensemble_scheduling: step %d (%s) takes the tensor %q, which no input and no step gives", i+1, c.Ensemble[i].ModelName, name)
			}
		}
	}
	for i := range c.Outputs {
		if !made[c.Outputs[i].Name] {
			return fmt.Errorf("ensemble_scheduling: no step makes the output %q", c.Outputs[i].Name)
		}
	}
	return nil
}
