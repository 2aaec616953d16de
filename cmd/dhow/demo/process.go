package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// process is a program that the demo started and will stop.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

func start(name, log, binary string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log of %s: %w", name, err)
	}
	defer out.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{}), log: log}
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.done)
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends the process as a power cut would.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// stop asks the process to end and waits for it.
func (p *process) stop(patience time.Duration) error {
	if p == nil || !p.running() {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("%s did not stop within %s", p.name, patience)
	}
}

// tail returns the end of the process's log, for the error that says why it is gone.
func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

func (d *demo) initFleet(ctx context.Context) (pin string, err error) {
	d.say("$ dhow-fleet init --data fleet")
	cmd := exec.CommandContext(ctx, filepath.Join(d.Bin, "dhow-fleet"), "init", "--data", filepath.Join(d.dir, "fleet"), "--hostname", "localhost", "--write-token", "-o", "json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("dhow-fleet init: %w: %s", err, stderr.String())
	}
	return parseInit(out)
}

func (d *demo) runFleet(ctx context.Context) error {
	d.say("$ dhow-fleet run --listen " + d.address)
	var err error
	d.fleet, err = start("the manager", filepath.Join(d.dir, "fleet.log"), filepath.Join(d.Bin, "dhow-fleet"),
		"run", "--data", filepath.Join(d.dir, "fleet"), "--listen", d.address)
	if err != nil {
		return err
	}
	return d.until(ctx, "", 20*time.Second, func(context.Context) (string, error) {
		if !d.fleet.running() {
			return "", final(fmt.Errorf("the manager ended: %s", d.fleet.tail()))
		}
		conn, err := net.DialTimeout("tcp", d.address, time.Second)
		if err != nil {
			return "", err
		}
		return "", conn.Close()
	})
}

func (d *demo) runAgent(b *branch) error {
	d.say(fmt.Sprintf("$ dhow-agent run --data %s --server %s --token-file %s --listen %s", b.site, d.address, filepath.Base(b.tokenFile), b.listen))
	var err error
	b.agent, err = start("the agent of "+b.site, b.dir+".log", filepath.Join(d.Bin, "dhow-agent"),
		"run", "--data", b.dir, "--server", d.address, "--token-file", b.tokenFile, "--listen", b.listen,
		"--name", b.site+"-1", "--report-interval", "1s", "--deliver-interval", "1s", "--retry-max", "2s")
	return err
}

func (d *demo) stopAll() {
	for _, b := range d.branches {
		if err := b.agent.stop(10 * time.Second); err != nil {
			d.say(err.Error())
		}
	}
	if err := d.fleet.stop(10 * time.Second); err != nil {
		d.say(err.Error())
	}
}

// freePorts returns n loopback addresses whose TCP and UDP ports are free now.
func freePorts(n int) ([]string, error) {
	var out []string
	var open []interface{ Close() error }
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range 50 {
		if len(out) == n {
			return out, nil
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("cannot find a free port: %w", err)
		}
		open = append(open, l)
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			continue // another program has the UDP port of that number
		}
		open = append(open, u)
		out = append(out, l.Addr().String())
	}
	return nil, errors.New("cannot find free ports")
}

// cli runs the operator's command line.
type cli struct {
	binary, configHome string
	echo               func(string)
}

func (c *cli) quiet(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+c.configHome)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("dhow %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// run shows the command before it runs it, with folders cut to their names.
func (c *cli) run(ctx context.Context, args ...string) (string, error) {
	short := make([]string, len(args))
	for i, a := range args {
		short[i] = a
		if filepath.IsAbs(a) {
			short[i] = filepath.Base(a)
		}
	}
	c.echo("$ dhow " + strings.Join(short, " "))
	return c.quiet(ctx, args...)
}

func (c *cli) resources(ctx context.Context, args ...string) ([]*fleetv1.Resource, error) {
	out, err := c.quiet(ctx, append([]string{"get", "-o", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var list fleetv1.ListResponse
	if err := protojson.Unmarshal([]byte(out), &list); err == nil {
		return list.GetResources(), nil
	}
	var one fleetv1.Resource
	if err := protojson.Unmarshal([]byte(out), &one); err != nil {
		return nil, fmt.Errorf("dhow get %v printed what is no resource: %w", args, err)
	}
	return []*fleetv1.Resource{&one}, nil
}

func (c *cli) nodes(ctx context.Context) ([]*fleetv1.Resource, error) {
	return c.resources(ctx, "nodes")
}

func (c *cli) rollout(ctx context.Context, name string) (*fleetv1.Resource, error) {
	list, err := c.resources(ctx, "rollout", name)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("dhow get rollout %s printed %d resources", name, len(list))
	}
	return list[0], nil
}

func (c *cli) requestsBySite(ctx context.Context) (map[string]uint64, error) {
	out, err := c.quiet(ctx, "totals", "-o", "json")
	if err != nil {
		return nil, err
	}
	var totals fleetv1.GetTotalsResponse
	if err := protojson.Unmarshal([]byte(out), &totals); err != nil {
		return nil, fmt.Errorf("dhow totals printed what are no totals: %w", err)
	}
	sites := map[string]uint64{}
	for _, t := range totals.GetTotals() {
		sites[t.GetSite()] += t.GetTotals().GetRequests()
	}
	return sites, nil
}
