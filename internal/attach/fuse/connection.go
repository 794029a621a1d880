package fuse

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// filePrefix begins the name of the one file.
const filePrefix = attach.FilePrefix

// openConnection opens /dev/fuse: a connection that is not mounted yet. The kernel
// keeps the non-blocking mode with the open file, for all who share it.
func openConnection() (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fault.WithCure(fault.Errorf("fuse.open", fault.Unsupported, "no FUSE: %w", err),
			"load the kernel's driver (modprobe fuse), run as root, and, in a container, with /dev/fuse")
	}
	return fd, nil
}

// mount makes the connection's filesystem, and begins it, which has the kernel send
// INIT. It is in no directory tree: nobody can unmount it, and no container that is
// started meanwhile takes a copy along. It lives as long as the descriptor of its root
// that is returned, or any open file.
func mount(fd int) (root int, err error) {
	fail := func(verb string, err error) (int, error) {
		return -1, fault.Errorf("fuse.mount", fault.KindOf(err), "%s: %w", verb, err)
	}
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail("open a filesystem (Linux 5.8 or later is needed)", err)
	}
	defer unix.Close(fs)
	for _, option := range [][2]string{
		{"source", "holdfast"}, {"fd", strconv.Itoa(fd)}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"},
	} {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			return fail("set "+option[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fail("create", err)
	}
	root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOATIME)
	if err != nil {
		return fail("mount", err)
	}
	return root, nil
}

// forgetSize has the kernel forget the file's size, so that whoever asks for it next
// learns the new one.
func forgetSize(fd int) error {
	// A negative offset: attributes only, no cached data, of which there is none.
	b := notification(notifyInvalInode, fileNode, ^uint64(0), 0)
	if _, err := unix.Write(fd, b); err != nil && err != unix.ENOENT { // ENOENT: it knows nothing yet
		return fault.Errorf("fuse.forgetSize", fault.KindOf(err), "have the kernel forget the size: %w", err)
	}
	return nil
}

// above returns fd, or a copy instead of it, that is greater than other: the kernel
// closes the files of a killed process by number, and the close of a loop device waits
// for the connection, unless that is closed before.
func above(fd, other int) (int, error) {
	if fd > other {
		return fd, nil
	}
	higher, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, other+1)
	_ = unix.Close(fd) // the copy lives, or nothing does
	if err != nil {
		return -1, fault.Errorf("fuse.above", fault.Busy, "copy a descriptor: %w", err)
	}
	return higher, nil
}

// Available returns nil, or why this machine can't make devices of this kind.
func Available() error {
	fd, err := openConnection()
	if err != nil {
		return err
	}
	_ = unix.Close(fd) // nothing was mounted
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return fault.WithCure(fault.Errorf("fuse.Available", fault.Unsupported, "no loop devices: %w", err), "load the kernel's driver (modprobe loop)")
	}
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fault.Errorf("fuse.Available", fault.Unsupported, "open a filesystem (Linux 5.8 or later is needed, and root): %w", err)
	}
	_ = unix.Close(fs) // nothing was mounted
	return nil
}
