package bundle

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/models/tensor"
)

// SpecFile is the file that every bundle has at its root.
const SpecFile = "bundle.yaml"

// APIVersion is the only value of apiVersion in bundle.yaml.
const APIVersion = "dhow/v1"

// Bounds of a bundle. They are far above what is sensible and exist so that nothing read from outside is unbounded.
const (
	MaxSpecBytes   = 256 << 10
	MaxFiles       = 2048
	MaxFileBytes   = 64 << 30
	MaxTotalBytes  = 256 << 30
	MaxModuleBytes = 32 << 20
	MaxLabelsBytes = 1 << 20
	MaxVariants    = 16
	MaxTensors     = 64
	MaxNames       = 64
	MaxGoldens     = 64
	MaxGoldenBytes = 32 << 20
)

// Spec is bundle.yaml, checked and with its defaults filled in.
type Spec struct {
	// Name is a DNS label, Version an OCI tag; together they name the bundle in the registry: models/<name>:<version>.
	Name, Version string
	// Variants are files of the same model; the first is the default. A list of Stages without variants has one, called
	// "default", with the file of its first model.
	Variants []Variant
	// Inputs are what clients send, Outputs what they get; -1 is a dimension that varies.
	Inputs, Outputs []tensor.Spec
	// Pre and Post are the WASM steps before and after the model, nil where there is none.
	Pre, Post *Step
	// Stages is the pipeline where it is a list; Pre and Post are nil then. nil is Pre, the model, Post.
	Stages []Stage
	// Labels is the path of the file that the WASM steps get as their configuration, "" for none.
	Labels string
	// Counters and Features are the only names under which the WASM steps may report counts and numbers.
	Counters, Features []string
	Budgets            Budgets
	// Batching joins requests for the model; nil runs each by itself. Instances is how many runs of the model go on at a
	// time, 0 as many as the node has cores for. Queue is how many requests may wait, 0 what the node allows.
	Batching         *Batching
	Instances, Queue int
	// Cache lets a node that has a response cache give an answer again to an equal request.
	Cache bool
	// GoldenDir is the folder of golden samples, "" for none.
	GoldenDir string
}

// Variant is one file of the model.
type Variant struct{ Name, File string }

// Budgets bound what the bundle may take on a node.
type Budgets struct {
	// Memory in bytes bounds the process that probes the bundle.
	Memory int64
	// Load bounds loading, Infer one whole request through all steps.
	Load, Infer time.Duration
}

// The defaults of what bundle.yaml leaves out.
const (
	DefaultMemory      = 512 << 20
	DefaultLoad        = 60 * time.Second
	DefaultInfer       = 2 * time.Second
	DefaultStepTimeout = 500 * time.Millisecond
	DefaultStepMemory  = 64 << 20
	DefaultStepStack   = 1 << 20
	DefaultStepTable   = 1 << 16
)

// Variant returns the variant called name, or the default one when name is empty.
func (s *Spec) Variant(name string) (Variant, bool) {
	for _, v := range s.Variants {
		if name == "" || v.Name == name {
			return v, true
		}
	}
	return Variant{}, false
}

// File is a file of a bundle.
type File struct {
	// Path is relative to the bundle's root, with slashes.
	Path string
	Size int64
	// Digest is empty until Hash.
	Digest digest.Digest
}

// Bundle is a folder that passed Load.
type Bundle struct {
	Spec Spec
	// Files are all files of the folder, sorted by path.
	Files []File
}
