package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/memory"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/probe"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/triton"
)

const (
	// budgetParameter of a configuration says what one model may take.
	budgetParameter = "memory_budget_bytes"
	maxBudget       = 1 << 44
	// swell is how many times its files a model may take by itself, unless its configuration says more.
	swell = 8
	// trialWait is how long a model may take to load in the trial, beside whatever else the machine does.
	trialWait = 5 * time.Minute
)

// door lets models in: first by what their files say they need, then by what they take in a process of their own.
type door struct {
	account *memory.Account
	library string   // path of ONNX Runtime
	command []string // starts the trial's process; empty: this program with the argument "probe"
	trial   bool
	log     *slog.Logger
}

// admit implements modelrepository.Config's Admit. WASM modules are held to their limits by their own runtime. What runs
// on a GPU is not tried, since the trial has no way to bound what a driver takes.
func (d *door) admit(ctx context.Context, c *modelrepository.Candidate) (func(), error) {
	if c.Graph == nil {
		return nil, nil
	}
	budget, err := budgetOf(c.Config, c.Graph)
	if err != nil {
		return nil, err
	}
	copies := int64(max(c.Instances, 1))
	version := strconv.FormatInt(c.Version, 10)
	need := memory.Of(c.Graph, c.Instances)
	room := max(d.account.Room(), need)
	grant, err := d.account.Admit(c.Model, version, admission.Need{Estimate: need}, budget*copies)
	if err != nil {
		return nil, advised(err)
	}
	if !d.trial || c.Options.Provider != "" {
		return grant.Release, nil
	}
	r, err := probe.Run(ctx, probe.Request{
		Model: c.File, Rows: c.Rows, Threads: c.Options.Threads, MemoryBytes: min(budget, room) + graph.ProcessBytes, Wall: trialWait,
		Library: d.library, Command: d.command,
	})
	if err != nil {
		grant.Release()
		return nil, err
	}
	told := d.log.With("model", c.Model, "version", version, "load_ms", r.LoadMillis, "peak_bytes", r.PeakBytes)
	if !r.OK {
		grant.Release()
		told.Warn("a model was tried and is kept out", "reason", r.Reason, "message", r.Message, "detail", r.Detail)
		return nil, failed(&r)
	}
	told.Info("a model was tried", "held_bytes", r.HeldBytes)
	held := r.HeldBytes * copies
	if held <= need {
		grant.Measured(held)
		return grant.Release, nil
	}
	// It takes more than its file said, which may be more than there is.
	grant.Release()
	if grant, err = d.account.Admit(c.Model, version, admission.Need{Estimate: held}, budget*copies); err != nil {
		return nil, advised(err)
	}
	return grant.Release, nil
}

// budgetOf is what one copy of a model may take: what its configuration says, otherwise some times its files, and beside
// them the values that it computes. A small file that makes gigabytes of nothing is the doing of somebody who means
// harm, or of a mistake.
func budgetOf(c *triton.Config, g *graph.Graph) (int64, error) {
	if s := c.Parameter(budgetParameter); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n <= 0 || n > maxBudget {
			return 0, fmt.Errorf("parameter %s %q is no number of bytes from 1 to %d", budgetParameter, s, int64(maxBudget))
		}
		return n, nil
	}
	const most = maxBudget / 32
	files := int64(min(g.ExternalBytes, most)) + min(g.FileBytes, most)
	return max(swell*files, bundle.DefaultMemory) + 2*int64(min(g.LargestValueBytes, most)), nil
}

const advice = "if it is to be trusted, give it more by the parameter " + budgetParameter + " in its config.pbtxt"

// advised names the place where a model's budget is raised.
func advised(err error) error {
	if refused, ok := errors.AsType[*admission.Refused](err); ok && refused.Code == "memory-model" {
		refused.Remedy = advice
	}
	return err
}

func failed(r *probe.Result) error {
	if r.Reason == probe.MemoryLimit {
		return fmt.Errorf("%s: it was tried in a process of its own, and %s; %s", r.Reason, r.Message, advice)
	}
	return fmt.Errorf("%s: it was tried in a process of its own: %s", r.Reason, r.Message)
}
