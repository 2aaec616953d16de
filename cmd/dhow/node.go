package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/resource"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

func (a *app) newNode() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Invite, approve and revoke nodes",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newNodeInvite(), a.newNodeApprove(), a.newNodeRevoke())
	return cmd
}

func (a *app) newNodeInvite() *cobra.Command {
	var region, site, output string
	var uses uint32
	var expires time.Duration
	var approve bool
	cmd := &cobra.Command{
		Use:   "invite --region REGION --site SITE",
		Short: "Make a join token and say how a machine joins with it",
		Long: `Make a join token that enrols machines into one site, and print the command that a machine joins with.
The token is shown once. It is good for one machine and one hour unless --uses and --expires say otherwise.
With --approve, machines wait until you approve them with dhow node approve.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if region == "" || site == "" {
				return usagef("dhow node invite needs --region and --site")
			}
			if err := oneOf("output", output, "text", "token", "json"); err != nil {
				return err
			}
			if uses < 1 {
				return usagef("--uses must be at least 1")
			}
			if expires < time.Second {
				return usagef("--expires must be at least a second, such as 1h")
			}
			req := &fleetv1.CreateJoinTokenRequest{Region: region, Site: site, Uses: uses, RequireApproval: approve,
				ExpiresSeconds: uint64((expires + time.Second - 1) / time.Second)}
			return a.withClient(func(c *client.Client) error { return a.invite(cmd.Context(), c, req, output) })
		},
	}
	cmd.Flags().StringVar(&region, "region", "", "the region of the site")
	cmd.Flags().StringVar(&site, "site", "", "the site that the machine belongs to")
	cmd.Flags().Uint32Var(&uses, "uses", 1, "how many machines may join with it")
	cmd.Flags().DurationVar(&expires, "expires", time.Hour, "how long it is good for")
	cmd.Flags().BoolVar(&approve, "approve", false, "machines wait until an operator approves them")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "one of text, token (the token alone), json")
	return cmd
}

func (a *app) invite(ctx context.Context, c *client.Client, req *fleetv1.CreateJoinTokenRequest, output string) error {
	ctx, cancel := a.call(ctx)
	defer cancel()
	resp, err := c.CreateJoinToken(ctx, connect.NewRequest(req))
	if err != nil {
		return c.Explain(err)
	}
	switch output {
	case "token":
		return a.write([]byte(resp.Msg.GetToken() + "\n"))
	case "json":
		data, err := resource.JSON(resp.Msg)
		if err != nil {
			return err
		}
		return a.write(data)
	}
	info := resp.Msg.GetInfo()
	fmt.Fprintf(a.out, "Token %s lets %s join site %s of region %s until %s. It is shown this once:\n\n  %s\n\n",
		info.GetId(), count(int(info.GetUses()), "machine"), info.GetSite(), info.GetRegion(), moment(info.GetExpiresAt()), resp.Msg.GetToken())
	fmt.Fprintf(a.out, "On the machine:\n\n  (umask 077; echo %s > join-token)\n  dhow-agent run --server %s --token-file join-token\n", resp.Msg.GetToken(), c.Server())
	if info.GetRequireApproval() {
		fmt.Fprint(a.out, "\nIt then waits for dhow node approve NAME; dhow get nodes shows who waits.\n")
	}
	return nil
}

func (a *app) newNodeApprove() *cobra.Command {
	return &cobra.Command{
		Use:   "approve NAME...",
		Short: "Let nodes that wait for approval have their certificates",
		Args:  wantArgs(true, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachNode(cmd.Context(), args, "approved", func(ctx context.Context, c *client.Client, name string) error {
				_, err := c.ApproveNode(ctx, connect.NewRequest(&fleetv1.ApproveNodeRequest{Name: name}))
				return err
			})
		},
	}
}

func (a *app) newNodeRevoke() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke NAME...",
		Short: "Take nodes out of the fleet for good",
		Long: `Take nodes out of the fleet for good: their certificates are accepted no more. What a node serves, it goes on serving
to its branch; to come back it is invited anew.`,
		Args: wantArgs(true, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachNode(cmd.Context(), args, "revoked", func(ctx context.Context, c *client.Client, name string) error {
				_, err := c.RevokeNode(ctx, connect.NewRequest(&fleetv1.RevokeNodeRequest{Name: name, Reason: reason}))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who read it later")
	return cmd
}

func (a *app) eachNode(ctx context.Context, names []string, done string, do func(context.Context, *client.Client, string) error) error {
	return a.each(ctx, names, func(ctx context.Context, c *client.Client, name string) error {
		err := do(ctx, c, name)
		if err == nil {
			fmt.Fprintf(a.out, "node/%s %s\n", name, done)
		}
		return err
	})
}

// each does something with every name and tells all that failed: one name that is wrong must not keep the others, say
// stolen machines, from what is to be done with them.
func (a *app) each(ctx context.Context, names []string, do func(context.Context, *client.Client, string) error) error {
	return a.withClient(func(c *client.Client) error {
		var failed []error
		for _, name := range names {
			ctx, cancel := a.call(ctx)
			err := do(ctx, c, name)
			cancel()
			if err != nil {
				failed = append(failed, c.Explain(err))
			}
		}
		return errors.Join(failed...)
	})
}
