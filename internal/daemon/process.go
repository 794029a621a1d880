package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// How soon a process that ended is started again: at once if it had run for a while, else
// later and later. For data that is not late at all: I/O waits meanwhile.
const (
	restartLeast    = 100 * time.Millisecond
	restartMost     = 15 * time.Second
	restartMostData = time.Second
	restartForget   = time.Minute
)

// process is one of the node's processes, watched over.
type process struct {
	name    string   // of the process, and of its file with the process id
	command []string // that starts it
	pidFile string
	stopMax time.Duration // to end by itself
	waitMax time.Duration // before it is started again
	log     *slog.Logger

	ended chan struct{} // closed when it is not watched any more
}

// watch keeps the process running until ctx ends, and then ends it.
func (p *process) watch(ctx context.Context) {
	defer close(p.ended)
	wait := restartLeast
	for ctx.Err() == nil {
		began := time.Now()
		err := p.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > restartForget {
			wait = restartLeast
		}
		p.log.Warn("a process of this node has ended and is started again", "process", p.name, "after", time.Since(began).Round(time.Millisecond), "wait", wait, obs.Err(err))
		select {
		case <-time.After(wait):
			wait = min(2*wait, p.waitMax)
		case <-ctx.Done():
		}
	}
}

// run starts the process, or takes over the one that runs, and returns when it has ended.
func (p *process) run(ctx context.Context) error {
	pid, fd, err := p.adopt()
	if err != nil {
		pid, fd, err = p.start()
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	over := make(chan struct{})
	go func() {
		defer close(over)
		awaitEnd(fd)
	}()
	select {
	case <-over:
		return p.reap(pid)
	case <-ctx.Done():
	}
	p.end(fd, over)
	return p.reap(pid)
}

// start starts the process in a session of its own: what ends this process must not end
// that one.
func (p *process) start() (pid, fd int, err error) {
	cmd := exec.Command(p.command[0], p.command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &fd}
	if err := cmd.Start(); err != nil {
		return 0, 0, fault.Errorf("daemon.start", fault.KindOf(err), "start %s: %w", p.name, err)
	}
	p.log.Info("started", "process", p.name, "pid", cmd.Process.Pid)
	if fd < 0 {
		if fd, err = unix.PidfdOpen(cmd.Process.Pid, 0); err != nil {
			return 0, 0, fault.Wrap("daemon.start", err)
		}
	}
	pid = cmd.Process.Pid
	_ = cmd.Process.Release() // reap waits for it
	return pid, fd, fault.Wrap("daemon.start", replace(p.pidFile, []byte(strconv.Itoa(pid)+"\n")))
}

// adopt finds the process that another Node has started.
func (p *process) adopt() (pid, fd int, err error) {
	if pid, err = readPID(p.pidFile); err != nil {
		return 0, 0, err
	}
	if fd, err = unix.PidfdOpen(pid, 0); err != nil {
		return 0, 0, fault.Wrap("daemon.adopt", err)
	}
	if !runs(pid, p.command) {
		unix.Close(fd)
		return 0, 0, fault.Errorf("daemon.adopt", fault.NotFound, "process %d is another one", pid)
	}
	p.log.Info("taken over", "process", p.name, "pid", pid)
	return pid, fd, nil
}

func readPID(file string) (int, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, fault.Wrap("daemon.pid", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		return 0, fault.Errorf("daemon.pid", fault.Corrupt, "%s holds no process id", file)
	}
	return pid, nil
}

// runs reports whether the process was started with the command's arguments, which name the
// node's own files.
func runs(pid int, command []string) bool {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	got := bytes.Split(bytes.TrimSuffix(raw, []byte{0}), []byte{0})
	if len(got) != len(command) {
		return false
	}
	for i := 1; i < len(got); i++ {
		if string(got[i]) != command[i] {
			return false
		}
	}
	return true
}

// awaitEnd returns when the process behind a descriptor has ended.
func awaitEnd(fd int) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// reap returns how the process ended, if this process started it.
func (p *process) reap(pid int) error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil // another Node's child
		}
		break
	}
	switch {
	case status.Signaled():
		return fault.Errorf("daemon.run", fault.Unavailable, "%s was ended by signal %v", p.name, status.Signal())
	case status.ExitStatus() != 0:
		return fault.Errorf("daemon.run", fault.Unavailable, "%s ended with status %d", p.name, status.ExitStatus())
	}
	return nil
}

// end has the process end, by force if it takes too long.
func (p *process) end(fd int, over <-chan struct{}) {
	_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) // fails only when it has ended
	select {
	case <-over:
	case <-time.After(p.stopMax):
		p.log.Warn("a process does not end and is killed", "process", p.name, "after", p.stopMax)
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		<-over
	}
	_ = os.Remove(p.pidFile) // who reads it finds out that it is old
}
