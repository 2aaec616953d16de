// Package memory keeps account of the memory that models take, and lets in what fits.
//
// What a model needs goes in, a Grant or a refusal with its numbers comes out (agent/admission has the rules). A Grant
// counts until it is released, which is when the model has been closed: while one version takes another's place, both
// count. What is granted is corrected once it was measured. What served before is noted without being asked for, since
// a model must not end with a restart; it then keeps others out.
//
// An Account is safe for concurrent use and decides one at a time. It reads the machine's memory at every decision,
// which is a few files of /proc and /sys; nothing else blocks.
package memory

import (
	"math"
	"slices"
	"sync"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/hardware"
	"github.com/dhowfleet/dhow/models/graph"
)

// The memory that is left to everything that is no model: a sixteenth, within bounds.
const (
	leastReserve = 64 << 20
	mostReserve  = 1 << 30
)

// Options of an Account.
type Options struct {
	Total int64 // bytes that all models may take together; 0: what the machine can spare
	// Machine says what there is; nil: this machine, or the container's part of it.
	Machine func() admission.Machine
}

// Account is what the models of one process take.
type Account struct {
	options Options

	mu     sync.Mutex // guards below, and a Grant's bytes
	grants []*Grant
}

// Grant is what one loaded model takes.
type Grant struct {
	account        *Account
	model, version string
	bytes          int64
}

// New makes an account without models.
func New(o Options) *Account {
	if o.Machine == nil {
		o.Machine = func() admission.Machine {
			total, available := hardware.Memory("")
			return admission.Machine{Memory: total, Available: available}
		}
	}
	return &Account{options: o}
}

// Of is what a model by itself needs, in as many copies, from its file. What a process has once, whatever the number of
// its models, is not the model's: it is part of the reserve.
func Of(g *graph.Graph, copies int) int64 {
	one := min(int64(min(g.MemoryEstimate(), math.MaxInt64)), math.MaxInt64/int64(max(copies, 1))) - graph.ProcessBytes
	return max(one, 0) * int64(max(copies, 1))
}

// Admit grants a model what it needs. budget bounds this one model, 0 does not. The error is an *admission.Refused.
func (a *Account) Admit(model, version string, need admission.Need, budget int64) (*Grant, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.decide(model, version, need, budget); err != nil {
		return nil, err
	}
	return a.note(model, version, need.Bytes()), nil
}

// Check says whether Admit would grant it, and grants nothing.
func (a *Account) Check(model, version string, need admission.Need, budget int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.decide(model, version, need, budget)
}

// Note counts a model without asking whether it fits.
func (a *Account) Note(model, version string, need admission.Need) *Grant {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.note(model, version, need.Bytes())
}

func (a *Account) note(model, version string, bytes int64) *Grant {
	g := &Grant{account: a, model: model, version: version, bytes: bytes}
	a.grants = append(a.grants, g)
	return g
}

func (a *Account) decide(model, version string, need admission.Need, budget int64) error {
	m := a.options.Machine()
	loaded := make([]admission.Loaded, 0, len(a.grants))
	for _, g := range a.grants {
		loaded = append(loaded, admission.Loaded{Name: g.model, Version: g.version, Bytes: g.bytes})
	}
	return admission.Decide(admission.Budgets{Model: budget, Total: a.options.Total, Reserve: reserve(m)}, m, loaded, model, version, need)
}

// Room is the most that a model could be granted now; it is never more than a petabyte.
func (a *Account) Room() int64 {
	m := a.options.Machine()
	a.mu.Lock()
	defer a.mu.Unlock()
	var taken int64
	for _, g := range a.grants {
		taken += g.bytes
	}
	room := int64(1 << 50)
	if a.options.Total > 0 {
		room = min(room, a.options.Total-taken)
	}
	if m.Memory > 0 {
		room = min(room, m.Memory-reserve(m)-taken)
	}
	if m.Available > 0 {
		room = min(room, m.Available-reserve(m))
	}
	return max(room, 0)
}

func reserve(m admission.Machine) int64 { return min(max(m.Memory/16, leastReserve), mostReserve) }

// Bytes is what a version takes, 0 where it is not loaded; while it is loaded anew, it is loaded twice.
func (a *Account) Bytes(model, version string) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var n int64
	for _, g := range a.grants {
		if g.model == model && g.version == version {
			n += g.bytes
		}
	}
	return n
}

// Measured corrects a grant to what the model was found to take.
func (g *Grant) Measured(bytes int64) {
	g.account.mu.Lock()
	defer g.account.mu.Unlock()
	g.bytes = max(bytes, 0)
}

// Release gives a grant back; a second time does no harm.
func (g *Grant) Release() {
	g.account.mu.Lock()
	defer g.account.mu.Unlock()
	g.account.grants = slices.DeleteFunc(g.account.grants, func(o *Grant) bool { return o == g })
}
