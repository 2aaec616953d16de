// Package localfleet runs a fleet of real processes on this machine, on loopback and in one folder: a manager and
// agents, driven by the operator's own command line. The demo narrates one; the end-to-end tests break them.
//
// A Fleet is used by one goroutine. Starting returns as soon as the process runs; what it must have reached is awaited
// with Until. Stop ends every process that was started.
package localfleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Fleet is one manager and its branches.
type Fleet struct {
	// Bin is the folder of dhow, dhow-fleet and dhow-agent, Dir where everything is kept.
	Bin, Dir string
	// Address is the manager's.
	Address string
	CLI     CLI
	Manager *Process
	Nodes   []*Node
	// Say takes a line for each command that is run; nil: nobody listens.
	Say func(string)
}

// Node is one branch machine.
type Node struct {
	Name, Region, Site string
	// Listen is the address of the Open Inference endpoint.
	Listen string
	Dir    string
	// Server is the address by which the node reaches the manager: the manager's own, or that of a proxy before it.
	Server    string
	TokenFile string
	Agent     *Process
}

// URL is where the node serves.
func (n *Node) URL() string { return "http://" + n.Listen }

// New lays out a fleet of the given nodes in dir; nothing runs yet. Of a node only Name, Region and Site need be set.
func New(bin, dir string, say func(string), nodes ...*Node) (*Fleet, error) {
	if say == nil {
		say = func(string) {}
	}
	address, err := FreePort()
	if err != nil {
		return nil, err
	}
	f := &Fleet{Bin: bin, Dir: dir, Address: address, Say: say}
	f.CLI = CLI{binary: filepath.Join(bin, "dhow"), configHome: filepath.Join(dir, "operator"), echo: say}
	for _, n := range nodes {
		if _, err := f.Add(n); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Add lays out one more node.
func (f *Fleet) Add(n *Node) (*Node, error) {
	address, err := FreePort()
	if err != nil {
		return nil, err
	}
	n.Listen = address
	n.Dir = filepath.Join(f.Dir, n.Name)
	n.TokenFile = filepath.Join(f.Dir, n.Name+".token")
	if n.Server == "" {
		n.Server = f.Address
	}
	f.Nodes = append(f.Nodes, n)
	return n, nil
}

// Init makes the manager's data and logs the operator's command line in, which needs a running manager: so it starts
// it too.
func (f *Fleet) Init(ctx context.Context) error {
	f.Say("$ dhow-fleet init --data fleet")
	out, err := output(ctx, filepath.Join(f.Bin, "dhow-fleet"), "init", "--data", f.data(), "--hostname", "localhost", "--write-token", "-o", "json")
	if err != nil {
		return err
	}
	var printed struct {
		CA string `json:"caSha256"`
	}
	if err := json.Unmarshal([]byte(out), &printed); err != nil || printed.CA == "" {
		return fmt.Errorf("dhow-fleet init printed no caSha256: %q", out)
	}
	if err := f.StartManager(ctx); err != nil {
		return err
	}
	_, err = f.CLI.Run(ctx, "login", "--server", f.Address, "--token-file", filepath.Join(f.data(), "bootstrap-token"), "--ca-sha256", printed.CA)
	return err
}

func (f *Fleet) data() string { return filepath.Join(f.Dir, "fleet") }

// StartManager starts the manager and waits until it listens.
func (f *Fleet) StartManager(ctx context.Context, env ...string) error {
	f.Say("$ dhow-fleet run --listen " + f.Address)
	var err error
	f.Manager, err = start("the manager", filepath.Join(f.Dir, "fleet.log"), env, filepath.Join(f.Bin, "dhow-fleet"),
		"run", "--data", f.data(), "--listen", f.Address)
	if err != nil {
		return err
	}
	return Until(ctx, 20*time.Second, func(context.Context) error {
		if !f.Manager.Running() {
			return Final(fmt.Errorf("the manager ended: %s", f.Manager.Tail()))
		}
		conn, err := net.DialTimeout("tcp", f.Address, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Apply applies resources given as YAML.
func (f *Fleet) Apply(ctx context.Context, name, yaml string) error {
	file := filepath.Join(f.Dir, name+".yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	_, err := f.CLI.Run(ctx, "apply", "-f", file)
	return err
}

// Invite makes a join token for the node's site.
func (f *Fleet) Invite(ctx context.Context, n *Node) error {
	out, err := f.CLI.Run(ctx, "node", "invite", "--region", n.Region, "--site", n.Site, "-o", "token")
	if err != nil {
		return err
	}
	return os.WriteFile(n.TokenFile, []byte(out), 0o600)
}

// StartAgent starts a node's agent; env is added to its environment.
func (f *Fleet) StartAgent(n *Node, env ...string) error {
	f.Say(fmt.Sprintf("$ dhow-agent run --data %s --server %s --token-file %s --listen %s", n.Name, n.Server, filepath.Base(n.TokenFile), n.Listen))
	var err error
	n.Agent, err = start("the agent of "+n.Name, n.Dir+".log", env, filepath.Join(f.Bin, "dhow-agent"),
		"run", "--data", n.Dir, "--server", n.Server, "--token-file", n.TokenFile, "--listen", n.Listen,
		"--name", n.Name, "--report-interval", "1s", "--deliver-interval", "1s", "--retry-max", "2s")
	return err
}

// Stop ends every process, the agents first.
func (f *Fleet) Stop() error {
	var errs []error
	for _, n := range f.Nodes {
		errs = append(errs, n.Agent.Stop(10*time.Second))
	}
	return errors.Join(append(errs, f.Manager.Stop(10*time.Second))...)
}

// The ports of the fleet's processes lie below those that the system gives to clients (32768 and above on Linux). A
// process that is killed and started again wants its port back, which no client's connection must have taken meanwhile.
const (
	firstPort = 12000
	lastPort  = 32000
)

var given sync.Map // ports that this process gave before; one of them may be between two starts

// FreePort returns a loopback address whose TCP and UDP ports are free.
func FreePort() (string, error) {
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if _, before := given.LoadOrStore(port, true); before {
			continue
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue // another program has it
		}
		u, err := net.ListenPacket("udp", address)
		_ = l.Close() // only held to see that it is free
		if err != nil {
			continue
		}
		_ = u.Close()
		return address, nil
	}
	return "", errors.New("cannot find a free port")
}

// finalError is a condition that no waiting mends.
type finalError struct{ error }

// Final marks an error that ends Until at once.
func Final(err error) error { return finalError{err} }

// Until asks check again and again until it returns nil, a Final error, or patience runs out.
func Until(ctx context.Context, patience time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		var f finalError
		if errors.As(err, &f) {
			return f.error
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s in vain: %w", patience, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
