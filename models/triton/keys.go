package triton

import (
	"math"
	"slices"

	"github.com/dhowfleet/dhow/models/tensor"
)

// DataTypes are the names of element types, by number.
var dataTypes = []string{
	"TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
	"TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
}

// The other enumerations, by number.
var (
	instanceKinds  = []string{"KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"}
	formats        = []string{"FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"}
	timeoutActions = []string{"REJECT", "DELAY"}
)

// Datatype returns the protocol's datatype of a name such as TYPE_FP32, Invalid when there is none.
func Datatype(name string) tensor.Datatype {
	if name == "TYPE_STRING" {
		return tensor.Bytes
	}
	if !slices.Contains(dataTypes, name) {
		return tensor.Invalid
	}
	d, _ := tensor.ParseDatatype(name[len("TYPE_"):])
	return d
}

// TypeName is the inverse of Datatype.
func TypeName(d tensor.Datatype) string {
	if d == tensor.Bytes {
		return "TYPE_STRING"
	}
	return "TYPE_" + d.String()
}

// config reads the keys of a ModelConfig.
func (d *decoder) config(c *Config, v value) error {
	return d.fields(v, func(name string, v value) (bool, error) {
		switch name {
		case "name":
			return true, d.text(v, &c.Name)
		case "platform":
			return true, d.text(v, &c.Platform)
		case "backend":
			return true, d.text(v, &c.Backend)
		case "default_model_filename":
			return true, d.text(v, &c.DefaultFile)
		case "max_batch_size":
			c.MaxBatchSaid = true
			return true, d.count(v, MaxBatch, &c.MaxBatchSize)
		case "input":
			return true, d.each(v, func(v value) error { return d.input(c, v) })
		case "output":
			return true, d.each(v, func(v value) error { return d.output(c, v) })
		case "version_policy":
			return true, d.versionPolicy(&c.VersionPolicy, v)
		case "dynamic_batching":
			c.DynamicBatching = &DynamicBatching{}
			return true, d.dynamicBatching(c.DynamicBatching, v)
		case "instance_group":
			return true, d.each(v, func(v value) error { return d.instanceGroup(c, v) })
		case "model_warmup":
			return true, d.each(v, func(v value) error { return d.warmup(c, v) })
		case "parameters":
			return true, d.parameters(c, v)
		case "ensemble_scheduling":
			return true, d.ensemble(c, v)
		case "response_cache":
			return true, d.only(v, "enable", func(v value) error { return d.boolean(v, &c.ResponseCache) })
		}
		return d.unserved(name, v)
	})
}

// unserved reads keys of a ModelConfig that ask for what is not done.
func (d *decoder) unserved(name string, v value) (bool, error) {
	switch name {
	case "optimization":
		return true, d.optimization(v)
	case "sequence_batching":
		return true, d.failf(v.Line, "models that keep state between requests cannot be served; remove it if the model does not need it")
	case "model_transaction_policy":
		return true, d.only(v, "decoupled", func(v value) error {
			var decoupled bool
			if err := d.boolean(v, &decoupled); err != nil || !decoupled {
				return err
			}
			return d.failf(v.Line, "models that answer a request more than once cannot be served")
		})
	case "batch_input", "batch_output":
		return true, d.refused(v, "tensors made from the batch cannot be served")
	case "model_operations":
		return true, d.refused(v, "libraries of operators are not loaded, since their code would run unchecked")
	case "model_repository_agents":
		return true, d.refused(v, "there are no repository agents here, so that what they should check would not be checked; remove it to serve the model without")
	case "cc_model_filenames":
		d.ignored(v, "one file serves every device")
	case "metric_tags", "model_metrics":
		d.ignored(v, "metrics have the labels model and version")
	case "runtime":
		d.ignored(v, "there is one runtime for each backend")
	default:
		return false, nil
	}
	return true, nil
}

// only reads a message with one key.
func (d *decoder) only(v value, key string, read func(v value) error) error {
	return d.fields(v, func(name string, v value) (bool, error) {
		if name != key {
			return false, nil
		}
		return true, read(v)
	})
}

// optimization is about speed alone: whatever it asks for, the answers are the same.
func (d *decoder) optimization(v value) error {
	return d.fields(v, func(name string, v value) (bool, error) {
		switch name {
		case "input_pinned_memory", "output_pinned_memory": // every client's configuration has them
		case "graph":
			d.ignored(v, "the graph is always optimised in full")
		case "priority":
			d.ignored(v, "requests have priorities, models have none")
		case "execution_accelerators":
			d.ignored(v, "the execution provider follows from instance_group")
		case "cuda", "gather_kernel_buffer_threshold", "eager_batching":
			d.ignored(v, "it tunes another server")
		default:
			return false, nil
		}
		return true, nil
	})
}

func (d *decoder) input(c *Config, v value) error {
	if err := d.room(v.Line, len(c.Inputs), MaxTensors); err != nil {
		return err
	}
	var in Input
	err := d.fields(v, func(name string, v value) (bool, error) {
		switch name {
		case "optional":
			return true, d.boolean(v, &in.Optional)
		case "format":
			var format string // it says in words what dims say in numbers
			return true, d.enumeration(v, formats, &format)
		case "allow_ragged_batch":
			return true, d.refused(v, "requests of different shapes are not joined")
		}
		return d.tensor(name, v, &in.Name, &in.DataType, &in.Dims, &in.Reshape)
	})
	c.Inputs = append(c.Inputs, in)
	return err
}

func (d *decoder) output(c *Config, v value) error {
	if err := d.room(v.Line, len(c.Outputs), MaxTensors); err != nil {
		return err
	}
	var out Output
	err := d.fields(v, func(name string, v value) (bool, error) {
		if name == "label_filename" {
			return true, d.text(v, &out.LabelFilename)
		}
		return d.tensor(name, v, &out.Name, &out.DataType, &out.Dims, &out.Reshape)
	})
	c.Outputs = append(c.Outputs, out)
	return err
}

// tensor reads what inputs and outputs have in common.
func (d *decoder) tensor(name string, v value, into, datatype *string, dims *[]int64, reshape **[]int64) (known bool, err error) {
	switch name {
	case "name":
		err = d.text(v, into)
	case "data_type":
		if err = d.enumeration(v, dataTypes, datatype); err == nil && *datatype == "TYPE_INVALID" {
			err = d.failf(v.Line, "TYPE_INVALID is no type")
		}
	case "dims":
		*dims, err = d.dims(v, *dims)
	case "reshape":
		shape := []int64{}
		err = d.only(v, "shape", func(v value) (err error) {
			shape, err = d.dims(v, shape)
			return err
		})
		*reshape = &shape
	case "is_shape_tensor", "is_non_linear_format_io":
		err = d.refused(v, "only TensorRT has such tensors")
	default:
		return false, nil
	}
	return true, err
}

func (d *decoder) versionPolicy(p *VersionPolicy, v value) error {
	choices := 0
	err := d.fields(v, func(name string, v value) (bool, error) {
		choices++
		switch name {
		case "latest":
			p.Latest = 1
			return true, d.only(v, "num_versions", func(v value) (err error) {
				n, err := d.integer(v, 1, math.MaxInt32)
				p.Latest = int(n)
				return err
			})
		case "all":
			p.All = true
			return true, d.fields(v, func(string, value) (bool, error) { return false, nil })
		case "specific":
			return true, d.only(v, "versions", func(v value) error {
				return d.each(v, func(v value) error {
					if err := d.room(v.Line, len(p.Specific), MaxSizes); err != nil {
						return err
					}
					n, err := d.integer(v, 1, math.MaxInt64)
					p.Specific = append(p.Specific, n)
					return err
				})
			})
		}
		choices--
		return false, nil
	})
	if err == nil && choices > 1 {
		err = d.failf(v.Line, "it is one of latest, all and specific")
	}
	if err == nil && choices == 1 && !p.All && p.Latest == 0 && len(p.Specific) == 0 {
		err = d.failf(v.Line, "specific names no version")
	}
	return err
}
