package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/standalone"
)

func newServeCommand() *cobra.Command {
	c := config.DefaultRepository()
	cmd := &cobra.Command{
		Use:   "serve --model-repository DIR",
		Short: "Serve a folder of models, without a fleet, until told to stop",
		Long: `Serve a folder of models, without a fleet, until told to stop.

The folder has the layout of a Triton model repository: MODEL/VERSION/model.onnx, with or without a MODEL/config.pbtxt.
Models are served over the Open Inference Protocol, by HTTP on port 8000 and by gRPC on 8001; metrics are on 8002, and a
page that shows how the agent is on http://127.0.0.1:8000/.

Settings come from a file (--config), DHOW_AGENT_... variables and flags, each overruling the one before. The log goes to
standard error as JSON lines.`,
		Example: `  dhow-agent serve --model-repository models
  dhow-agent serve --model-repository models --model-control-mode poll`,
		Args: noArgs,
	}
	serves(cmd, c.Settings(), "", c.Validate, &c.Serving, func(ctx context.Context, log *slog.Logger) (server, error) {
		return standalone.New(ctx, c, standalone.Deps{Logger: log, Compiler: wasmCompiler(log)})
	})
	return cmd
}
