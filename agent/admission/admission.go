// Package admission decides whether a model may be loaded, by the memory that it takes.
//
// What goes in is what is known: the budgets that the operator gave, the machine's memory, what is loaded, and what the
// model needs, estimated from its file or measured by the probe. What comes out is yes, or a sentence with the numbers
// and a remedy. Both versions of a model count while one takes the other's place, since both are in memory then.
//
// The package is pure: whoever asks reads the machine, keeps the list of what is loaded, and decides one at a time.
package admission

import (
	"fmt"
	"math"

	"github.com/dhowfleet/dhow/models/bundle"
)

// Budgets bound what models take, in bytes; 0 is no bound.
type Budgets struct {
	Model int64 // one model
	Total int64 // all together
	// Reserve is left free of the machine's memory, for everything that is no model.
	Reserve int64
}

// Machine is what there is, in bytes; 0 where it is not known. In a container, Memory is the container's limit.
type Machine struct {
	Memory    int64
	Available int64 // of it, now: what could be taken without swapping
}

// Need is what a model takes, in bytes.
type Need struct {
	Estimate int64 // from the file, before anything ran
	Peak     int64 // measured when it was tried; 0 where it was not
}

// Bytes is what counts: the measured need, otherwise the estimate.
func (n Need) Bytes() int64 {
	if n.Peak > 0 {
		return n.Peak
	}
	return max(n.Estimate, 0)
}

// Loaded is a model in memory, with what it was admitted for.
type Loaded struct {
	Name, Version string
	Bytes         int64
}

// Refused says why a model is not loaded.
type Refused struct {
	Code    string // "memory-model", "memory-total" or "memory-machine"
	Message string
	Remedy  string
	// Lasting is set when it does not fit even where nothing else is loaded, so that waiting does not help.
	Lasting bool
}

func (r *Refused) Error() string { return r.Message + "; " + r.Remedy }

// Decide returns nil when the model may be loaded, and a *Refused otherwise.
func Decide(b Budgets, m Machine, loaded []Loaded, name, version string, need Need) error {
	var taken int64
	for _, l := range loaded {
		taken = add(taken, l.Bytes)
	}
	n := need.Bytes()
	how := "about " + bundle.FormatSize(n)
	if need.Peak > 0 {
		how = bundle.FormatSize(n) + " (measured)"
	}
	head := fmt.Sprintf("model %s version %s needs %s of memory", name, version, how)
	lasting := b.Model > 0 && n > b.Model || b.Total > 0 && n > b.Total || m.Memory > 0 && add(n, b.Reserve) > m.Memory
	refused := func(code, remedy, format string, args ...any) error {
		return &Refused{Code: code, Message: head + ", " + fmt.Sprintf(format, args...), Remedy: remedy, Lasting: lasting}
	}
	all := add(taken, n)
	const (
		raiseOne = "raise the budget for one model, or serve a smaller variant"
		raiseAll = "unload a model, or raise the budget for all (model-memory)"
		machine  = "unload a model, or give the machine (or its container) more memory"
	)
	switch size := bundle.FormatSize; {
	case b.Model > 0 && n > b.Model:
		return refused("memory-model", raiseOne, "one model may take %s", size(b.Model))
	case b.Total > 0 && n > b.Total:
		return refused("memory-total", "raise the budget for all models (model-memory), or serve a smaller variant", "all models together may take %s", size(b.Total))
	case b.Total > 0 && all > b.Total:
		return refused("memory-total", raiseAll, "but %s of the %s for all models are taken by %d others", size(taken), size(b.Total), len(loaded))
	case m.Memory > 0 && add(all, b.Reserve) > m.Memory:
		return refused("memory-machine", machine,
			"but of the machine's %s, %s are taken by %d others and %s are kept free", size(m.Memory), size(taken), len(loaded), size(b.Reserve))
	case m.Available > 0 && add(n, b.Reserve) > m.Available:
		return refused("memory-machine", "end other programs, unload a model, or give the machine more memory",
			"but only %s of the machine's memory are free, of which %s are to stay so", size(m.Available), size(b.Reserve))
	}
	return nil
}

// add is a sum that stays in range; what is below zero counts as nothing.
func add(a, b int64) int64 {
	a, b = max(a, 0), max(b, 0)
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
