// Command holdfast is storage for containers on the cluster's own disks; see
// holdfast --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-io/holdfast/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	status := cli.Main(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(status)
}
