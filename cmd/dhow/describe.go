package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/resource"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

func (a *app) newDescribe() *cobra.Command {
	return &cobra.Command{
		Use:   "describe KIND NAME",
		Short: "Tell all about one resource and what belongs to it",
		Long: "Tell all about one resource and what belongs to it: of a node its hardware, model copies, warnings with what to do,\n" +
			"connection, certificate and totals; of a rollout how each of its nodes stands.\n\n" + kindsHelp,
		Args: wantArgs(true, "KIND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := newQuery(args, "")
			if err != nil {
				return err
			}
			if len(q.names) != 1 {
				return usagef("dhow describe takes a kind and one name; usage: %s", cmd.UseLine())
			}
			return a.withClient(func(c *client.Client) error { return a.describe(cmd.Context(), c, q.kind.Name, q.names[0]) })
		},
	}
}

func (a *app) describe(ctx context.Context, c *client.Client, kind, name string) error {
	r, err := a.get(ctx, c, kind, name)
	if err != nil {
		return err
	}
	d := &description{out: a.out}
	m := r.GetMetadata()
	d.field("Name", m.GetName())
	d.field("Kind", r.GetKind())
	d.field("Labels", labels(m.GetLabels()))
	d.field("Created", a.when(m))
	switch kind {
	case resource.KindRegion:
		return a.describeRegion(ctx, c, d, r)
	case resource.KindSite:
		return a.describeSite(ctx, c, d, r)
	case resource.KindModel:
		return a.describeModel(ctx, c, d, r)
	case resource.KindRollout:
		return a.describeRollout(ctx, c, d, r)
	}
	return a.describeNode(ctx, c, d, r)
}

func (a *app) when(m *fleetv1.Metadata) string {
	s := moment(m.GetCreatedAt())
	if m.GetGeneration() > 1 {
		s += fmt.Sprintf(", changed %d times since", m.GetGeneration()-1)
	}
	return s
}

// description prints fields and the tables of sections below them.
type description struct{ out io.Writer }

// field prints a line; an empty value prints nothing.
func (d *description) field(name, value string) {
	if value != "" {
		fmt.Fprintf(d.out, "%-15s %s\n", name+":", printable(value))
	}
}

func (d *description) section(title string) { fmt.Fprintf(d.out, "\n%s\n", title) }

// note prints a sentence in place of an empty table.
func (d *description) note(format string, args ...any) {
	fmt.Fprintf(d.out, "  %s\n", printable(fmt.Sprintf(format, args...)))
}

// table returns a table that is indented under its section.
func (d *description) table(header ...string) *table {
	return newTable(&indented{out: d.out}, header...)
}

// indented puts two spaces before each line; it is written whole lines.
type indented struct{ out io.Writer }

func (i *indented) Write(p []byte) (int, error) {
	if _, err := io.WriteString(i.out, "  "); err != nil {
		return 0, err
	}
	return i.out.Write(p)
}

func labels(m map[string]string) string {
	pairs := make([]string, 0, len(m))
	for _, k := range sortedKeys(m) {
		pairs = append(pairs, k+"="+m[k])
	}
	return strings.Join(pairs, ", ")
}

// inner prints the table of what belongs to a resource.
func (a *app) inner(d *description, kind string, list []*fleetv1.Resource, none string) {
	if len(list) == 0 {
		d.note("%s", none)
		return
	}
	columns := columnsOf(kind, false)
	t := d.table(columns.header()...)
	for _, r := range list {
		t.row(columns.cells(a, r)...)
	}
	t.flush()
}

func (a *app) describeRegion(ctx context.Context, c *client.Client, d *description, r *fleetv1.Resource) error {
	spec := r.GetRegion().GetSpec()
	d.field("Jurisdiction", spec.GetJurisdiction())
	d.field("May leave", firstOf(strings.Join(spec.GetEgress(), ", "), "nothing but control messages"))
	list, err := a.list(ctx, c, resource.KindSite, map[string]string{"region": r.GetMetadata().GetName()})
	if err != nil {
		return err
	}
	d.section("Sites")
	a.inner(d, resource.KindSite, list.GetResources(), "none yet")
	return nil
}

func (a *app) describeSite(ctx context.Context, c *client.Client, d *description, r *fleetv1.Resource) error {
	spec := r.GetSite().GetSpec()
	d.field("Region", spec.GetRegion())
	if spec.Latitude != nil {
		d.field("Place", degrees(spec.Latitude)+", "+degrees(spec.Longitude))
	}
	name := r.GetMetadata().GetName()
	list, err := a.list(ctx, c, resource.KindNode, map[string]string{"site": name})
	if err != nil {
		return err
	}
	d.section("Nodes")
	a.inner(d, resource.KindNode, list.GetResources(), fmt.Sprintf("none yet; invite one with dhow node invite --region %s --site %s", spec.GetRegion(), name))
	return nil
}

func (a *app) describeModel(ctx context.Context, c *client.Client, d *description, r *fleetv1.Resource) error {
	d.field("Description", r.GetModel().GetSpec().GetDescription())
	d.section("Versions")
	if versions := r.GetModel().GetStatus().GetVersions(); len(versions) == 0 {
		d.note("none yet; push one with dhow model push DIR")
	} else {
		t := d.table("VERSION", "SIZE", "PUSHED", "DIGEST")
		for _, v := range versions {
			t.row(v.GetVersion(), size(v.GetSizeBytes()), moment(v.GetPushedAt()), v.GetManifestDigest())
		}
		t.flush()
	}
	list, err := a.list(ctx, c, resource.KindRollout, nil)
	if err != nil {
		return err
	}
	var rollouts []*fleetv1.Resource
	for _, o := range list.GetResources() {
		if o.GetRollout().GetSpec().GetModel() == r.GetMetadata().GetName() {
			rollouts = append(rollouts, o)
		}
	}
	d.section("Rollouts")
	a.inner(d, resource.KindRollout, rollouts, "none yet")
	return nil
}

func (a *app) totals(ctx context.Context, c *client.Client, req *fleetv1.GetTotalsRequest) ([]*fleetv1.NodeTotals, error) {
	ctx, cancel := a.call(ctx)
	defer cancel()
	resp, err := c.GetTotals(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, c.Explain(err)
	}
	return resp.Msg.GetTotals(), nil
}
