package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/agent/modelrepository"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// copiesIndex shows the node's model copies as a model repository. What serves here is for the fleet manager to say, so
// nothing is loaded or unloaded by request.
type copiesIndex struct{ copies func() []*syncv1.CopyStatus }

func (a *Agent) repository() modelrepository.Controller {
	return copiesIndex{a.copies.Status}
}

func (c copiesIndex) Index(_ context.Context, ready bool) ([]modelrepository.Entry, error) {
	var out []modelrepository.Entry
	for _, s := range c.copies() {
		e := modelrepository.Entry{Name: s.GetModel(), Version: s.GetVersion(), State: state(s.GetState()), Reason: s.GetReason()}
		if e.State == modelrepository.Ready {
			e.Reason = ""
		}
		if !ready || e.State == modelrepository.Ready {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b modelrepository.Entry) int {
		if by := strings.Compare(a.Name, b.Name); by != 0 {
			return by
		}
		return strings.Compare(a.Version, b.Version)
	})
	return out, nil
}

// state is what a client can do with a copy in that state.
func state(s syncv1.CopyState) modelrepository.State {
	switch s {
	case syncv1.CopyState_COPY_STATE_SERVING:
		return modelrepository.Ready
	case syncv1.CopyState_COPY_STATE_DRAINING:
		return modelrepository.Unloading
	case syncv1.CopyState_COPY_STATE_FAILED, syncv1.CopyState_COPY_STATE_UNSPECIFIED:
		return modelrepository.Unavailable
	}
	return modelrepository.Loading
}

func (copiesIndex) Load(context.Context, string, map[string]string) error { return errManaged }

func (copiesIndex) Unload(context.Context, string, bool) error { return errManaged }

var errManaged = fmt.Errorf("%w: the models of this node are set by its fleet manager; apply a rollout there", modelrepository.ErrNotControlled)
