package main

import (
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent"
	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/headroom"
)

func newRunCommand() *cobra.Command {
	c := config.Default()
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Serve the models of a fleet until told to stop",
		Long: `Serve the models that a fleet manager says, until told to stop.

Settings come from a file (` + config.DefaultFile + `, or --config), DHOW_AGENT_... variables and flags, each
overruling the one before. The log goes to standard error as JSON lines.`,
		Args: noArgs,
	}
	read := flags(cmd, c.Settings(), config.DefaultFile)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := read(); err != nil {
			return err
		}
		if err := c.Validate(); err != nil {
			return usageError{err}
		}
		log, err := logger(&c.Serving, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		go headroom.Run(cmd.Context())
		a, err := agent.New(cmd.Context(), c, agent.Deps{Logger: log})
		if err != nil {
			return err
		}
		return a.Run(cmd.Context())
	}
	return cmd
}
