package main

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

func (a *app) newDelete() *cobra.Command {
	var ignoreMissing bool
	cmd := &cobra.Command{
		Use:   "delete KIND NAME...",
		Short: "Delete resources that nothing refers to any more",
		Long: "Delete resources. One that others refer to is refused, with what they are: a region with sites, a site with nodes,\na model with rollouts. An active node is revoked first.\n\n" +
			kindsHelp,
		Args: wantArgs(true, "KIND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := newQuery(args, "")
			if err != nil {
				return err
			}
			if len(q.names) == 0 {
				return usagef("dhow delete: NAME is missing; usage: %s", cmd.UseLine())
			}
			return a.each(cmd.Context(), q.names, func(ctx context.Context, c *client.Client, name string) error {
				_, err := c.Delete(ctx, connect.NewRequest(&fleetv1.DeleteRequest{Kind: q.kind.Name, Name: name}))
				var rpc *connect.Error
				if ignoreMissing && errors.As(err, &rpc) && rpc.Code() == connect.CodeNotFound {
					return nil
				}
				if err == nil {
					fmt.Fprintf(a.out, "%s deleted\n", ref(q.kind.Name, name))
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&ignoreMissing, "ignore-not-found", false, "do not fail when it is not there")
	return cmd
}
