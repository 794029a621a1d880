package host

import (
	"path"
	"path/filepath"
	"syscall"

	"github.com/holdfast-io/holdfast/internal/fault"
	"golang.org/x/sys/unix"
)

// Modes of what is made. Volumes are nobody else's to read.
const (
	fileMode = 0o600
	dirMode  = 0o700
)

// openRoot opens the directory that a disk is rooted at.
func openRoot(root string) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fault.Errorf("host.Open", fault.KindOf(err), "%s: %w", filepath.Clean(root), err)
	}
	probe, err := openBelow(fd, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		closeFD(fd)
		return -1, fault.Errorf("host.Open", fault.KindOf(err), "%s: openat2: %w; Linux 5.6 or later is needed", root, err)
	}
	closeFD(probe)
	return fd, nil
}

// openBelow opens name below the directory dir. The kernel refuses to follow
// symbolic links, and any other way out of dir.
func openBelow(dir int, name string, flags int, mode uint32) (fd int, err error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	err = again(func() error {
		fd, err = unix.Openat2(dir, name, &how)
		return err
	})
	return fd, err
}

// again repeats call while a signal interrupts it.
func again(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

func closeFD(fd int) { _ = unix.Close(fd) }

// open does OpOpen.
func (s *slot) open() error {
	op := s.op
	flags := unix.O_RDWR | unix.O_NOCTTY
	if op.Flags&ReadOnly != 0 {
		flags = unix.O_RDONLY | unix.O_NOCTTY
	}
	if op.Flags&Create != 0 {
		flags |= unix.O_CREAT
		if op.Flags&Exclusive != 0 {
			flags |= unix.O_EXCL
		}
	}
	mode := uint32(0)
	if flags&unix.O_CREAT != 0 {
		mode = fileMode
	}
	fd, err := openBelow(s.dir.fd, op.Path, flags, mode)
	if err != nil {
		return err
	}
	if err := hasBytes(fd, op.Flags); err != nil {
		closeFD(fd)
		return err
	}
	if op.Flags&(Direct|ReadOnly) == Direct {
		fd = untimed(s.dir.fd, fd)
	}
	if err := s.prepare(fd); err != nil {
		closeFD(fd)
		return err
	}
	s.fd = fd
	return nil
}

// hasBytes refuses what is not a file that has bytes, nor a device when one is wanted.
func hasBytes(fd int, flags Flags) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return syscall.EISDIR
	case unix.S_IFBLK:
		if flags&Device != 0 {
			return nil
		}
	}
	return syscall.EINVAL
}

// prepare locks the file and makes it direct, as the op asks.
func (s *slot) prepare(fd int) error {
	if s.op.Flags&Lock != 0 {
		// The lock belongs to the open file, which every operation in flight holds:
		// it outlives a killed process until the last of them has ended.
		how := unix.LOCK_EX | unix.LOCK_NB
		if s.waits {
			how = unix.LOCK_EX
		}
		if err := again(func() error { return unix.Flock(fd, how) }); err != nil {
			return err
		}
	}
	if s.op.Flags&Direct == 0 {
		return nil
	}
	// Not at open: there, a filesystem that refuses has created the file by then.
	err := again(func() error { return setDirect(fd) })
	if s.plain = err == syscall.EINVAL; s.plain {
		return nil
	}
	return err
}

func setDirect(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_DIRECT)
	return err
}

// in calls use with the directory that holds name, and name's last element.
func (d *Dir) in(name string, use func(dir int, base string) error) error {
	parent, base := path.Split(name)
	if parent == "" {
		return again(func() error { return use(d.fd, base) })
	}
	dir, err := openBelow(d.fd, parent, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer closeFD(dir)
	return again(func() error { return use(dir, base) })
}
