package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/headroom"
)

// flags makes a flag of each setting. What is returned takes the settings from the file, from DHOW_AGENT_... variables and
// from the flags that were given.
func flags(cmd *cobra.Command, settings []config.Setting, defaultFile string) func() error {
	file := cmd.Flags().String("config", "", "file with settings")
	given := map[string]*[]string{}
	for _, s := range settings {
		v := new([]string)
		given[s.Name] = v
		if _, ok := s.Value.(interface{ IsBoolFlag() bool }); ok {
			cmd.Flags().Var(eachTruth{(*each)(v)}, s.Name, usage(s))
			cmd.Flags().Lookup(s.Name).NoOptDefVal = "true"
			continue
		}
		cmd.Flags().Var((*each)(v), s.Name, usage(s))
	}
	return func() error {
		if name := or(*file, defaultFile); name != "" {
			if err := config.ReadFile(settings, name, *file != ""); err != nil {
				return usageError{err}
			}
		}
		if err := config.ReadEnvironment(settings, os.LookupEnv); err != nil {
			return usageError{err}
		}
		for _, s := range settings {
			for _, v := range *given[s.Name] {
				if err := s.Value.Set(v); err != nil {
					return usageError{fmt.Errorf("--%s: %w", s.Name, err)}
				}
			}
		}
		return nil
	}
}

// each keeps what a flag was given, each time, for later.
type each []string

func (e *each) Set(s string) error { *e = append(*e, s); return nil }
func (e *each) String() string     { return "" }
func (e *each) Type() string       { return "string" }

// eachTruth is for what is true when it is given without a value; help shows it so.
type eachTruth struct{ *each }

func (eachTruth) Type() string { return "bool" }

func usage(s config.Setting) string {
	if def := s.Value.String(); def != "" && def != "0" && def != "0B" && def != "0s" && def != "false" {
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

// server is an agent of either kind.
type server interface {
	Run(ctx context.Context) error
}

// serves gives a command its settings' flags and makes it run what open makes, once the settings hold.
func serves(cmd *cobra.Command, settings []config.Setting, defaultFile string, validate func() error, c *config.Serving, open func(context.Context, *slog.Logger) (server, error)) {
	read := flags(cmd, settings, defaultFile)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := read(); err != nil {
			return err
		}
		if err := validate(); err != nil {
			return usageError{err}
		}
		level, err := c.Level()
		if err != nil {
			return usageError{err}
		}
		log := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
		go headroom.Run(cmd.Context())
		s, err := open(cmd.Context(), log)
		if err != nil {
			return err
		}
		return s.Run(cmd.Context())
	}
}
