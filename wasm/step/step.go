// Package step says how a WASM module is run that a bundle names: it turns what bundle.yaml says of a module into
// options of package host. It is pure, and the one place where the two meet, so that a module is checked, tried and
// served under the same bounds.
package step

import (
	"path/filepath"

	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/payload"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

var formats = map[bundle.ModuleFormat]payload.Format{
	bundle.FormatTensors: payload.Tensors, bundle.FormatRaw: payload.Raw, bundle.FormatJSON: payload.JSON,
}

// Options are how a step of the bundle in dir is run: its limits, what it asks for, what it may emit.
func Options(dir string, spec *bundle.Spec, s *bundle.Step) host.Options {
	o := host.Options{
		Name:     s.Module,
		Limits:   host.Limits{Memory: s.Memory, Stack: s.Stack, Table: s.Table, Timeout: s.Timeout, Fuel: s.Fuel},
		Grants:   wasi.Grants{Clock: s.Clock, Random: s.Random},
		Counters: spec.Counters,
		Features: spec.Features,
	}
	switch s.Kind {
	case bundle.KindExtism:
		o.Kind, o.Function, o.Format = host.Extism, s.Function, formats[s.Format]
	case bundle.KindCommand:
		o.Kind, o.Format = host.Command, formats[s.Format]
	}
	if s.Keep {
		o.State = host.Keep
	}
	if s.Files != "" {
		o.Grants.Files = filepath.Join(dir, filepath.FromSlash(s.Files))
	}
	return o
}
