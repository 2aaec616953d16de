package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/protocol/version"
)

func (a *app) newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if !asJSON {
				fmt.Fprintf(a.out, "dhow %s (protocol %d, %s, %s/%s)\n", version.Build, version.Current, runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return nil
			}
			data, err := json.MarshalIndent(map[string]any{
				"version": version.Build, "protocol": version.Current, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
			}, "", "  ")
			if err != nil {
				return fmt.Errorf("cannot print the version: %w", err)
			}
			return a.write(append(data, '\n'))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
