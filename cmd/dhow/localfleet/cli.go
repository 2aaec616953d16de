package localfleet

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// CLI is the operator's command line, logged in to the fleet's manager.
type CLI struct {
	binary, configHome string
	echo               func(string)
}

// ConfigHome is where the command line keeps its login.
func (c *CLI) ConfigHome() string { return c.configHome }

// Quiet runs `dhow args...` and returns what it printed.
func (c *CLI) Quiet(ctx context.Context, args ...string) (string, error) {
	return outputEnv(ctx, []string{"XDG_CONFIG_HOME=" + c.configHome}, c.binary, args...)
}

// Run is Quiet after saying what is run, with folders cut to their names.
func (c *CLI) Run(ctx context.Context, args ...string) (string, error) {
	short := make([]string, len(args))
	for i, a := range args {
		short[i] = a
		if filepath.IsAbs(a) {
			short[i] = filepath.Base(a)
		}
	}
	c.echo("$ dhow " + strings.Join(short, " "))
	return c.Quiet(ctx, args...)
}

func (c *CLI) into(ctx context.Context, m proto.Message, args ...string) error {
	out, err := c.Quiet(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal([]byte(out), m); err != nil {
		return fmt.Errorf("dhow %s printed what is no %s: %w", strings.Join(args, " "), m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// Nodes returns the fleet's nodes by name.
func (c *CLI) Nodes(ctx context.Context) (map[string]*fleetv1.NodeStatus, error) {
	var list fleetv1.ListResponse
	if err := c.into(ctx, &list, "get", "nodes"); err != nil {
		return nil, err
	}
	out := map[string]*fleetv1.NodeStatus{}
	for _, r := range list.GetResources() {
		out[r.GetMetadata().GetName()] = r.GetNode().GetStatus()
	}
	return out, nil
}

// Rollout returns the status of a rollout.
func (c *CLI) Rollout(ctx context.Context, name string) (*fleetv1.RolloutStatus, error) {
	var r fleetv1.Resource
	if err := c.into(ctx, &r, "get", "rollout", name); err != nil {
		return nil, err
	}
	return r.GetRollout().GetStatus(), nil
}

// RequestsBySite returns the requests that the manager has counted.
func (c *CLI) RequestsBySite(ctx context.Context) (map[string]uint64, error) {
	return c.requests(ctx, (*fleetv1.NodeTotals).GetSite)
}

// RequestsByNode returns the requests that the manager has counted.
func (c *CLI) RequestsByNode(ctx context.Context) (map[string]uint64, error) {
	return c.requests(ctx, (*fleetv1.NodeTotals).GetNode)
}

func (c *CLI) requests(ctx context.Context, by func(*fleetv1.NodeTotals) string) (map[string]uint64, error) {
	var totals fleetv1.GetTotalsResponse
	if err := c.into(ctx, &totals, "totals"); err != nil {
		return nil, err
	}
	sum := map[string]uint64{}
	for _, t := range totals.GetTotals() {
		sum[by(t)] += t.GetTotals().GetRequests()
	}
	return sum, nil
}
