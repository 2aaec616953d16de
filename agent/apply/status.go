package apply

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dhowfleet/dhow/agent/deploy"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// Status returns the state of every copy as the manager and the status page see it.
func (r *Reconciler) Status() []*syncv1.CopyStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*syncv1.CopyStatus, 0, len(r.copies))
	for _, e := range r.copies {
		if e.deleted {
			continue
		}
		s := &syncv1.CopyStatus{
			Model: e.Model, Version: e.Version, ManifestDigest: e.Digest, State: r.shown(e),
			Reason: e.Reason, Message: e.Message, Since: timestamppb.New(e.Since), Retry: e.Retry,
			BytesDone: uint64(e.done),
		}
		for _, f := range e.files {
			s.BytesTotal += uint64(f.Size)
		}
		if e.Loaded {
			s.ExecutionProvider = e.provider
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *syncv1.CopyStatus) int {
		return cmp.Or(cmp.Compare(a.GetModel(), b.GetModel()), cmp.Compare(a.GetVersion(), b.GetVersion()), cmp.Compare(a.GetManifestDigest(), b.GetManifestDigest()))
	})
	return out
}

// shown is the state as seen from outside: a copy serves when requests are answered by it, whatever becomes of its
// files meanwhile, and does not while it is being loaded after a start.
func (r *Reconciler) shown(e *entry) deploy.State {
	answers := e.Loaded && slices.ContainsFunc(r.routes[e.Model], func(t deploy.Route) bool { return t.Key == e.Key })
	switch {
	case answers && e.State != deploy.Failed && e.State != deploy.Draining:
		return deploy.Serving
	case e.Busy == deploy.Drain:
		return deploy.Draining
	case e.State == deploy.Serving:
		return deploy.Ready
	}
	return e.State
}

// stateName is a state as it is written in logs.
func stateName(s deploy.State) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "COPY_STATE_"))
}

func routeText(routes []deploy.Route) string {
	if len(routes) == 0 {
		return "nobody"
	}
	parts := make([]string, 0, len(routes))
	for _, t := range routes {
		parts = append(parts, fmt.Sprintf("%s %s %g%%", t.Version, strings.ToLower(strings.TrimPrefix(t.Role.String(), "ROLE_")), float64(t.Millionths)/1e4))
	}
	return strings.Join(parts, ", ")
}
