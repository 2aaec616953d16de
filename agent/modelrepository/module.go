package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/agent/modelrepository/runner"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/triton"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Bounds of what a WASM module's parameters can ask for.
const (
	maxModuleMemory  = 4 << 30
	maxModuleTimeout = 10 * time.Minute
)

// openModule opens a version that is a WASM module. Its parameters "timeout", such as "200ms", and "memory_bytes" are
// the limits of one call; "configuration" is a file in the model's folder that the module is handed at its start;
// "counters" and "features" list, with commas, the names of what it may emit.
func (r *Repository) openModule(ctx context.Context, f *folder, v int64, c *triton.Config) (l loaded, err error) {
	if r.Wasm == nil {
		return l, errors.New("this server has no WASM runtime")
	}
	if err := c.Validate(); err != nil {
		return l, err
	}
	o := host.Options{
		Name: c.DefaultFile, Instances: c.Instances(), Counters: names(c, "counters"), Features: names(c, "features"),
		Logger: r.Logger.With("model", f.name, "version", strconv.FormatInt(v, 10)),
	}
	if o.Limits, err = moduleLimits(c); err != nil {
		return l, err
	}
	if name := c.Parameter("configuration"); name != "" {
		if !fs.ValidPath(name) {
			return l, fmt.Errorf("parameter configuration %q is no file in the model's folder", name)
		}
		if o.Configuration, err = readFile(filepath.Join(f.dir, filepath.FromSlash(name)), bundle.MaxLabelsBytes); err != nil {
			return l, fmt.Errorf("cannot read the configuration %s: %w", name, err)
		}
	}
	file, err := r.modelFile(f, v, c)
	if err != nil {
		return l, err
	}
	code, err := readFile(file, bundle.MaxModuleBytes)
	if err != nil {
		return l, fmt.Errorf("%s: %w", c.DefaultFile, err)
	}
	release, err := r.admitted(ctx, &Candidate{Model: f.name, Version: v, File: file, Config: c, Instances: max(c.Instances(), 1)})
	if err != nil {
		return l, err
	}
	compiled, err := r.Wasm.Compile(ctx, code, o)
	if err != nil {
		release()
		return l, fmt.Errorf("%s: %w", c.DefaultFile, err)
	}
	return loaded{runner: runner.NewModule(compiled, c, release), limit: c.Instances()}, nil
}

// names reads a parameter that lists names.
func names(c *triton.Config, parameter string) []string {
	return strings.FieldsFunc(c.Parameter(parameter), func(r rune) bool { return r == ',' || r == ' ' })
}

func moduleLimits(c *triton.Config) (host.Limits, error) {
	var l host.Limits
	var err error
	if s := c.Parameter("timeout"); s != "" {
		if l.Timeout, err = time.ParseDuration(s); err != nil || l.Timeout <= 0 || l.Timeout > maxModuleTimeout {
			return l, fmt.Errorf("parameter timeout %q is no time of at most %v, such as \"200ms\"", s, maxModuleTimeout)
		}
	}
	if s := c.Parameter("memory_bytes"); s != "" {
		if l.Memory, err = strconv.ParseInt(s, 10, 64); err != nil || l.Memory <= 0 || l.Memory > maxModuleMemory {
			return l, fmt.Errorf("parameter memory_bytes %q is no number from 1 to %d", s, int64(maxModuleMemory))
		}
	}
	return l, nil
}
