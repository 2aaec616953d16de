package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/resource"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// maxProblems bounds the sentences of one answer.
const maxProblems = 20

// The actions of an apply.
const (
	Created    = "created"
	Configured = "configured"
	Unchanged  = "unchanged"
	Pruned     = "pruned"
)

// Apply creates, changes and prunes resources, all or none. A dry run says what would happen and changes nothing.
func (s *Service) Apply(ctx context.Context, req *connect.Request[fleetv1.ApplyRequest]) (*connect.Response[fleetv1.ApplyResponse], error) {
	if err := checkRequest(req.Msg); err != nil {
		return nil, err
	}
	s.applying.Lock()
	defer s.applying.Unlock()

	world, err := s.world(ctx, needsNodes(req.Msg))
	if err != nil {
		return nil, s.fail(ctx, "read what exists", err)
	}
	p, err := plan(world, req.Msg)
	if err != nil {
		return nil, err
	}
	if !req.Msg.GetDryRun() && len(p.changes) > 0 {
		after, err := s.Resources.Apply(ctx, p.changes)
		if err != nil {
			return nil, s.fail(ctx, "store the change", err)
		}
		for i, result := range p.stored {
			if result.Action != Pruned {
				result.After = after[i]
			}
		}
		s.logApplied(ctx, p.results)
	}
	return connect.NewResponse(&fleetv1.ApplyResponse{Results: p.results}), nil
}

// checkRequest checks what needs no knowledge of the fleet.
func checkRequest(req *fleetv1.ApplyRequest) error {
	if n := len(req.GetResources()); n > resource.MaxDocuments {
		return invalid("%d resources are more than the %d that are applied at once", n, resource.MaxDocuments)
	}
	var problems []string
	seen := map[store.Key]bool{}
	for i, r := range req.GetResources() {
		key := keyOf(r)
		title := title(key)
		if key.Name == "" {
			title = fmt.Sprintf("resource %d (%s)", i+1, key.Kind)
		}
		for _, p := range resource.Validate(r) {
			problems = append(problems, title+": "+p.Error())
		}
		if seen[key] && key.Name != "" {
			problems = append(problems, title+": it is here a second time")
		}
		seen[key] = true
	}
	for _, kind := range req.GetPruneKinds() {
		k, err := resource.KindNamed(kind)
		if err != nil || k.Name != kind || !k.Applied {
			problems = append(problems, fmt.Sprintf("resources of kind %q cannot be pruned", kind))
		}
	}
	if len(problems) == 0 && len(req.GetResources()) == 0 && len(req.GetPruneKinds()) == 0 {
		problems = append(problems, "there is nothing to apply")
	}
	if len(problems) > 0 {
		return connect.NewError(connect.CodeInvalidArgument, joined(problems))
	}
	return nil
}

func joined(problems []string) error {
	if n := len(problems); n > maxProblems {
		problems = append(problems[:maxProblems:maxProblems], fmt.Sprintf("and %d more problems", n-maxProblems))
	}
	return errors.New(strings.Join(problems, "\n"))
}

// needsNodes reports whether an apply can touch what nodes hold on to. Reading all of them is the dear part.
func needsNodes(req *fleetv1.ApplyRequest) bool {
	for _, r := range req.GetResources() {
		if r.GetKind() == resource.KindSite {
			return true
		}
	}
	return slices.Contains(req.GetPruneKinds(), resource.KindSite) || slices.Contains(req.GetPruneKinds(), resource.KindRegion)
}

func (s *Service) world(ctx context.Context, nodes bool) (*resource.World, error) {
	world := resource.NewWorld()
	for _, kind := range resource.Kinds() {
		if kind.Name == resource.KindNode && !nodes {
			continue
		}
		list, _, err := s.Resources.List(ctx, kind.Name)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			world.Put(r)
		}
	}
	return world, nil
}

// planned is what an apply comes to.
type planned struct {
	results []*fleetv1.ApplyResult
	changes []store.Change
	stored  []*fleetv1.ApplyResult // the results that changes make, in the same order
}

func (p *planned) add(result *fleetv1.ApplyResult, change *store.Change) {
	p.results = append(p.results, result)
	if change != nil {
		p.changes = append(p.changes, *change)
		p.stored = append(p.stored, result)
	}
}

// plan decides what an apply comes to, or why it is refused. world becomes what it would be after it.
func plan(world *resource.World, req *fleetv1.ApplyRequest) (*planned, error) {
	var p planned
	if err := preconditions(world, req.GetResources()); err != nil {
		return nil, err
	}
	applied := map[store.Key]bool{}
	for _, r := range req.GetResources() {
		key := keyOf(r)
		applied[key] = true
		before := world.Get(key.Kind, key.Name)
		after := resource.Merge(before, r)
		result := &fleetv1.ApplyResult{Kind: key.Kind, Name: key.Name, Action: Configured, Before: before, After: after}
		switch {
		case before == nil:
			result.Action = Created
		case resource.SameDeclaration(before, r):
			result.Action = Unchanged
		}
		change := &store.Change{Put: resource.Declared(r), IfVersion: r.GetMetadata().GetResourceVersion()}
		if result.Action == Unchanged {
			change = nil
		}
		p.add(result, change)
		world.Put(after)
	}
	var gone []store.Key
	// What refers to others goes before what it refers to.
	kinds := resource.Kinds()
	slices.Reverse(kinds)
	for _, kind := range kinds {
		if !slices.Contains(req.GetPruneKinds(), kind.Name) {
			continue
		}
		for _, name := range world.Names(kind.Name) {
			key := store.Key{Kind: kind.Name, Name: name}
			if applied[key] {
				continue
			}
			before := world.Get(key.Kind, key.Name)
			p.add(&fleetv1.ApplyResult{Kind: key.Kind, Name: key.Name, Action: Pruned, Before: before},
				&store.Change{Delete: &key})
			gone = append(gone, key)
		}
	}
	for _, key := range gone {
		world.Remove(key.Kind, key.Name)
	}
	var problems []string
	for _, r := range req.GetResources() {
		for _, problem := range world.Check(r) {
			problems = append(problems, title(keyOf(r))+": "+problem.Error())
		}
	}
	for _, key := range gone {
		if by := world.Referrers(key.Kind, key.Name); by != "" {
			problems = append(problems, fmt.Sprintf("%s cannot be pruned: it is used by %s", title(key), by))
		}
	}
	if len(problems) > 0 {
		return nil, connect.NewError(connect.CodeFailedPrecondition, joined(problems))
	}
	return &p, nil
}

// preconditions refuses changes that were made from an older state of a resource.
func preconditions(world *resource.World, resources []*fleetv1.Resource) error {
	for _, r := range resources {
		want := r.GetMetadata().GetResourceVersion()
		if want == 0 {
			continue
		}
		have := world.Get(r.GetKind(), r.GetMetadata().GetName())
		switch {
		case have == nil:
			return connect.NewError(connect.CodeAborted, fmt.Errorf("%s: it does not exist (any more), and the file was made from its resource version %d: remove metadata.resourceVersion to create it", title(keyOf(r)), want))
		case have.GetMetadata().GetResourceVersion() != want:
			return connect.NewError(connect.CodeAborted, fmt.Errorf("%s: it has changed since the file was made (resource version %d, by now %d): get it again, or remove metadata.resourceVersion to overwrite it", title(keyOf(r)), want, have.GetMetadata().GetResourceVersion()))
		}
	}
	return nil
}

// Delete removes a resource that nothing refers to.
func (s *Service) Delete(ctx context.Context, req *connect.Request[fleetv1.DeleteRequest]) (*connect.Response[fleetv1.DeleteResponse], error) {
	key := store.Key{Kind: req.Msg.GetKind(), Name: req.Msg.GetName()}
	if err := checkKind(key.Kind); err != nil {
		return nil, err
	}
	s.applying.Lock()
	defer s.applying.Unlock()

	before, err := s.Resources.Get(ctx, key.Kind, key.Name)
	if err != nil {
		return nil, s.fail(ctx, "read "+title(key), err)
	}
	if key.Kind == resource.KindNode && before.GetNode().GetStatus().GetState() == store.NodeActive {
		return nil, refused("cannot delete node %s: it is active, revoke it first with dhow node revoke %s", key.Name, key.Name)
	}
	world, err := s.world(ctx, key.Kind == resource.KindRegion || key.Kind == resource.KindSite)
	if err != nil {
		return nil, s.fail(ctx, "read what exists", err)
	}
	if by := world.Referrers(key.Kind, key.Name); by != "" {
		return nil, refused("cannot delete %s: it is used by %s", title(key), by)
	}
	if _, err := s.Resources.Apply(ctx, []store.Change{{Delete: &key}}); err != nil {
		return nil, s.fail(ctx, "delete "+title(key), err)
	}
	s.Logger.Info("resource deleted", field(key.Kind), key.Name, "operator", operator(ctx))
	return connect.NewResponse(&fleetv1.DeleteResponse{}), nil
}

func keyOf(r *fleetv1.Resource) store.Key {
	return store.Key{Kind: r.GetKind(), Name: r.GetMetadata().GetName()}
}

func title(key store.Key) string { return strings.ToLower(key.Kind) + " " + key.Name }

// field is the name under which logs speak of a resource.
func field(kind string) string { return strings.ToLower(kind) }

func operator(ctx context.Context) string {
	p, _ := access.PrincipalFrom(ctx)
	return p.Name
}

func (s *Service) logApplied(ctx context.Context, results []*fleetv1.ApplyResult) {
	for _, r := range results {
		if r.GetAction() != Unchanged {
			s.Logger.Info("resource "+r.GetAction(), field(r.GetKind()), r.GetName(), "operator", operator(ctx))
		}
	}
}
