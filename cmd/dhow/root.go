package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// app is what the verbs share.
type app struct {
	streams
	getenv  func(string) string
	now     func() time.Time
	timeout time.Duration // for one call to the manager
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, s streams, getenv func(string) string) int {
	root := newRoot(s, getenv)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(s.err, "dhow: %v\n", err)
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// newRoot builds the command tree.
func newRoot(s streams, getenv func(string) string) *cobra.Command {
	a := &app{streams: s, getenv: getenv, now: time.Now}
	root := &cobra.Command{
		Use:           "dhow",
		Short:         "Put AI models to work at the edge and keep them right",
		Long:          "dhow speaks to a fleet manager: it declares regions, sites and rollouts, publishes models, and shows what runs where.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.PersistentFlags().DurationVar(&a.timeout, "timeout", 30*time.Second, "how long one call to the manager may take")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.timeout <= 0 {
			return usagef("--timeout must be above zero, such as 30s; it is %s", a.timeout)
		}
		return nil
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		a.newLogin(), a.newApply(), a.newGet(), a.newDescribe(), a.newWatch(), a.newDelete(),
		a.newModel(), a.newNode(), a.newToken(), a.newTotals(), a.newInfer(), a.newWasm(), a.newVersion(), newDemoCommand(),
	)
	return root
}

// usageError is a command line that was not understood.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// noArgs takes none, and knows that an unknown argument of a group is a mistyped verb.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		hint := ""
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf(": did you mean %s?", near[0])
		}
		return usagef("%s has no command %q%s; see %s --help", cmd.CommandPath(), args[0], hint, cmd.CommandPath())
	}
	return usagef("%s takes no arguments, and was given %q", cmd.CommandPath(), args)
}

// wantArgs takes the arguments that are named, the last of them once or, with more, any number of times.
func wantArgs(more bool, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) || more && len(args) > len(names) {
			return nil
		}
		if len(args) < len(names) {
			return usagef("%s: %s is missing; usage: %s", cmd.CommandPath(), names[len(args)], cmd.UseLine())
		}
		return usagef("%s: %q is one argument too many; usage: %s", cmd.CommandPath(), args[len(names)], cmd.UseLine())
	}
}

// oneOf checks the value of a flag.
func oneOf(flag, value string, allowed ...string) error {
	for _, a := range allowed {
		if a == value {
			return nil
		}
	}
	return usagef("--%s %q is not one of %s", flag, value, strings.Join(allowed, ", "))
}

// withClient connects to the manager that the operator is logged in to and hands the connection to do.
func (a *app) withClient(do func(c *client.Client) error) error {
	l, err := a.login()
	if err != nil {
		return err
	}
	c, err := l.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// call bounds one call to the manager.
func (a *app) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.timeout)
}
