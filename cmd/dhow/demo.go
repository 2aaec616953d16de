package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/cmd/dhow/demo"
)

func newDemoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole fleet on this machine: a manager, two regions, three branches, a real model and real photos",
		Long: `Run a whole fleet on this machine, in a temporary folder and on loopback, and show Dhow's main job step by step.
It ends with an error at the first step that does not hold. Run it by "make demo", which fetches what it needs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			if o.Bin == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("cannot find the folder of this program: %w", err)
				}
				o.Bin = filepath.Dir(self)
			}
			return demo.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Bin, "bin", "", "folder of dhow, dhow-fleet and dhow-agent (default: where this program is)")
	cmd.Flags().StringVar(&o.Bundle, "bundle", "build/fashion", "folder of the assembled fashion bundle")
	cmd.Flags().StringVar(&o.Photos, "photos", "models/examples/fashion/photos", "folder of labelled test photos")
	cmd.Flags().IntVar(&o.PhotosPerBranch, "photos-per-branch", 200, "how many photos each branch is sent first")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "stay up at the end and say what to try")
	return cmd
}
