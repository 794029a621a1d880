package keeper

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Ensure makes sure that a keeper answers at socket: it starts one with command (a
// program and its arguments, which must name the same socket) if none does, in a
// session of its own, with log, which may be nil, as its standard error. It does not
// end with the caller. Two callers at once start one.
func Ensure(ctx context.Context, socket string, command []string, log *os.File) error {
	if answers(ctx, socket) {
		return nil
	}
	if ctx.Err() != nil { // one that hangs: another one would not get the socket
		return silent(ctx, "the keeper that runs at %s does not answer", socket)
	}
	cmd := exec.Command(command[0], command[1:]...)
	if log != nil {
		cmd.Stderr = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fault.Errorf("keeper.Ensure", fault.KindOf(err), "start %s: %w", command[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // or it would stay as a zombie
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if answers(ctx, socket) {
				return nil
			}
		case err := <-ended:
			if code := cmd.ProcessState.ExitCode(); code != fault.Busy.ExitCode() {
				return fault.Errorf("keeper.Ensure", fault.Unavailable, "the keeper ended: %v", err)
			}
			ended = nil // somebody else's came first, and will answer
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return silent(ctx, "the keeper was started, and does not answer at %s", socket)
		}
	}
}

// silent is the error for a keeper that did not answer while ctx lasted.
func silent(ctx context.Context, format, socket string) error {
	kind := fault.Timeout
	if errors.Is(ctx.Err(), context.Canceled) {
		kind = fault.Canceled
	}
	return fault.WithCure(fault.Errorf("keeper.Ensure", kind, format+" (%w)", socket, ctx.Err()),
		"start the node again: a busy machine may take longer; if that does not help, what the keeper says is in the node's log")
}

func answers(ctx context.Context, socket string) bool {
	c, err := DialTool(ctx, socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
