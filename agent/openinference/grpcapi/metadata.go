package grpcapi

import (
	"context"
	"errors"
	"strconv"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi/wire"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

func (h *handler) ready() bool { return h.options.Ready == nil || h.options.Ready() }

func (h *handler) serverLive(context.Context, *inferencepb.ServerLiveRequest) (*inferencepb.ServerLiveResponse, error) {
	return &inferencepb.ServerLiveResponse{Live: true}, nil
}

func (h *handler) serverReady(context.Context, *inferencepb.ServerReadyRequest) (*inferencepb.ServerReadyResponse, error) {
	return &inferencepb.ServerReadyResponse{Ready: h.ready()}, nil
}

// modelReady answers no, and not that there is none: clients ask until a model has come.
func (h *handler) modelReady(_ context.Context, r *inferencepb.ModelReadyRequest) (*inferencepb.ModelReadyResponse, error) {
	if r.GetName() == "" {
		return nil, inference.Inputf("name is missing")
	}
	return &inferencepb.ModelReadyResponse{Ready: h.table.Has(r.GetName(), r.GetVersion()) == nil}, nil
}

func (h *handler) serverMetadata(context.Context, *inferencepb.ServerMetadataRequest) (*inferencepb.ServerMetadataResponse, error) {
	extensions := []string{"binary_tensor_data", "classification", "model_configuration", "parameters", "schedule_policy"}
	if h.options.Repository != nil {
		extensions = append(extensions, "model_repository", "model_repository(unload_dependents)")
	}
	if h.options.Statistics != nil {
		extensions = append(extensions, "statistics")
	}
	return &inferencepb.ServerMetadataResponse{Name: "dhow", Version: h.options.Version, Extensions: extensions}, nil
}

func (h *handler) lookup(name, version string) (serving.Info, error) {
	if name == "" {
		return serving.Info{}, inference.Inputf("name is missing")
	}
	if len(name) > wire.MaxName || len(version) > wire.MaxName {
		return serving.Info{}, inference.Inputf("a name or version has more than %d bytes", wire.MaxName)
	}
	return h.table.Lookup(name, version)
}

func (h *handler) modelMetadata(_ context.Context, r *inferencepb.ModelMetadataRequest) (*inferencepb.ModelMetadataResponse, error) {
	info, err := h.lookup(r.GetName(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	return &inferencepb.ModelMetadataResponse{
		Name: info.Name, Versions: info.Versions(r.GetVersion()), Platform: platform(&info), Inputs: describe(info.Inputs), Outputs: describe(info.Outputs),
	}, nil
}

func platform(info *serving.Info) string {
	if info.Platform != "" {
		return info.Platform
	}
	return triton.PlatformONNX
}

func describe(specs []tensor.Spec) []*inferencepb.ModelMetadataResponse_TensorMetadata {
	out := make([]*inferencepb.ModelMetadataResponse_TensorMetadata, len(specs))
	for i, s := range specs {
		out[i] = &inferencepb.ModelMetadataResponse_TensorMetadata{Name: s.Name, Datatype: s.Datatype.String(), Shape: s.Shape}
	}
	return out
}

func (h *handler) modelStatistics(_ context.Context, r *inferencepb.ModelStatisticsRequest) (*inferencepb.ModelStatisticsResponse, error) {
	if r.GetName() == "" && r.GetVersion() != "" {
		return nil, inference.Inputf("a version is asked for, but no name of a model")
	}
	if r.GetName() != "" {
		if _, err := h.lookup(r.GetName(), r.GetVersion()); err != nil {
			return nil, err
		}
	}
	res := &inferencepb.ModelStatisticsResponse{}
	for _, s := range h.options.Statistics() {
		if (r.GetName() == "" || r.GetName() == s.Name) && (r.GetVersion() == "" || r.GetVersion() == s.Version) {
			res.ModelStats = append(res.ModelStats, modelStatistics(&s))
		}
	}
	return res, nil
}

func modelStatistics(s *statistics.Snapshot) *inferencepb.ModelStatistics {
	out := &inferencepb.ModelStatistics{
		Name: s.Name, Version: s.Version, InferenceCount: s.InferenceCount, ExecutionCount: s.ExecutionCount,
		InferenceStats: &inferencepb.InferStatistics{
			Success: duration(s.Success), Fail: duration(s.Fail), Queue: duration(s.Queue),
			ComputeInput: duration(s.ComputeInput), ComputeInfer: duration(s.ComputeInfer), ComputeOutput: duration(s.ComputeOutput),
			CacheHit: duration(s.CacheHit), CacheMiss: duration(s.CacheMiss),
		},
	}
	if !s.LastInference.IsZero() {
		out.LastInference = uint64(s.LastInference.UnixMilli())
	}
	for _, b := range s.Batches {
		out.BatchStats = append(out.BatchStats, &inferencepb.InferBatchStatistics{
			BatchSize:    uint64(b.Size),
			ComputeInput: duration(b.ComputeInput), ComputeInfer: duration(b.ComputeInfer), ComputeOutput: duration(b.ComputeOutput),
		})
	}
	return out
}

func duration(d statistics.Duration) *inferencepb.StatisticDuration {
	return &inferencepb.StatisticDuration{Count: d.Count, Ns: d.Nanos}
}

var errOneRepository = connect.NewError(connect.CodeUnimplemented, errors.New("there is one model repository, which has no name; leave repository_name empty"))

func (h *handler) repositoryIndex(ctx context.Context, r *inferencepb.RepositoryIndexRequest) (*inferencepb.RepositoryIndexResponse, error) {
	if r.GetRepositoryName() != "" {
		return nil, errOneRepository
	}
	res := &inferencepb.RepositoryIndexResponse{}
	if h.options.Repository == nil {
		for _, info := range h.table.Models() {
			for _, v := range info.Variants {
				res.Models = append(res.Models, &inferencepb.RepositoryIndexResponse_ModelIndex{Name: info.Name, Version: v.Version, State: string(modelrepository.Ready)})
			}
		}
		return res, nil
	}
	entries, err := h.options.Repository.Index(ctx, r.GetReady())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		res.Models = append(res.Models, &inferencepb.RepositoryIndexResponse_ModelIndex{Name: e.Name, Version: e.Version, State: string(e.State), Reason: e.Reason})
	}
	return res, nil
}

func (h *handler) repositoryModelLoad(ctx context.Context, r *inferencepb.RepositoryModelLoadRequest) (*inferencepb.RepositoryModelLoadResponse, error) {
	if err := h.controlled(r.GetRepositoryName(), r.GetModelName()); err != nil {
		return nil, err
	}
	parameters := make(map[string]string, len(r.GetParameters()))
	for key, p := range r.GetParameters() {
		parameters[key] = repositoryParameter(p)
	}
	if err := h.options.Repository.Load(ctx, r.GetModelName(), parameters); err != nil {
		return nil, err
	}
	return &inferencepb.RepositoryModelLoadResponse{}, nil
}

func (h *handler) repositoryModelUnload(ctx context.Context, r *inferencepb.RepositoryModelUnloadRequest) (*inferencepb.RepositoryModelUnloadResponse, error) {
	if err := h.controlled(r.GetRepositoryName(), r.GetModelName()); err != nil {
		return nil, err
	}
	if err := h.options.Repository.Unload(ctx, r.GetModelName(), r.GetParameters()["unload_dependents"].GetBoolParam()); err != nil {
		return nil, err
	}
	return &inferencepb.RepositoryModelUnloadResponse{}, nil
}

// controlled checks what loading and unloading have in common.
func (h *handler) controlled(repository, model string) error {
	switch {
	case repository != "":
		return errOneRepository
	case model == "":
		return inference.Inputf("model_name is missing")
	case len(model) > wire.MaxName:
		return inference.Inputf("model_name has %d bytes, at most %d are allowed", len(model), wire.MaxName)
	case h.options.Repository == nil:
		return modelrepository.ErrNotControlled
	}
	return nil
}

func repositoryParameter(p *inferencepb.ModelRepositoryParameter) string {
	switch v := p.GetParameterChoice().(type) {
	case *inferencepb.ModelRepositoryParameter_BoolParam:
		return strconv.FormatBool(v.BoolParam)
	case *inferencepb.ModelRepositoryParameter_Int64Param:
		return strconv.FormatInt(v.Int64Param, 10)
	case *inferencepb.ModelRepositoryParameter_StringParam:
		return v.StringParam
	case *inferencepb.ModelRepositoryParameter_BytesParam:
		return string(v.BytesParam)
	}
	return ""
}
