package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent"
	"github.com/dhowfleet/dhow/agent/config"
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
	serves(cmd, c.Settings(), config.DefaultFile, c.Validate, &c.Serving, func(ctx context.Context, log *slog.Logger) (server, error) {
		return agent.New(ctx, c, agent.Deps{Logger: log, Compiler: wasmCompiler(log)})
	})
	return cmd
}
