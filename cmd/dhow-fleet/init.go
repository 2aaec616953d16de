package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet"
	"github.com/dhowfleet/dhow/fleet/config"
)

// tokenFile is where --write-token puts the bootstrap token.
const tokenFile = "bootstrap-token"

func newInit() *cobra.Command {
	var s settings
	var write bool
	var output string
	cmd := &cobra.Command{
		Use:   "init --data DIR --hostname HOST",
		Short: "Set up a data folder: certificate authority, database, and an operator's token that is shown once",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := textOrJSON(output); err != nil {
				return err
			}
			c, err := s.read(cmd)
			if err != nil {
				return err
			}
			if c.TrustDomain == "" {
				c.TrustDomain = config.DefaultTrustDomain(c.Hostnames)
			}
			setup, err := fleet.Initialise(cmd.Context(), c)
			if err != nil {
				return err
			}
			file := ""
			if write {
				file = filepath.Join(c.Data, tokenFile)
				if err := renameio.WriteFile(file, []byte(setup.Token+"\n"), 0o600); err != nil {
					return fmt.Errorf("cannot write the token, make another with dhow-fleet token --data %s --name NAME: %w", c.Data, err)
				}
			}
			return printSetup(cmd, c, setup, file, output)
		},
	}
	s.bind(cmd)
	cmd.Flags().BoolVar(&write, "write-token", false, "also write the token to DIR/"+tokenFile+" (mode 0600)")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printSetup(cmd *cobra.Command, c config.Config, setup fleet.Setup, file, output string) error {
	if output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
			"data": c.Data, "trustDomain": c.TrustDomain, "caSha256": setup.CASHA256, "token": setup.Token, "tokenFile": file,
		})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), `The fleet %s is set up in %s.

  operator token  %s
  CA SHA-256      %s

The token is shown this once. Start the manager and log in:

  dhow-fleet run --data %s
  dhow login --server HOST:PORT --token-stdin --ca-sha256 %s
`, c.TrustDomain, c.Data, setup.Token, setup.CASHA256, c.Data, setup.CASHA256)
	return err
}
