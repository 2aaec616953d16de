// Command dhow-agent serves models at a branch and obeys a fleet manager.
//
// Exit codes: 0 when it was asked to stop, 1 when something failed, 2 when starting it again changes nothing (it was
// called wrongly, or its join token is refused and it has nothing to serve).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
