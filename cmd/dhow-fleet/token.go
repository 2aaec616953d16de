package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet"
)

func newToken() *cobra.Command {
	var s settings
	var name string
	cmd := &cobra.Command{
		Use:   "token --data DIR --name NAME",
		Short: "Make another operator token, for a new operator or in place of a lost one, and print it once",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				return usageError{errors.New("no name is given for the token: use --name NAME")}
			}
			c, err := s.read(cmd)
			if err != nil {
				return err
			}
			token, err := fleet.NewOperatorToken(cmd.Context(), c, name)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cmd.Flags().StringVar(&s.data, "data", "", "folder that holds everything the manager keeps (required)")
	cmd.Flags().StringVar(&name, "name", "", "name of the token, as it stands in logs (required)")
	return cmd
}
