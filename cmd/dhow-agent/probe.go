package main

import (
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent/probe"
)

// newProbeCommand is the child that the agent starts to try a bundle; it reads its request on standard input.
func newProbeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "probe",
		Short:  "Try a bundle (started by the agent itself)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if code := probe.Main(cmd.InOrStdin(), cmd.OutOrStdout()); code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
}
