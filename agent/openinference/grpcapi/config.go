package grpcapi

import (
	"context"
	"strings"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

// modelConfig answers a model's configuration, or one that says the same of a model that has none.
func (h *handler) modelConfig(_ context.Context, r *inferencepb.ModelConfigRequest) (*inferencepb.ModelConfigResponse, error) {
	info, err := h.lookup(r.GetName(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	config := info.Config
	if config == nil {
		config = plain(&info)
	}
	return &inferencepb.ModelConfigResponse{Config: configuration(config)}, nil
}

// plain is the configuration of a model that has none: it batches nothing, so that its shapes are whole.
func plain(info *serving.Info) *triton.Config {
	c := &triton.Config{Name: info.Name, Platform: platform(info)}
	if c.Platform == triton.PlatformONNX {
		c.Backend = triton.BackendONNX
	}
	for _, s := range info.Inputs {
		c.Inputs = append(c.Inputs, triton.Input{Name: s.Name, DataType: dataType(s.Datatype), Dims: s.Shape})
	}
	for _, s := range info.Outputs {
		c.Outputs = append(c.Outputs, triton.Output{Name: s.Name, DataType: dataType(s.Datatype), Dims: s.Shape})
	}
	return c
}

// dataType is a datatype's name in configurations.
func dataType(d tensor.Datatype) string {
	if d == tensor.Bytes {
		return "TYPE_STRING"
	}
	return "TYPE_" + d.String()
}

func configuration(c *triton.Config) *inferencepb.ModelConfig {
	out := &inferencepb.ModelConfig{
		Name: c.Name, Platform: c.Platform, Backend: c.Backend, DefaultModelFilename: c.DefaultFile,
		MaxBatchSize: int32(c.MaxBatchSize), VersionPolicy: versionPolicy(c.VersionPolicy),
	}
	for _, in := range c.Inputs {
		out.Input = append(out.Input, &inferencepb.ModelInput{Name: in.Name, DataType: enum(in.DataType), Dims: in.Dims, Reshape: reshape(in.Reshape), Optional: in.Optional})
	}
	for _, o := range c.Outputs {
		out.Output = append(out.Output, &inferencepb.ModelOutput{Name: o.Name, DataType: enum(o.DataType), Dims: o.Dims, Reshape: reshape(o.Reshape), LabelFilename: o.LabelFilename})
	}
	for _, g := range c.InstanceGroups {
		group := &inferencepb.ModelInstanceGroup{
			Name: g.Name, Count: int32(max(g.Count, 1)),
			Kind: inferencepb.ModelInstanceGroup_Kind(inferencepb.ModelInstanceGroup_Kind_value[g.Kind]),
		}
		for _, gpu := range g.GPUs {
			group.Gpus = append(group.Gpus, int32(gpu))
		}
		out.InstanceGroup = append(out.InstanceGroup, group)
	}
	switch {
	case len(c.Ensemble) > 0:
		out.SchedulingChoice = &inferencepb.ModelConfig_EnsembleScheduling{EnsembleScheduling: ensemble(c.Ensemble)}
	case c.DynamicBatching != nil:
		out.SchedulingChoice = &inferencepb.ModelConfig_DynamicBatching{DynamicBatching: batching(c.DynamicBatching)}
	}
	for _, p := range c.Parameters {
		if out.Parameters == nil {
			out.Parameters = map[string]*inferencepb.ModelParameter{}
		}
		// Texts of this kind must be UTF-8, those of a file need not be.
		out.Parameters[strings.ToValidUTF8(p.Key, "\ufffd")] = &inferencepb.ModelParameter{StringValue: strings.ToValidUTF8(p.Value, "\ufffd")}
	}
	for _, w := range c.Warmup {
		out.ModelWarmup = append(out.ModelWarmup, warmup(w))
	}
	if c.ResponseCache {
		out.ResponseCache = &inferencepb.ModelResponseCache{Enable: true}
	}
	return out
}

func enum(name string) inferencepb.DataType {
	return inferencepb.DataType(inferencepb.DataType_value[name])
}

func reshape(shape *[]int64) *inferencepb.ModelTensorReshape {
	if shape == nil {
		return nil
	}
	return &inferencepb.ModelTensorReshape{Shape: *shape}
}

func versionPolicy(p triton.VersionPolicy) *inferencepb.ModelVersionPolicy {
	switch {
	case p.All:
		return &inferencepb.ModelVersionPolicy{PolicyChoice: &inferencepb.ModelVersionPolicy_All_{All: &inferencepb.ModelVersionPolicy_All{}}}
	case len(p.Specific) > 0:
		return &inferencepb.ModelVersionPolicy{PolicyChoice: &inferencepb.ModelVersionPolicy_Specific_{Specific: &inferencepb.ModelVersionPolicy_Specific{Versions: p.Specific}}}
	}
	return &inferencepb.ModelVersionPolicy{PolicyChoice: &inferencepb.ModelVersionPolicy_Latest_{Latest: &inferencepb.ModelVersionPolicy_Latest{NumVersions: uint32(max(p.Latest, 1))}}}
}

func batching(b *triton.DynamicBatching) *inferencepb.ModelDynamicBatching {
	out := &inferencepb.ModelDynamicBatching{
		MaxQueueDelayMicroseconds: uint64(b.MaxQueueDelay.Microseconds()), PreserveOrdering: b.PreserveOrdering,
		PriorityLevels: b.PriorityLevels, DefaultPriorityLevel: b.DefaultPriorityLevel,
	}
	for _, n := range b.Preferred {
		out.PreferredBatchSize = append(out.PreferredBatchSize, int32(n))
	}
	if b.QueuePolicy != (triton.QueuePolicy{}) {
		out.DefaultQueuePolicy = queuePolicy(b.QueuePolicy)
	}
	for level, p := range b.PriorityPolicies {
		if out.PriorityQueuePolicy == nil {
			out.PriorityQueuePolicy = map[uint64]*inferencepb.ModelQueuePolicy{}
		}
		out.PriorityQueuePolicy[level] = queuePolicy(p)
	}
	return out
}

func queuePolicy(p triton.QueuePolicy) *inferencepb.ModelQueuePolicy {
	out := &inferencepb.ModelQueuePolicy{
		DefaultTimeoutMicroseconds: uint64(p.DefaultTimeout.Microseconds()), AllowTimeoutOverride: p.AllowTimeoutOverride,
		MaxQueueSize: uint32(p.MaxQueueSize),
	}
	if p.Delay {
		out.TimeoutAction = inferencepb.ModelQueuePolicy_DELAY
	}
	return out
}

func ensemble(steps []triton.EnsembleStep) *inferencepb.ModelEnsembling {
	out := &inferencepb.ModelEnsembling{}
	for _, s := range steps {
		out.Step = append(out.Step, &inferencepb.ModelEnsembling_Step{ModelName: s.ModelName, ModelVersion: s.ModelVersion, InputMap: s.InputMap, OutputMap: s.OutputMap})
	}
	return out
}

func warmup(w triton.Warmup) *inferencepb.ModelWarmup {
	out := &inferencepb.ModelWarmup{Name: w.Name, BatchSize: uint32(w.BatchSize), Count: uint32(w.Count), Inputs: map[string]*inferencepb.ModelWarmup_Input{}}
	for _, in := range w.Inputs {
		input := &inferencepb.ModelWarmup_Input{DataType: enum(in.DataType), Dims: in.Dims}
		switch {
		case in.Zero:
			input.InputDataType = &inferencepb.ModelWarmup_Input_ZeroData{ZeroData: true}
		case in.Random:
			input.InputDataType = &inferencepb.ModelWarmup_Input_RandomData{RandomData: true}
		case in.File != "":
			input.InputDataType = &inferencepb.ModelWarmup_Input_InputDataFile{InputDataFile: in.File}
		}
		out.Inputs[in.Name] = input
	}
	return out
}
