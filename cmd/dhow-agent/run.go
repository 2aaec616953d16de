package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent"
	"github.com/dhowfleet/dhow/agent/config"
)

// gcPercent makes the heap grow by half before it is collected, not twofold: an idle agent shares its machine with a
// shop's till, and what it allocates while it serves is mostly not on the Go heap. GOGC in the environment wins.
const gcPercent = 50

func newRunCommand() *cobra.Command {
	c := config.Default()
	var file string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Serve models until told to stop",
		Long: `Serve models until told to stop.

Settings come from a file (` + config.DefaultFile + `, or --config), DHOW_AGENT_... variables and flags, each
overruling the one before. The log goes to standard error as JSON lines.`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&file, "config", "", "file with settings (default "+config.DefaultFile+", when it exists)")
	given := map[string]*string{}
	for _, s := range c.Settings() {
		v := new(string)
		given[s.Name] = v
		cmd.Flags().StringVar(v, s.Name, "", usage(s))
		if _, ok := s.Value.(interface{ IsBoolFlag() bool }); ok {
			cmd.Flags().Lookup(s.Name).NoOptDefVal = "true"
		}
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := c.ReadFile(or(file, config.DefaultFile), file != ""); err != nil {
			return usageError{err}
		}
		if err := c.ReadEnvironment(os.LookupEnv); err != nil {
			return usageError{err}
		}
		for _, s := range c.Settings() {
			if !cmd.Flags().Changed(s.Name) {
				continue
			}
			if err := s.Value.Set(*given[s.Name]); err != nil {
				return usageError{fmt.Errorf("--%s: %w", s.Name, err)}
			}
		}
		if err := c.Validate(); err != nil {
			return usageError{err}
		}
		var level slog.Level
		if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
			return usageError{err}
		}
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		log := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
		a, err := agent.New(cmd.Context(), c, agent.Deps{Logger: log})
		if err != nil {
			return err
		}
		return a.Run(cmd.Context())
	}
	return cmd
}

func usage(s config.Setting) string {
	if def := s.Value.String(); def != "" && def != "0" && def != "0s" && def != "false" {
		return s.Usage + " (default " + def + ")"
	}
	return s.Usage
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
