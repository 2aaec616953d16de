// Command dhow is the operator's command line: it declares what a fleet should be, shows what it is, publishes models
// and asks a branch for an answer. docs/cli.md is its reference.
//
// Every verb is a function of its arguments, streams, environment and a fleet manager; main only maps the error to an
// exit code (0: done, 1: it failed, 2: the command was not understood).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}, os.Getenv)
	stop()
	os.Exit(code)
}
