// Package program is holdfast as tests of whole nodes run it: a test's own binary, which
// becomes the program when it is given a command. So nothing has to be built beside it.
package program

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/cli"
)

// Main is for TestMain: it runs the tests, or the program, and ends the process.
func Main(m *testing.M) {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Main(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}

// PID returns the id of one of the processes of the node with that run directory, such as
// data; 0 when there is none, or when that is being written.
func PID(run, process string) int {
	raw, err := os.ReadFile(filepath.Join(run, process+".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	return pid
}
