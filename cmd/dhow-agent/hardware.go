package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/hardware"
)

func newHardwareCommand() *cobra.Command {
	var output, data string
	cmd := &cobra.Command{
		Use:   "hardware",
		Short: "Show what this machine can do",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hw := hardware.Probe(cmd.Context(), hardware.Options{StateDir: data})
			switch output {
			case "json":
				text, err := protojson.MarshalOptions{Multiline: true}.Marshal(hw)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), string(text))
				return err
			case "text":
				return hardware.Text(cmd.OutOrStdout(), hw)
			}
			return usageError{fmt.Errorf("--output %q is not text or json", output)}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().StringVar(&data, "data", config.Default().Data, "folder whose disk is shown")
	return cmd
}
