package triton

import (
	"encoding/json"
	"time"

	"github.com/dhowfleet/dhow/models/triton/textformat"
)

// ParseJSON reads a configuration in the form that MarshalJSON writes, as clients send to load a model. The bounds are
// those of Parse.
func ParseJSON(text []byte) (*Config, []Warning, error) {
	v, err := textformat.ReadJSON(text)
	if err != nil {
		return nil, nil, err
	}
	return decode(v, true)
}

// The messages as JSON has them: names in snake case, numbers as numbers, and what is not set at its default where
// Triton writes it so.
type (
	configJSON struct {
		Name            string             `json:"name"`
		Platform        string             `json:"platform"`
		Backend         string             `json:"backend"`
		Runtime         string             `json:"runtime"`
		VersionPolicy   any                `json:"version_policy"`
		MaxBatchSize    int                `json:"max_batch_size"`
		Input           []inputJSON        `json:"input"`
		Output          []outputJSON       `json:"output"`
		BatchInput      []struct{}         `json:"batch_input"`
		BatchOutput     []struct{}         `json:"batch_output"`
		Optimization    json.RawMessage    `json:"optimization"`
		DynamicBatching *dynamicJSON       `json:"dynamic_batching,omitempty"`
		Ensemble        *ensembleJSON      `json:"ensemble_scheduling,omitempty"`
		InstanceGroup   []instanceJSON     `json:"instance_group"`
		DefaultFile     string             `json:"default_model_filename"`
		CCFiles         struct{}           `json:"cc_model_filenames"`
		MetricTags      struct{}           `json:"metric_tags"`
		Parameters      map[string]stringJ `json:"parameters"`
		Warmup          []warmupJSON       `json:"model_warmup"`
		Transaction     map[string]bool    `json:"model_transaction_policy"`
		ResponseCache   *map[string]bool   `json:"response_cache,omitempty"`
	}
	stringJ struct {
		Value string `json:"string_value"`
	}
	reshapeJSON struct {
		Shape []int64 `json:"shape"`
	}
	inputJSON struct {
		Name     string       `json:"name"`
		DataType string       `json:"data_type"`
		Format   string       `json:"format"`
		Dims     []int64      `json:"dims"`
		Reshape  *reshapeJSON `json:"reshape,omitempty"`
		Shape    bool         `json:"is_shape_tensor"`
		Ragged   bool         `json:"allow_ragged_batch"`
		Optional bool         `json:"optional"`
	}
	outputJSON struct {
		Name     string       `json:"name"`
		DataType string       `json:"data_type"`
		Dims     []int64      `json:"dims"`
		Reshape  *reshapeJSON `json:"reshape,omitempty"`
		Label    string       `json:"label_filename"`
		Shape    bool         `json:"is_shape_tensor"`
	}
	dynamicJSON struct {
		Preferred []int                `json:"preferred_batch_size"`
		Delay     int64                `json:"max_queue_delay_microseconds"`
		Ordering  bool                 `json:"preserve_ordering"`
		Levels    uint64               `json:"priority_levels"`
		Default   uint64               `json:"default_priority_level"`
		Policy    *queueJSON           `json:"default_queue_policy,omitempty"`
		Policies  map[uint64]queueJSON `json:"priority_queue_policy"`
	}
	queueJSON struct {
		Action   string `json:"timeout_action"`
		Timeout  int64  `json:"default_timeout_microseconds"`
		Override bool   `json:"allow_timeout_override"`
		Size     int    `json:"max_queue_size"`
	}
	ensembleJSON struct {
		Step []stepJSON `json:"step"`
	}
	stepJSON struct {
		Name    string            `json:"model_name"`
		Version int64             `json:"model_version"`
		Input   map[string]string `json:"input_map"`
		Output  map[string]string `json:"output_map"`
	}
	instanceJSON struct {
		Name      string   `json:"name"`
		Kind      string   `json:"kind"`
		Count     int      `json:"count"`
		GPUs      []int    `json:"gpus"`
		Secondary []string `json:"secondary_devices"`
		Profile   []string `json:"profile"`
		Passive   bool     `json:"passive"`
		Host      string   `json:"host_policy"`
	}
	warmupJSON struct {
		Name      string                     `json:"name"`
		BatchSize int                        `json:"batch_size"`
		Inputs    map[string]warmupInputJSON `json:"inputs"`
		Count     int                        `json:"count"`
	}
	warmupInputJSON struct {
		DataType string  `json:"data_type"`
		Dims     []int64 `json:"dims"`
		Zero     bool    `json:"zero_data,omitempty"`
		Random   bool    `json:"random_data,omitempty"`
		File     string  `json:"input_data_file,omitempty"`
	}
)

// optimization is what every configuration has when it does not speak of it.
const optimization = `{"priority":"PRIORITY_DEFAULT","input_pinned_memory":{"enable":true},"output_pinned_memory":{"enable":true},"gather_kernel_buffer_threshold":0,"eager_batching":false}`

// MarshalJSON writes the configuration as Triton answers it.
func (c *Config) MarshalJSON() ([]byte, error) {
	out := configJSON{
		Name: c.Name, Platform: c.Platform, Backend: c.Backend, MaxBatchSize: c.MaxBatchSize,
		Input: []inputJSON{}, Output: []outputJSON{}, BatchInput: []struct{}{}, BatchOutput: []struct{}{},
		Optimization: json.RawMessage(optimization), InstanceGroup: []instanceJSON{}, DefaultFile: c.DefaultFile,
		Parameters: map[string]stringJ{}, Warmup: []warmupJSON{}, Transaction: map[string]bool{"decoupled": false},
	}
	switch p := &c.VersionPolicy; {
	case p.All:
		out.VersionPolicy = map[string]any{"all": struct{}{}}
	case len(p.Specific) > 0:
		out.VersionPolicy = map[string]any{"specific": map[string]any{"versions": p.Specific}}
	default:
		out.VersionPolicy = map[string]any{"latest": map[string]any{"num_versions": max(p.Latest, 1)}}
	}
	for i := range c.Inputs {
		in := &c.Inputs[i]
		out.Input = append(out.Input, inputJSON{Name: in.Name, DataType: in.DataType, Format: "FORMAT_NONE", Dims: present(in.Dims), Reshape: reshaped(in.Reshape), Optional: in.Optional})
	}
	for i := range c.Outputs {
		o := &c.Outputs[i]
		out.Output = append(out.Output, outputJSON{Name: o.Name, DataType: o.DataType, Dims: present(o.Dims), Reshape: reshaped(o.Reshape), Label: o.LabelFilename})
	}
	if c.DynamicBatching != nil {
		out.DynamicBatching = c.DynamicBatching.json()
	}
	if len(c.Ensemble) > 0 {
		out.Ensemble = &ensembleJSON{}
		for _, s := range c.Ensemble {
			out.Ensemble.Step = append(out.Ensemble.Step, stepJSON{s.ModelName, s.ModelVersion, s.InputMap, s.OutputMap})
		}
	}
	for _, g := range c.InstanceGroups {
		kind := g.Kind
		if kind == "" {
			kind = instanceKinds[0]
		}
		out.InstanceGroup = append(out.InstanceGroup, instanceJSON{Name: g.Name, Kind: kind, Count: max(g.Count, 1), GPUs: present(g.GPUs), Secondary: []string{}, Profile: []string{}})
	}
	for _, p := range c.Parameters {
		out.Parameters[p.Key] = stringJ{p.Value}
	}
	for _, w := range c.Warmup {
		j := warmupJSON{Name: w.Name, BatchSize: w.BatchSize, Count: w.Count, Inputs: map[string]warmupInputJSON{}}
		for _, in := range w.Inputs {
			j.Inputs[in.Name] = warmupInputJSON{in.DataType, present(in.Dims), in.Zero, in.Random, in.File}
		}
		out.Warmup = append(out.Warmup, j)
	}
	if c.ResponseCache {
		out.ResponseCache = &map[string]bool{"enable": true}
	}
	return json.Marshal(out)
}

func (b *DynamicBatching) json() *dynamicJSON {
	out := &dynamicJSON{
		Preferred: present(b.Preferred), Delay: int64(b.MaxQueueDelay / time.Microsecond), Ordering: b.PreserveOrdering,
		Levels: b.PriorityLevels, Default: b.DefaultPriorityLevel, Policies: map[uint64]queueJSON{},
	}
	if b.QueuePolicy != (QueuePolicy{}) {
		q := b.QueuePolicy.json()
		out.Policy = &q
	}
	for level, p := range b.PriorityPolicies {
		out.Policies[level] = p.json()
	}
	return out
}

func (p QueuePolicy) json() queueJSON {
	action := timeoutActions[0]
	if p.Delay {
		action = timeoutActions[1]
	}
	return queueJSON{action, int64(p.DefaultTimeout / time.Microsecond), p.AllowTimeoutOverride, p.MaxQueueSize}
}

// present makes a list of what would be null otherwise.
func present[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func reshaped(shape *[]int64) *reshapeJSON {
	if shape == nil {
		return nil
	}
	return &reshapeJSON{present(*shape)}
}
