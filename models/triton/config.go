// Package triton reads the model repositories that Triton users have: config.pbtxt, and what it leaves to be completed
// from the model file.
//
// Parse reads the text of a config.pbtxt; Complete fills in what it does not say from an ONNX file's own description.
// Keys that Dhow does not act on are no errors but warnings that name key and line, since configurations are written
// for more servers than this one. What is asked for and would change the answers is an error where it cannot be done.
//
// A model goes through Parse, Fill (what its folder says), Complete (what its file says) and Validate, in this order; the
// tensors that clients see are those of Specs. A Config marshals to the JSON that Triton answers as a model's
// configuration, ParseJSON reads the same back, and Format writes it as text.
//
// The package is pure. Every count, size and nesting of the text is bounded. A Config belongs to the caller.
package triton

import "time"

// Platform and backend names.
const (
	PlatformONNX     = "onnxruntime_onnx"
	PlatformEnsemble = "ensemble"
	BackendONNX      = "onnxruntime"
	BackendWASM      = "wasm" // Dhow's own: <version>/model.wasm is a step for ensembles
)

// Config is a model's configuration. Dimensions of inputs and outputs leave out the batch dimension when MaxBatchSize is
// above zero.
type Config struct {
	Name            string
	Platform        string
	Backend         string
	DefaultFile     string // default_model_filename; "" is model.onnx (or model.wasm)
	MaxBatchSize    int
	MaxBatchSaid    bool // the text has max_batch_size; a 0 that it says is not completed
	Inputs          []Input
	Outputs         []Output
	VersionPolicy   VersionPolicy
	DynamicBatching *DynamicBatching // nil: every request runs by itself
	InstanceGroups  []InstanceGroup
	Warmup          []Warmup
	Parameters      []Parameter // in the order of the file
	Ensemble        []EnsembleStep
	ResponseCache   bool
}

// Input is a tensor that a request brings. Dims -1 varies.
type Input struct {
	Name     string
	DataType string   // as in the file, such as TYPE_FP32
	Dims     []int64  // nil where the text does not say; empty is a scalar, for each request or for each row
	Reshape  *[]int64 // what the model takes instead of Dims
	Optional bool
}

// Output is a tensor of an answer.
type Output struct {
	Name          string
	DataType      string
	Dims          []int64
	Reshape       *[]int64 // what the model gives instead of Dims
	LabelFilename string   // one label a line, for classification
}

// VersionPolicy says which versions of a model are served. The zero value is the latest one.
type VersionPolicy struct {
	Latest   int // so many of the highest; 0 with neither All nor Specific means 1
	All      bool
	Specific []int64
}

// DynamicBatching joins requests.
type DynamicBatching struct {
	Preferred            []int         // preferred_batch_size
	MaxQueueDelay        time.Duration // how long a request may wait for others
	PreserveOrdering     bool
	PriorityLevels       uint64
	DefaultPriorityLevel uint64
	QueuePolicy          QueuePolicy            // default_queue_policy
	PriorityPolicies     map[uint64]QueuePolicy // priority_queue_policy
}

// QueuePolicy bounds a queue.
type QueuePolicy struct {
	Delay                bool          // timeout_action DELAY instead of REJECT
	DefaultTimeout       time.Duration // 0: none
	AllowTimeoutOverride bool
	MaxQueueSize         int // 0: the server's
}

// InstanceGroup asks for a number of instances on devices.
type InstanceGroup struct {
	Name  string
	Kind  string // KIND_AUTO, KIND_CPU, KIND_GPU
	Count int    // 0: 1
	GPUs  []int
}

// Warmup is a request that is made before the model serves.
type Warmup struct {
	Name      string
	BatchSize int
	Count     int
	Inputs    []WarmupInput
}

// WarmupInput is one tensor of a Warmup. One of Zero, Random and File says what it holds.
type WarmupInput struct {
	Name     string
	DataType string
	Dims     []int64
	Zero     bool
	Random   bool
	File     string // raw data under <model>/warmup/
}

// Parameter is a key with a text.
type Parameter struct{ Key, Value string }

// EnsembleStep is a model of an ensemble. Maps go from the model's own tensor names to the ensemble's.
type EnsembleStep struct {
	ModelName    string
	ModelVersion int64 // -1: the latest
	InputMap     map[string]string
	OutputMap    map[string]string
}
