package main

import (
	"context"
	"fmt"
	"strconv"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/resource"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

func (a *app) newToken() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "List and revoke join tokens",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newTokenList(), a.newTokenRevoke())
	return cmd
}

func (a *app) newTokenList() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List join tokens, without their secrets",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", output, "table", "json"); err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error {
				ctx, cancel := a.call(cmd.Context())
				defer cancel()
				resp, err := c.ListJoinTokens(ctx, connect.NewRequest(&fleetv1.ListJoinTokensRequest{}))
				if err != nil {
					return c.Explain(err)
				}
				return a.printTokens(resp.Msg, output)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "one of table, json")
	return cmd
}

func (a *app) printTokens(m *fleetv1.ListJoinTokensResponse, output string) error {
	if output == "json" {
		data, err := resource.JSON(m)
		if err != nil {
			return err
		}
		return a.write(data)
	}
	if len(m.GetTokens()) == 0 {
		fmt.Fprintln(a.err, "There are no join tokens yet: make one with dhow node invite --region R --site S.")
		return nil
	}
	t := newTable(a.out, "ID", "REGION", "SITE", "USED", "STATE", "EXPIRES", "APPROVAL")
	for _, k := range m.GetTokens() {
		approval := "no"
		if k.GetRequireApproval() {
			approval = "yes"
		}
		t.row(k.GetId(), k.GetRegion(), k.GetSite(), fmt.Sprintf("%d/%d", k.GetUsed(), k.GetUses()), a.tokenState(k), moment(k.GetExpiresAt()), approval)
	}
	t.flush()
	return nil
}

func (a *app) tokenState(k *fleetv1.JoinToken) string {
	switch {
	case k.GetRevoked():
		return "revoked"
	case k.GetUsed() >= k.GetUses():
		return "used"
	case k.GetExpiresAt() != nil && !a.now().Before(k.GetExpiresAt().AsTime()):
		return "expired"
	}
	return "good for " + strconv.FormatUint(uint64(k.GetUses()-k.GetUsed()), 10)
}

func (a *app) newTokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID...",
		Short: "Make join tokens useless; nodes that enrolled with them stay",
		Args:  wantArgs(true, "ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(ctx context.Context, c *client.Client, id string) error {
				_, err := c.RevokeJoinToken(ctx, connect.NewRequest(&fleetv1.RevokeJoinTokenRequest{Id: id}))
				if err == nil {
					fmt.Fprintf(a.out, "token %s revoked\n", id)
				}
				return err
			})
		},
	}
}
