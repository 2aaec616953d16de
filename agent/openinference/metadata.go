package openinference

import (
	"net/http"
	"time"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
)

func (h *handler) server(*exchange) (any, error) {
	return struct {
		Name       string   `json:"name"`
		Version    string   `json:"version"`
		Extensions []string `json:"extensions"`
	}{"dhow", h.options.Version, h.extensions}, nil
}

func (h *handler) live(*exchange) (any, error) { return map[string]bool{"live": true}, nil }

func (h *handler) ready(*exchange) (any, error) {
	if h.options.Ready != nil && !h.options.Ready() {
		return nil, &apiError{status: http.StatusServiceUnavailable, message: "the agent is not ready", retry: true}
	}
	return map[string]bool{"ready": true}, nil
}

type tensorMetadata struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

func describe(specs []tensor.Spec) []tensorMetadata {
	out := make([]tensorMetadata, len(specs))
	for i, s := range specs {
		out[i] = tensorMetadata{s.Name, s.Datatype.String(), append([]int64{}, s.Shape...)}
	}
	return out
}

func (h *handler) model(x *exchange) (any, error) {
	info, err := h.table.Lookup(x.model, x.version)
	if err != nil {
		return nil, err
	}
	return struct {
		Name     string           `json:"name"`
		Versions []string         `json:"versions"`
		Platform string           `json:"platform"`
		Inputs   []tensorMetadata `json:"inputs"`
		Outputs  []tensorMetadata `json:"outputs"`
	}{info.Name, info.Versions(x.version), platform(&info), describe(info.Inputs), describe(info.Outputs)}, nil
}

func platform(info *serving.Info) string {
	if info.Platform == "" {
		return triton.PlatformONNX
	}
	return info.Platform
}

type readiness struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
}

func (h *handler) modelReady(x *exchange) (any, error) {
	info, err := h.table.Lookup(x.model, x.version)
	if err != nil {
		return nil, err
	}
	return readiness{info.Name, true}, nil
}

// config answers with a model's configuration, or for a model without one with what it says of itself.
func (h *handler) config(x *exchange) (any, error) {
	info, err := h.table.Lookup(x.model, x.version)
	if err != nil {
		return nil, err
	}
	if info.Config != nil {
		return info.Config, nil
	}
	c := &triton.Config{Name: info.Name, Platform: platform(&info)}
	if c.Platform == triton.PlatformONNX {
		c.Backend = triton.BackendONNX
	}
	for _, s := range info.Inputs {
		c.Inputs = append(c.Inputs, triton.Input{Name: s.Name, DataType: configType(s.Datatype), Dims: s.Shape})
	}
	for _, s := range info.Outputs {
		c.Outputs = append(c.Outputs, triton.Output{Name: s.Name, DataType: configType(s.Datatype), Dims: s.Shape})
	}
	return c, nil
}

// configType is a datatype's name in configurations.
func configType(d tensor.Datatype) string {
	if d == tensor.Bytes {
		return "TYPE_STRING"
	}
	return "TYPE_" + d.String()
}

func (h *handler) servedV1(*exchange) (any, error) {
	out := struct {
		Models []string `json:"models"`
	}{[]string{}}
	for _, info := range h.table.Models() {
		out.Models = append(out.Models, info.Name)
	}
	return out, nil
}

func (h *handler) modelV1(x *exchange) (any, error) { return h.modelReady(x) }

// duration is a count and a sum of times in the protocol's form.
type duration struct {
	Count uint64 `json:"count"`
	Nanos uint64 `json:"ns"`
}

type batchStatistics struct {
	Size          int      `json:"batch_size"`
	ComputeInput  duration `json:"compute_input"`
	ComputeInfer  duration `json:"compute_infer"`
	ComputeOutput duration `json:"compute_output"`
}

type modelStatisticsJSON struct {
	Name           string `json:"name"`
	Version        string `json:"version"`
	LastInference  int64  `json:"last_inference"` // ms since 1970
	InferenceCount uint64 `json:"inference_count"`
	ExecutionCount uint64 `json:"execution_count"`
	Inference      struct {
		Success       duration `json:"success"`
		Fail          duration `json:"fail"`
		Queue         duration `json:"queue"`
		ComputeInput  duration `json:"compute_input"`
		ComputeInfer  duration `json:"compute_infer"`
		ComputeOutput duration `json:"compute_output"`
		CacheHit      duration `json:"cache_hit"`
		CacheMiss     duration `json:"cache_miss"`
	} `json:"inference_stats"`
	Batches []batchStatistics `json:"batch_stats"`
}

// statistics answers with what was counted, of every model or of one.
func (h *handler) statistics(x *exchange) (any, error) {
	if h.options.Statistics == nil {
		return nil, &apiError{status: http.StatusNotImplemented, message: "statistics are not kept here"}
	}
	if x.model != "" {
		if _, err := h.table.Lookup(x.model, x.version); err != nil {
			return nil, err
		}
	}
	out := struct {
		Models []modelStatisticsJSON `json:"model_stats"`
	}{[]modelStatisticsJSON{}}
	for _, s := range h.options.Statistics() {
		if (x.model == "" || x.model == s.Name) && (x.version == "" || x.version == s.Version) {
			out.Models = append(out.Models, statisticsOf(&s))
		}
	}
	return out, nil
}

func statisticsOf(s *statistics.Snapshot) modelStatisticsJSON {
	of := func(d statistics.Duration) duration { return duration{d.Count, d.Nanos} }
	out := modelStatisticsJSON{
		Name: s.Name, Version: s.Version, LastInference: millis(s.LastInference),
		InferenceCount: s.InferenceCount, ExecutionCount: s.ExecutionCount, Batches: make([]batchStatistics, len(s.Batches)),
	}
	i := &out.Inference
	i.Success, i.Fail, i.Queue = of(s.Success), of(s.Fail), of(s.Queue)
	i.ComputeInput, i.ComputeInfer, i.ComputeOutput = of(s.ComputeInput), of(s.ComputeInfer), of(s.ComputeOutput)
	i.CacheHit, i.CacheMiss = of(s.CacheHit), of(s.CacheMiss)
	for n, b := range s.Batches {
		out.Batches[n] = batchStatistics{b.Size, of(b.ComputeInput), of(b.ComputeInfer), of(b.ComputeOutput)}
	}
	return out
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
