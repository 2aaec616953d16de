package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/agent/batching"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/modelfile"
	"github.com/dhowfleet/dhow/agent/modelrepository/invented"
	"github.com/dhowfleet/dhow/agent/modelrepository/runner"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/triton"
)

const cuda = "CUDAExecutionProvider"

// openModel opens a version that is an ONNX file.
func (r *Repository) openModel(ctx context.Context, f *folder, v int64, c *triton.Config) (l loaded, err error) {
	file, err := r.modelFile(f, v, c)
	if err != nil {
		return l, err
	}
	g, err := modelfile.Inspect(file)
	if err != nil {
		return l, err
	}
	var done triton.Completed
	if !r.Strict {
		if done, err = c.Complete(g); err != nil {
			return l, err
		}
	} else if err = c.Validate(); err == nil {
		_, err = c.Complete(g) // which finds nothing to complete, and compares
	}
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return l, err
	}
	options, copies, parallel, err := r.instances(f.name, c)
	if err != nil {
		return l, err
	}
	candidate := &Candidate{Model: f.name, Version: v, File: file, Graph: g, Config: c, Instances: copies, Options: options, Rows: done.MaxBatchSize}
	release, err := r.admitted(ctx, candidate)
	if err != nil {
		return l, err
	}
	b := &opening{r: r, f: f, version: v, config: c, graph: g, done: done, release: release}
	if l.runner, err = b.open(ctx, file, options, copies, parallel); err != nil {
		release()
		return l, err
	}
	if s, ok := l.runner.(serving.Scheduler); !ok || !s.Scheduled() {
		l.limit = c.Instances()
	}
	return l, nil
}

// admitted asks for admission.
func (r *Repository) admitted(ctx context.Context, c *Candidate) (release func(), err error) {
	if r.Admit != nil {
		if release, err = r.Admit(ctx, c); err != nil {
			return nil, err
		}
	}
	if release == nil {
		release = func() {}
	}
	return release, nil
}

// instances says how a model is opened: copies have weights of their own, parallel is how many compute at a time. On
// the CPU, any number computes on one copy.
func (r *Repository) instances(model string, c *triton.Config) (o inference.Options, copies, parallel int, err error) {
	o, copies, parallel = r.Options, 1, c.Instances()
	for i := range c.InstanceGroups {
		g := &c.InstanceGroups[i]
		switch {
		case g.Kind == "KIND_GPU", g.Kind == "" && len(g.GPUs) > 0:
			o.Provider = cuda
		case g.Kind == "KIND_CPU":
			o.Provider = ""
		}
		if slices.ContainsFunc(g.GPUs, func(n int) bool { return n != 0 }) {
			r.Logger.Warn("instances are placed on the first GPU that this process sees; choose it by CUDA_VISIBLE_DEVICES", "model", model)
		}
	}
	if o.Provider != "" {
		copies = max(parallel, 1)
	}
	if parallel == 0 {
		parallel = runtime.GOMAXPROCS(0)
	}
	if s := c.Parameter("intra_op_thread_count"); s != "" {
		if o.Threads, err = strconv.Atoi(s); err != nil || o.Threads < 0 {
			return o, 0, 0, fmt.Errorf("parameter intra_op_thread_count %q is no number of threads", s)
		}
		o.Threads = min(o.Threads, runtime.NumCPU())
	}
	return o, copies, parallel, nil
}

// opening is an ONNX model that is being opened.
type opening struct {
	r       *Repository
	f       *folder
	version int64
	config  *triton.Config
	graph   *graph.Graph
	done    triton.Completed
	release func()
}

func (b *opening) open(ctx context.Context, file string, o inference.Options, copies, parallel int) (serving.Runner, error) {
	var instances []inference.Model
	shut := func() {
		for _, m := range instances {
			_ = m.Close()
		}
	}
	for range copies {
		m, err := b.r.Engine.Load(ctx, file, o)
		if err != nil {
			shut()
			return nil, err
		}
		instances = append(instances, m)
	}
	first := instances[0]
	if err := b.batchable(ctx, first); err != nil {
		shut()
		return nil, err
	}
	n := runner.NetworkOptions{Config: b.config, Model: first, Direct: first, Places: b.r.Places, Lenient: b.done.MaxBatchSize, Release: b.release}
	batches, wanted := batching.Configured(b.config)
	if !wanted && copies == 1 {
		return runner.NewNetwork(n), nil
	}
	if !wanted {
		batches.MaxBatch = 1 // the copies are taken in turn
	}
	for len(instances) < parallel && copies == 1 {
		instances = append(instances, first)
	}
	if b.r.Places != nil {
		batches.Places = b.r.Places
	}
	batches.Priority = serving.PriorityOf
	batches.Logger = b.r.Logger.With("model", b.f.name, "version", strconv.FormatInt(b.version, 10))
	n.Model, n.Scheduled = batching.New(instances, batches), true
	return runner.NewNetwork(n), nil
}

// batchable decides on batches that the configuration does not speak of: whether the first dimension is one of requests
// is not in the model file, so it is tried.
func (b *opening) batchable(ctx context.Context, m inference.Model) error {
	if !b.done.MaxBatchSize {
		return nil
	}
	verdict := invented.Rows(ctx, m)
	logger := b.r.Logger.With("model", b.f.name, "version", strconv.FormatInt(b.version, 10))
	switch verdict {
	case invented.Apart:
		logger.Info("requests are joined to batches, since the model's first dimension is one; say max_batch_size to choose how many", "max_batch_size", b.config.MaxBatchSize)
	case invented.Unknown:
		logger.Info("requests are not joined to batches, since the model could not be tried with invented data; say dynamic_batching to join them")
		if b.done.DynamicBatching {
			b.config.DynamicBatching = nil
		}
	case invented.Mixed:
		logger.Info("requests are not joined to batches, since rows of the model's first dimension depend on each other")
		c, err := b.r.read(b.f, b.r.model(b.f.name).override, false)
		if err != nil {
			return err
		}
		c.MaxBatchSaid = true
		if _, err := c.Complete(b.graph); err != nil {
			return err
		}
		*b.config = *c
		b.done = triton.Completed{}
	}
	return nil
}

// modelFile finds the file of a version. Links are the operator's to make, for a version or for its file.
func (r *Repository) modelFile(f *folder, v int64, c *triton.Config) (file string, err error) {
	name := strconv.FormatInt(v, 10)
	dir, err := filepath.EvalSymlinks(filepath.Join(f.dir, name))
	if err != nil {
		return "", fmt.Errorf("cannot open the folder %s: %w", name, err)
	}
	file = filepath.Join(dir, filepath.FromSlash(c.DefaultFile))
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("the folder %s has no file %s", name, c.DefaultFile)
	case err != nil:
		return "", fmt.Errorf("cannot open %s/%s: %w", name, c.DefaultFile, err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s/%s is no regular file", name, c.DefaultFile)
	}
	return file, nil
}

// readLabels reads the label files of a model.
func readLabels(dir string, c *triton.Config) (map[string][]string, error) {
	var out map[string][]string
	for i := range c.Outputs {
		o := &c.Outputs[i]
		if o.LabelFilename == "" {
			continue
		}
		data, err := readFile(filepath.Join(dir, filepath.FromSlash(o.LabelFilename)), bundle.MaxLabelsBytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read the labels %s of output %q: %w", o.LabelFilename, o.Name, err)
		}
		lines := strings.Split(strings.TrimSuffix(strings.ToValidUTF8(string(data), "\ufffd"), "\n"), "\n")
		for j := range lines {
			lines[j] = strings.TrimSuffix(lines[j], "\r")
		}
		if out == nil {
			out = map[string][]string{}
		}
		out[o.Name] = lines
	}
	return out, nil
}
