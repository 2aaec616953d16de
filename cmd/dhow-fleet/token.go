package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet"
	"github.com/dhowfleet/dhow/protocol/identity"
)

func newToken() *cobra.Command {
	var s settings
	var name string
	cmd := &cobra.Command{
		Use:   "token --data DIR --name NAME",
		Short: "Make another operator token and print it once; list and revoke operator tokens",
		Long: `Make another operator token, for a new operator or in place of a lost one, and print it once; list and revoke operator
tokens. All of it works while the manager runs on the folder.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				return usageError{errors.New("no name is given for the token: use --name NAME")}
			}
			if err := identity.ValidName(name); err != nil {
				return usageError{fmt.Errorf("--name: %w", err)}
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
	cmd.PersistentFlags().StringVar(&s.data, "data", "", "folder that holds everything the manager keeps (required)")
	cmd.Flags().StringVar(&name, "name", "", "name of the token, as it stands in logs (required)")
	cmd.AddCommand(newTokenList(&s), newTokenRevoke(&s))
	return cmd
}

func newTokenList(s *settings) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list --data DIR",
		Short: "List operator tokens, without their secrets",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := textOrJSON(output); err != nil {
				return err
			}
			c, err := s.read(cmd)
			if err != nil {
				return err
			}
			tokens, err := fleet.OperatorTokens(cmd.Context(), c)
			if err != nil {
				return err
			}
			return printTokens(cmd, tokens, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printTokens(cmd *cobra.Command, tokens []fleet.OperatorToken, output string) error {
	if output == "json" {
		list := make([]map[string]any, len(tokens))
		for i, t := range tokens {
			list[i] = map[string]any{"name": t.Name, "role": t.Role, "createdAt": t.CreatedAt}
			if !t.RevokedAt.IsZero() {
				list[i]["revokedAt"] = t.RevokedAt
			}
		}
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"tokens": list})
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tMADE\tSTATE")
	for _, t := range tokens {
		state := "good"
		if !t.RevokedAt.IsZero() {
			state = "revoked " + t.RevokedAt.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, t.Role, t.CreatedAt.Format(time.RFC3339), state)
	}
	return w.Flush()
}

func newTokenRevoke(s *settings) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "revoke --data DIR NAME...",
		Short: "Make operator tokens useless for good",
		Long: `Make operator tokens useless for good. A manager that runs refuses them from their next request on, and ends within about
a second what they have open. The last one of an administrator is revoked with --force only: without it nobody can
operate the fleet until dhow-fleet token has made another.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("no token is named: give one or more NAMEs, as dhow-fleet token list shows them")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.read(cmd)
			if err != nil {
				return err
			}
			// One name that is wrong must not keep the others from being revoked.
			var failed []error
			for _, name := range args {
				if err := fleet.RevokeOperatorToken(cmd.Context(), c, name, force); err != nil {
					failed = append(failed, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "token %s revoked\n", name)
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "revoke the last token of an administrator too")
	return cmd
}
