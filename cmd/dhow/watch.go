package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/resource"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

func (a *app) newWatch() *cobra.Command {
	var output, selector string
	cmd := &cobra.Command{
		Use:   "watch KIND [NAME]",
		Short: "Show resources and then every change, until interrupted",
		Long: "Show resources of a kind and then every change, until interrupted. A line that breaks is opened anew.\n\n" + kindsHelp + `
-o json prints one event a line: {"type": ..., "resource": {...}}.`,
		Args: wantArgs(true, "KIND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := newQuery(args, selector)
			if err != nil {
				return err
			}
			if len(q.names) > 1 {
				return usagef("dhow watch takes one name at most")
			}
			if err := oneOf("output", output, outputs...); err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error { return a.watch(cmd.Context(), c, q, output, true) })
		},
	}
	outputFlag(cmd, &output)
	selectorFlag(cmd, &selector)
	return cmd
}

// watch prints what is and what changes until ctx ends, which is no failure: that is how a watch is ended.
func (a *app) watch(ctx context.Context, c *client.Client, q *query, output string, events bool) error {
	req := &fleetv1.WatchRequest{Kind: q.kind.Name, Selector: q.selector}
	if len(q.names) == 1 {
		req.Name = q.names[0]
	}
	show := a.eventPrinter(q, output, events)
	err := c.Watch(ctx, req, show)
	switch {
	case errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, errOutput):
		return err
	}
	return c.Explain(err)
}

var errOutput = errors.New("cannot write the output")

// eventPrinter returns what prints one event.
func (a *app) eventPrinter(q *query, output string, events bool) func(*fleetv1.WatchResponse) error {
	switch output {
	case "json":
		return func(e *fleetv1.WatchResponse) error {
			data, err := resource.JSON(e)
			if err != nil {
				return fmt.Errorf("%w: %w", errOutput, err)
			}
			var line bytes.Buffer
			if err := json.Compact(&line, data); err != nil {
				return fmt.Errorf("%w: %w", errOutput, err)
			}
			return a.write(append(line.Bytes(), '\n'))
		}
	case "yaml":
		return func(e *fleetv1.WatchResponse) error {
			if e.GetResource() == nil {
				return nil
			}
			data, err := resource.YAML(e.GetResource())
			if err != nil {
				return fmt.Errorf("%w: %w", errOutput, err)
			}
			return a.write(append([]byte("--- # "+e.GetType()+"\n"), data...))
		}
	case "name":
		return func(e *fleetv1.WatchResponse) error {
			if e.GetResource() == nil {
				return nil
			}
			return a.write([]byte(e.GetType() + " " + ref(e.GetResource().GetKind(), e.GetResource().GetMetadata().GetName()) + "\n"))
		}
	}
	return a.tablePrinter(q, output == "wide", events)
}

// tablePrinter prints the first picture as a table and every change as a further row of it.
func (a *app) tablePrinter(q *query, wide, events bool) func(*fleetv1.WatchResponse) error {
	columns := columnsOf(q.kind.Name, wide)
	header := columns.header()
	if events {
		header = append([]string{"EVENT"}, header...)
	}
	t := newTable(a.out, header...)
	synced := false
	return func(e *fleetv1.WatchResponse) error {
		if r := e.GetResource(); r != nil {
			cells := columns.cells(a, r)
			if e.GetType() == "deleted" {
				// All that is known of it is its name.
				cells = append([]string{r.GetMetadata().GetName()}, slices.Repeat([]string{"-"}, len(cells)-1)...)
				if !events {
					cells[len(cells)-1] = "deleted"
				}
			}
			if events {
				cells = append([]string{e.GetType()}, cells...)
			}
			t.row(cells...)
		}
		synced = synced || e.GetType() == "synced"
		if synced {
			t.flush()
		}
		return nil
	}
}

// writeJSON prints all of v, for people and programs.
func (a *app) writeJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot print the answer as JSON: %w", err)
	}
	return a.write(append(data, '\n'))
}

func (a *app) write(data []byte) error {
	if _, err := a.out.Write(data); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}
