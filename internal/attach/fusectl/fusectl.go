// Package fusectl controls FUSE connections from outside: it tells how many requests
// one has that wait, and aborts it, which frees whoever waits for a server that is
// dead or stuck.
//
// It works in any mount namespace and mounts nothing anywhere: the control filesystem
// is opened without a mount point.
package fusectl

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Connection is the number by which the kernel knows a FUSE connection: the minor
// number of the device that its files are on. Zero is none.
type Connection uint32

// String prints the number.
func (c Connection) String() string { return strconv.FormatUint(uint64(c), 10) }

// Of returns the connection that an open file is on, without asking its server.
func Of(fd int) (Connection, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return 0, fault.Errorf("fusectl.Of", fault.KindOf(err), "%w", err)
	}
	if st.Dev_major != 0 {
		return 0, fault.Errorf("fusectl.Of", fault.Invalid, "the file is on device %d:%d, no FUSE connection", st.Dev_major, st.Dev_minor)
	}
	return Connection(st.Dev_minor), nil
}

// Abort ends the connection: requests fail, those that wait too. One that does not
// exist is ended.
func (c Connection) Abort() error {
	err := c.with(func(dir int) error {
		fd, err := unix.Openat(dir, c.String()+"/abort", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("1"))
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fault.Wrap("fusectl.Abort", err)
}

// Waiting returns how many requests were not answered yet, and whether the connection
// exists.
func (c Connection) Waiting() (n int, exists bool, err error) {
	err = c.with(func(dir int) error {
		fd, err := unix.Openat(dir, c.String()+"/waiting", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		raw := make([]byte, 32)
		read, err := unix.Read(fd, raw)
		if err != nil {
			return err
		}
		n, err = strconv.Atoi(strings.TrimSpace(string(raw[:read])))
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, false, nil
	}
	return n, err == nil, fault.Wrap("fusectl.Waiting", err)
}

// List returns all connections of the machine.
func List() (list []Connection, err error) {
	err = Connection(0).with(func(dir int) error {
		fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "fusectl")
		defer f.Close()
		names, err := f.Readdirnames(-1)
		for _, name := range names {
			if n, err := strconv.ParseUint(name, 10, 32); err == nil {
				list = append(list, Connection(n))
			}
		}
		return err
	})
	slices.Sort(list)
	return list, fault.Wrap("fusectl.List", err)
}

// with calls f with the control filesystem's root.
func (c Connection) with(f func(dir int) error) error {
	fs, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fault.WithCure(err, "the kernel's FUSE driver is needed: modprobe fuse")
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return f(dir)
}
