package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/resource"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

func (a *app) newTotals() *cobra.Command {
	var output, selector string
	cmd := &cobra.Command{
		Use:   "totals",
		Short: "Show the requests that nodes answered, as delivered to the manager",
		Long: `Show the requests that nodes answered, by node, model, version and role, as delivered to the manager. Each request is
counted once, however often the line broke, and stays counted when its node is deleted. -l takes region=, site=, node= and model=.
Percentiles come from histograms whose bins are 9 % wide.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", output, "table", "wide", "json"); err != nil {
				return err
			}
			req, err := totalsRequest(selector)
			if err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error { return a.runTotals(cmd.Context(), c, req, output) })
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "one of table, wide, json")
	cmd.Flags().StringVarP(&selector, "selector", "l", "", "region=R,site=S,node=N,model=M, any of them")
	return cmd
}

func totalsRequest(selector string) (*fleetv1.GetTotalsRequest, error) {
	pairs, err := resource.ParseSelector(selector)
	if err != nil {
		return nil, usagef("%v", err)
	}
	req := &fleetv1.GetTotalsRequest{}
	for key, value := range pairs {
		switch key {
		case "region":
			req.Region = value
		case "site":
			req.Site = value
		case "node":
			req.Node = value
		case "model":
			req.Model = value
		default:
			return nil, usagef("totals are selected by region, site, node and model, not by %q", key)
		}
	}
	return req, nil
}

func (a *app) runTotals(ctx context.Context, c *client.Client, req *fleetv1.GetTotalsRequest, output string) error {
	totals, err := a.totals(ctx, c, req)
	if err != nil {
		return err
	}
	if output == "json" {
		data, err := resource.JSON(&fleetv1.GetTotalsResponse{Totals: totals})
		if err != nil {
			return err
		}
		return a.write(data)
	}
	if len(totals) == 0 {
		fmt.Fprintln(a.err, "No requests were delivered yet.")
		return nil
	}
	wide := output == "wide"
	t := newTable(a.out, append([]string{"NODE", "REGION", "SITE"}, totalsHeader(wide)...)...)
	var sum, errors uint64
	for _, n := range totals {
		node := n.GetNode()
		if n.GetNodeDeleted() {
			node += " (deleted)"
		}
		t.row(append([]string{node, n.GetRegion(), n.GetSite()}, totalsCells(n, wide)...)...)
		sum += n.GetTotals().GetRequests()
		errors += n.GetTotals().GetErrors()
	}
	t.flush()
	fmt.Fprintf(a.out, "\n%s, %s\n", count(int(sum), "request"), count(int(errors), "error"))
	return nil
}

func totalsHeader(wide bool) []string {
	h := []string{"MODEL", "VERSION", "ROLE", "REQUESTS", "ERRORS", "MEAN", "P50", "P95", "P99"}
	if wide {
		h = append(h, "COUNTS")
	}
	return h
}

func totalsCells(n *fleetv1.NodeTotals, wide bool) []string {
	t := n.GetTotals()
	mean := ""
	if t.GetRequests() > 0 {
		mean = short(time.Duration(t.GetLatencySumNs() / t.GetRequests()))
	}
	cells := []string{t.GetModel(), t.GetVersion(), strings.ToLower(strings.TrimPrefix(t.GetRole().String(), "ROLE_")),
		strconv.FormatUint(t.GetRequests(), 10), strconv.FormatUint(t.GetErrors(), 10), mean,
		quantile(t.GetLatency(), .5), quantile(t.GetLatency(), .95), quantile(t.GetLatency(), .99)}
	if wide {
		var counts []string
		for _, c := range t.GetCounts() {
			counts = append(counts, fmt.Sprintf("%s=%d", c.GetName(), c.GetValue()))
		}
		cells = append(cells, strings.Join(counts, ","))
	}
	return cells
}

// quantile reads a quantile from an exponential histogram: bucket i holds what is in (base^i, base^(i+1)] with base
// 2^(2^-scale). The geometric middle of the bucket that the quantile falls into is returned; "" without observations.
func quantile(h *syncv1.LatencyHistogram, q float64) string {
	var all uint64
	for _, n := range h.GetBuckets() {
		all += n
	}
	if all == 0 {
		return ""
	}
	rank := uint64(math.Ceil(q * float64(all)))
	for i, n := range h.GetBuckets() {
		if n >= rank {
			exponent := (float64(h.GetOffset()) + float64(i) + .5) * math.Exp2(-float64(h.GetScale()))
			if ns := math.Exp2(exponent); ns < math.MaxInt64 {
				return short(time.Duration(ns))
			}
			return ""
		}
		rank -= n
	}
	return ""
}

// short prints a latency to three digits.
func short(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return strconv.FormatInt(int64(d), 10) + "ns"
	case d < time.Millisecond:
		return strconv.FormatFloat(float64(d)/1e3, 'f', places(d, time.Microsecond), 64) + "us"
	case d < time.Second:
		return strconv.FormatFloat(float64(d)/1e6, 'f', places(d, time.Millisecond), 64) + "ms"
	}
	return strconv.FormatFloat(float64(d)/1e9, 'f', places(d, time.Second), 64) + "s"
}

func places(d, unit time.Duration) int {
	switch {
	case d < 10*unit:
		return 2
	case d < 100*unit:
		return 1
	}
	return 0
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
