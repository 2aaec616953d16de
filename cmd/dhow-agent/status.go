package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/localapi"
)

func newStatusCommand() *cobra.Command {
	var listen, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the agent on this machine is",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := fetchStatus(cmd.Context(), listen)
			if err != nil {
				return err
			}
			switch output {
			case "json":
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(d)
			case "text":
				return printStatus(cmd.OutOrStdout(), d, time.Now())
			}
			return usageError{fmt.Errorf("--output %q is not text or json", output)}
		},
	}
	cmd.Flags().StringVar(&listen, "listen", config.Default().Listen, "where the agent listens")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func fetchStatus(ctx context.Context, listen string) (localapi.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+localapi.Path, nil)
	if err != nil {
		return localapi.Document{}, usageError{fmt.Errorf("--listen: %w", err)}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return localapi.Document{}, fmt.Errorf("no agent answers on %s; is it running, and does it listen there? %w", listen, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return localapi.Document{}, fmt.Errorf("what listens on %s is no agent that is well: it answers %s", listen, resp.Status)
	}
	d, err := localapi.Read(resp.Body)
	if err != nil {
		return localapi.Document{}, fmt.Errorf("cannot read the status: %w", err)
	}
	return d, nil
}

func printStatus(out io.Writer, d localapi.Document, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	ago := func(t time.Time) string { return now.Sub(t).Round(time.Second).String() }
	fmt.Fprintf(w, "Agent\t%s, protocol %d, up %s\n", d.Version, d.Protocol, ago(d.StartedAt))
	u := d.Uplink
	switch {
	case !u.Enrolled:
		fmt.Fprintf(w, "Node\tnot enrolled yet\n")
	default:
		fmt.Fprintf(w, "Node\t%s (%s), region %s, site %s, certificate until %s\n", or(u.Name, "no name yet"), u.Node, u.Region, u.Site, u.CertificateExpires.Format(time.DateOnly))
	}
	switch {
	case u.Connected:
		fmt.Fprintf(w, "Manager\t%s, connected over %s for %s, generation %d\n", u.Server, u.Transport, ago(u.Since), u.Generation)
	default:
		fmt.Fprintf(w, "Manager\t%s, not connected for %s (%s), generation %d\n", u.Server, ago(u.Since), or(u.LastError, "no answer yet"), u.Generation)
	}
	fmt.Fprintf(w, "Outbox\t%d aggregates wait, %d were dropped\n", d.Outbox.Pending, d.Outbox.Dropped)
	fmt.Fprintf(w, "Requests\t%d written down, %d dropped, %d lost since the start\n", d.Telemetry.Written, d.Telemetry.Dropped, d.Telemetry.Lost)
	if len(d.Models) == 0 {
		fmt.Fprintf(w, "Models\tnone\n")
	} else {
		fmt.Fprintf(w, "\nMODEL\tVERSION\tSTATE\tSINCE\tPROVIDER\tREASON\n")
		for _, m := range d.Models {
			state := m.State
			if m.State == "downloading" && m.Bytes > 0 {
				state = fmt.Sprintf("%s %d%%", m.State, m.BytesDone*100/m.Bytes)
			}
			reason := m.Reason
			if m.Message != "" {
				reason += ": " + m.Message
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Model, m.Version, state, ago(m.Since), m.Provider, reason)
		}
	}
	for _, x := range d.Warnings {
		fmt.Fprintf(w, "\nWarning\t%s for %s: %s\nRemedy\t%s\n", x.Code, ago(x.Since), x.Message, x.Remedy)
	}
	return w.Flush()
}
