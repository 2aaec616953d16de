package resource

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// The kinds of resources.
const (
	KindRegion  = "Region"
	KindSite    = "Site"
	KindModel   = "Model"
	KindRollout = "Rollout"
	KindNode    = "Node"
)

// Kind says what a kind is called.
type Kind struct {
	// Name is what a document's kind says, Plural what a list is asked for by, Short what may be typed instead.
	Name, Plural, Short string
	// Applied kinds are declared by operators; the others are reported.
	Applied bool

	body protoreflect.Name // the field of fleetv1.Resource
}

// kinds is in the order in which resources depend on each other: what comes first may be named by what comes later.
var kinds = []Kind{
	{Name: KindRegion, Plural: "regions", Short: "rg", Applied: true, body: "region"},
	{Name: KindSite, Plural: "sites", Short: "st", Applied: true, body: "site"},
	{Name: KindModel, Plural: "models", Short: "md", Applied: true, body: "model"},
	{Name: KindRollout, Plural: "rollouts", Short: "ro", Applied: true, body: "rollout"},
	{Name: KindNode, Plural: "nodes", Short: "no", body: "node"},
}

// Kinds returns all kinds, those that others refer to first.
func Kinds() []Kind { return slices.Clone(kinds) }

// KindNamed finds a kind by its name, plural or short name, in any case. The error names the nearest.
func KindNamed(s string) (Kind, error) {
	var known []string
	for _, k := range kinds {
		for _, name := range []string{k.Name, k.Plural, k.Short} {
			if strings.EqualFold(s, name) {
				return k, nil
			}
		}
		known = append(known, strings.ToLower(k.Name), k.Plural)
	}
	if near := nearest(strings.ToLower(s), known); near != "" {
		return Kind{}, fmt.Errorf("there is no kind %q: did you mean %s?", clip(s), near)
	}
	return Kind{}, fmt.Errorf("there is no kind %q: the kinds are %s", clip(s), kindNames(func(Kind) bool { return true }))
}

// exactKind finds a kind as a document or a request must write it.
func exactKind(s string) (Kind, bool) {
	for _, k := range kinds {
		if k.Name == s {
			return k, true
		}
	}
	return Kind{}, false
}

func kindNames(want func(Kind) bool) string {
	var names []string
	for _, k := range kinds {
		if want(k) {
			names = append(names, k.Name)
		}
	}
	return strings.Join(names, ", ")
}

// New returns an empty resource of a kind, or nil when there is no such kind.
func New(kind, name string) *fleetv1.Resource {
	k, ok := exactKind(kind)
	if !ok {
		return nil
	}
	r := &fleetv1.Resource{Kind: kind, Metadata: &fleetv1.Metadata{Name: name}}
	m := r.ProtoReflect()
	body := m.Mutable(m.Descriptor().Fields().ByName(k.body)).Message()
	body.Mutable(body.Descriptor().Fields().ByName("spec"))
	return r
}

// Declared returns a copy of r with only what an operator declares: kind, name, labels, spec and the resource version
// that makes an apply conditional. Status and what the manager sets are left out. The spec is shared with r.
func Declared(r *fleetv1.Resource) *fleetv1.Resource {
	out := &fleetv1.Resource{Kind: r.GetKind(), Metadata: &fleetv1.Metadata{
		Name: r.GetMetadata().GetName(), ResourceVersion: r.GetMetadata().GetResourceVersion(),
	}}
	if labels := r.GetMetadata().GetLabels(); len(labels) > 0 {
		out.Metadata.Labels = make(map[string]string, len(labels))
		for k, v := range labels {
			out.Metadata.Labels[k] = v
		}
	}
	switch body := r.GetBody().(type) {
	case *fleetv1.Resource_Region:
		out.Body = &fleetv1.Resource_Region{Region: &fleetv1.Region{Spec: orNew(body.Region.GetSpec())}}
	case *fleetv1.Resource_Site:
		out.Body = &fleetv1.Resource_Site{Site: &fleetv1.Site{Spec: orNew(body.Site.GetSpec())}}
	case *fleetv1.Resource_Model:
		out.Body = &fleetv1.Resource_Model{Model: &fleetv1.Model{Spec: orNew(body.Model.GetSpec())}}
	case *fleetv1.Resource_Rollout:
		out.Body = &fleetv1.Resource_Rollout{Rollout: &fleetv1.Rollout{Spec: orNew(body.Rollout.GetSpec())}}
	case *fleetv1.Resource_Node:
		out.Body = &fleetv1.Resource_Node{Node: &fleetv1.Node{Spec: orNew(body.Node.GetSpec())}}
	}
	return out
}

func orNew[T any](v *T) *T {
	if v == nil {
		return new(T)
	}
	return v
}

// bodyKind returns the kind that r's body is of, or "" without a body.
func bodyKind(r *fleetv1.Resource) string {
	m := r.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("body"))
	if field == nil {
		return ""
	}
	for _, k := range kinds {
		if k.body == field.Name() {
			return k.Name
		}
	}
	return ""
}

// Region returns the region a resource belongs to: a site's, a node's, or "" for kinds that have no place.
func Region(r *fleetv1.Resource) string {
	switch body := r.GetBody().(type) {
	case *fleetv1.Resource_Site:
		return body.Site.GetSpec().GetRegion()
	case *fleetv1.Resource_Node:
		return body.Node.GetStatus().GetRegion()
	}
	return ""
}

// Matches reports whether r carries every pair of selector among its labels. "region" and "site" are matched with the
// place of a site or node instead.
func Matches(r *fleetv1.Resource, selector map[string]string) bool {
	for key, want := range selector {
		have, ok := r.GetMetadata().GetLabels()[key]
		switch {
		case key == "region":
			have = Region(r)
		case key == "site" && r.GetNode() != nil:
			have = r.GetNode().GetStatus().GetSite()
		case key == "site" && r.GetSite() != nil:
			have = r.GetMetadata().GetName()
		case !ok:
			return false
		}
		if have != want {
			return false
		}
	}
	return true
}

// Merge returns what existing becomes when declared is applied to it: labels and spec of declared, all else of
// existing. existing may be nil. Neither is changed, and the result shares parts of both.
func Merge(existing, declared *fleetv1.Resource) *fleetv1.Resource {
	out := Declared(declared)
	if existing == nil {
		return out
	}
	m := existing.GetMetadata()
	out.Metadata.Generation, out.Metadata.ResourceVersion = m.GetGeneration(), m.GetResourceVersion()
	out.Metadata.CreatedAt, out.Metadata.UpdatedAt = m.GetCreatedAt(), m.GetUpdatedAt()
	switch body := out.GetBody().(type) {
	case *fleetv1.Resource_Region:
		body.Region.Status = existing.GetRegion().GetStatus()
	case *fleetv1.Resource_Site:
		body.Site.Status = existing.GetSite().GetStatus()
	case *fleetv1.Resource_Model:
		body.Model.Status = existing.GetModel().GetStatus()
	case *fleetv1.Resource_Rollout:
		body.Rollout.Status = existing.GetRollout().GetStatus()
	case *fleetv1.Resource_Node:
		body.Node.Status = existing.GetNode().GetStatus()
	}
	return out
}

// SameDeclaration reports whether applying b would leave a as it is.
func SameDeclaration(a, b *fleetv1.Resource) bool {
	x, y := Declared(a), Declared(b)
	x.Metadata.ResourceVersion, y.Metadata.ResourceVersion = 0, 0
	return proto.Equal(x, y)
}
