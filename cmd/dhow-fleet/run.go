package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet"
)

func newRun() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "run --data DIR",
		Short: "Serve a fleet until SIGTERM or SIGINT; log lines go to standard error as JSON",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.read(cmd)
			if err != nil {
				return err
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
				return fmt.Errorf("logLevel: %q is not debug, info, warn or error", c.LogLevel)
			}
			logger := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			m, err := fleet.New(cmd.Context(), c, fleet.Deps{Logger: logger})
			if err != nil {
				return err
			}
			return m.Run(cmd.Context())
		},
	}
	s.bind(cmd)
	return cmd
}
