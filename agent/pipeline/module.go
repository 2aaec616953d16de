package pipeline

import (
	"path/filepath"

	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

// Module is how a step of the bundle in dir is run: its limits, what it asks for, what it may emit.
func Module(dir string, spec *bundle.Spec, s *bundle.Step) host.Options {
	o := host.Options{
		Name:     s.Module,
		Limits:   host.Limits{Memory: s.Memory, Stack: s.Stack, Table: s.Table, Timeout: s.Timeout, Fuel: s.Fuel},
		Grants:   wasi.Grants{Clock: s.Clock, Random: s.Random},
		Counters: spec.Counters,
		Features: spec.Features,
	}
	if s.Keep {
		o.State = host.Keep
	}
	if s.Files != "" {
		o.Grants.Files = filepath.Join(dir, filepath.FromSlash(s.Files))
	}
	return o
}
