package main

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/resource"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

const kindsHelp = `Kinds: region (rg), site (st), model (md), rollout (ro), node (no); plurals and any case will do.`

// outputs are the forms in which resources are printed.
var outputs = []string{"table", "wide", "json", "yaml", "name"}

func (a *app) newGet() *cobra.Command {
	var output, selector string
	var watch bool
	cmd := &cobra.Command{
		Use:   "get KIND [NAME...]",
		Short: "Show resources in a table, as YAML or as JSON",
		Long: "Show resources of a kind.\n\n" + kindsHelp + `
-o yaml prints what dhow apply reads; -o json prints the messages of the operators' protocol, one resource for one name
and a list otherwise. -l selects by labels, and by region=... and site=... for what has a place.`,
		Example: "  dhow get nodes -l region=ae-dubai\n  dhow get rollout fashion-v1 -o yaml\n  dhow get nodes --watch",
		Args:    wantArgs(true, "KIND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := newQuery(args, selector)
			if err != nil {
				return err
			}
			if err := oneOf("output", output, outputs...); err != nil {
				return err
			}
			if watch && len(q.names) > 1 {
				return usagef("dhow get --watch takes one name at most")
			}
			return a.withClient(func(c *client.Client) error {
				if watch {
					return a.watch(cmd.Context(), c, q, output, false)
				}
				return a.runGet(cmd.Context(), c, q, output)
			})
		},
	}
	outputFlag(cmd, &output)
	selectorFlag(cmd, &selector)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on and print every change")
	return cmd
}

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "one of "+strings.Join(outputs, ", "))
}

func selectorFlag(cmd *cobra.Command, selector *string) {
	cmd.Flags().StringVarP(selector, "selector", "l", "", "only what has these labels: key=value,key=value")
}

// query is what an operator asked to see.
type query struct {
	kind     resource.Kind
	names    []string
	selector map[string]string
}

// newQuery reads "KIND [NAME...]"; "kind/name", as -o name prints it, is taken too.
func newQuery(args []string, selector string) (*query, error) {
	kind, name, slash := strings.Cut(args[0], "/")
	k, err := resource.KindNamed(kind)
	if err != nil {
		return nil, usagef("%v", err)
	}
	q := &query{kind: k, names: args[1:]}
	if slash {
		q.names = append([]string{name}, q.names...)
	}
	if q.selector, err = resource.ParseSelector(selector); err != nil {
		return nil, usagef("%v", err)
	}
	if len(q.names) > 0 && len(q.selector) > 0 {
		return nil, usagef("names and a selector cannot both be given")
	}
	return q, nil
}

func (a *app) get(ctx context.Context, c *client.Client, kind, name string) (*fleetv1.Resource, error) {
	ctx, cancel := a.call(ctx)
	defer cancel()
	resp, err := c.Get(ctx, connect.NewRequest(&fleetv1.GetRequest{Kind: kind, Name: name}))
	if err != nil {
		return nil, c.Explain(err)
	}
	return resp.Msg.GetResource(), nil
}

func (a *app) list(ctx context.Context, c *client.Client, kind string, selector map[string]string) (*fleetv1.ListResponse, error) {
	ctx, cancel := a.call(ctx)
	defer cancel()
	resp, err := c.List(ctx, connect.NewRequest(&fleetv1.ListRequest{Kind: kind, Selector: selector}))
	if err != nil {
		return nil, c.Explain(err)
	}
	return resp.Msg, nil
}

func (a *app) runGet(ctx context.Context, c *client.Client, q *query, output string) error {
	list := &fleetv1.ListResponse{}
	if len(q.names) == 0 {
		var err error
		if list, err = a.list(ctx, c, q.kind.Name, q.selector); err != nil {
			return err
		}
	}
	for _, name := range q.names {
		r, err := a.get(ctx, c, q.kind.Name, name)
		if err != nil {
			return err
		}
		list.Resources = append(list.Resources, r)
	}
	return a.print(list, q, output)
}

func (a *app) print(list *fleetv1.ListResponse, q *query, output string) error {
	switch output {
	case "json":
		data, err := resource.JSON(list)
		if len(q.names) == 1 {
			data, err = resource.JSON(list.GetResources()[0])
		}
		if err != nil {
			return err
		}
		_, err = a.out.Write(data)
		return err
	case "yaml":
		data, err := resource.YAML(list.GetResources()...)
		if err != nil {
			return err
		}
		_, err = a.out.Write(data)
		return err
	case "name":
		for _, r := range list.GetResources() {
			fmt.Fprintln(a.out, ref(r.GetKind(), r.GetMetadata().GetName()))
		}
		return nil
	}
	if len(list.GetResources()) == 0 {
		fmt.Fprintln(a.err, q.none())
		return nil
	}
	columns := columnsOf(q.kind.Name, output == "wide")
	t := newTable(a.out, columns.header()...)
	for _, r := range list.GetResources() {
		t.row(columns.cells(a, r)...)
	}
	t.flush()
	return nil
}

// none says why nothing is printed and, where there is something to do about it, what.
func (q *query) none() string {
	if len(q.selector) > 0 {
		return fmt.Sprintf("No %s match.", q.kind.Plural)
	}
	hint := map[string]string{
		resource.KindRegion:  "declare one with dhow apply -f FILE",
		resource.KindSite:    "declare one with dhow apply -f FILE",
		resource.KindModel:   "push one with dhow model push DIR",
		resource.KindRollout: "declare one with dhow apply -f FILE",
		resource.KindNode:    "invite one with dhow node invite --region R --site S",
	}[q.kind.Name]
	return fmt.Sprintf("There are no %s yet: %s.", q.kind.Plural, hint)
}
