package pool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// lock is the right to a directory, held by one process at a time and given up by the
// kernel when that process dies. It is a lock of the open file (F_OFD_SETLK), so two
// opens in one process exclude each other too, and anyone can ask about it without
// taking it.
type lock struct{ f *os.File }

// takeLock takes dir's lock, or fails with Busy and names its owner.
func takeLock(dir string) (*lock, error) {
	name := filepath.Join(dir, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &lock{f}
	if err := l.take(name); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

func (l *lock) take(name string) error {
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err := unix.FcntlFlock(l.f.Fd(), unix.F_OFD_SETLK, &whole)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return inUse(filepath.Dir(name))
	}
	if err != nil {
		return &os.PathError{Op: "lock", Path: name, Err: err}
	}
	// A wipe removes the file while it holds the lock: then what we locked is no more.
	mine, err := l.f.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Lstat(name); err != nil || !os.SameFile(mine, now) {
		return inUse(filepath.Dir(name))
	}
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	return l.stamp()
}

// stamp writes the owner's process id, and makes it durable: a cheap proof that the
// filesystem still takes writes.
func (l *lock) stamp() error {
	if _, err := l.f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return err
	}
	return l.f.Sync()
}

// release gives the lock up.
func (l *lock) release() {
	// Unlock first: a child that is being started may have the file open a little longer.
	none := unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart}
	_ = unix.FcntlFlock(l.f.Fd(), unix.F_OFD_SETLK, &none) // closing unlocks too
	_ = l.f.Close()                                        // all that mattered was synced
}

// owner returns the process that holds dir's lock; 0 when none does.
func owner(dir string) int {
	f, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		return 0
	}
	defer f.Close()
	probe := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart}
	if unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &probe) != nil || probe.Type == unix.F_UNLCK {
		return 0
	}
	raw := make([]byte, 32)
	n, _ := f.ReadAt(raw, 0) // a short file is not an error
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw[:n])))
	if err != nil {
		return -1 // held, by one that had no time to say who it is
	}
	return pid
}

func inUse(dir string) error {
	who, cure := "another process", "wait for it to end"
	if pid := owner(dir); pid > 0 {
		who, cure = fmt.Sprintf("process %d", pid), fmt.Sprintf("stop process %d first", pid)
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
			who += fmt.Sprintf(" (%s)", strings.TrimSpace(string(name)))
		}
	}
	return fault.WithCure(fault.Errorf("lock", fault.Busy, "the pool at %s is in use by %s", dir, who), cure)
}
