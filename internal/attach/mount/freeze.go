package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// freezer is what a freeze is done by: a process that thaws when its input ends, which
// it does when the caller says so or is dead, or when the time is over. $1 is the
// directory, $2 the time in seconds.
const freezer = `fsfreeze --freeze "$1" || exit 1
echo frozen
timeout "$2" cat >/dev/null
fsfreeze --unfreeze "$1" || exit 2
`

// FreezeMax is how long a filesystem is frozen at most, whatever happens.
const FreezeMax = 60 * time.Second

// Frozen freezes the filesystem at dir, so that its device has all of it and nothing of
// what comes later, calls work, and thaws it, whatever work returns, and also when this
// process dies meanwhile. The error is work's, or, if the filesystem was not frozen all
// along, fault.Timeout: then what work did is worth nothing.
func Frozen(ctx context.Context, dir string, work func() error) error {
	const op = "mount.Frozen"
	if _, found, err := At(dir); err != nil || !found {
		return errors.Join(err, fault.Errorf(op, fault.Precondition, "nothing is mounted at %s", dir))
	}
	cmd := exec.Command("/bin/sh", "-c", freezer, "freezer", dir, fmt.Sprint(int(FreezeMax.Seconds())))
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt at the terminal is not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		return fault.Wrap(op, err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fault.Wrap(op, err)
	}
	if err := cmd.Start(); err != nil {
		return fault.Wrap(op, err)
	}
	frozen := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(out).ReadString('\n')
		frozen <- err
	}()
	ended := func() <-chan error {
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		return done
	}
	select {
	case err := <-frozen:
		if err != nil {
			return fault.WithCure(fault.Errorf(op, fault.Busy, "%s can't be frozen: %v", dir, <-ended()), "see whether it is frozen already")
		}
	case <-ctx.Done():
		in.Close()
		ended() // it thaws as soon as it has frozen
		return gaveUp(ctx, op)
	}
	began := time.Now()
	workErr := work()
	lasted := time.Since(began) < FreezeMax*9/10
	in.Close()
	thawed := <-ended()
	switch {
	case thawed != nil:
		return fault.WithCure(fault.Errorf(op, fault.Internal, "%s may still be frozen: %w", dir, errors.Join(thawed, workErr)), "fsfreeze --unfreeze "+dir)
	case !lasted && workErr == nil:
		return fault.Errorf(op, fault.Timeout, "%s was frozen for %v only", dir, FreezeMax)
	}
	return workErr
}

// Thaw thaws the filesystem at dir. One that is not frozen is an error.
func Thaw(ctx context.Context, dir string) error {
	_, err := run(ctx, fsfreeze, "--unfreeze", dir)
	return fault.Wrap("mount.Thaw", err)
}
