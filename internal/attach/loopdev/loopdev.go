// Package loopdev sets up loop devices over open files, finds them, and takes them
// away.
//
// Devices are set up for direct I/O, because through the page cache a loop device reads
// with one thread and caches everything twice, and to go away by themselves when
// nobody has them open any more, so that no crash leaves one behind for ever.
//
// What is asked about other devices is read from sysfs: a call on a device whose
// backing file does not answer may hang.
package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Major is the device number of /dev/loopN, with N.
const Major = 7

// tries is how often a free loop device may be snatched from us.
const tries = 100

// Config says what a loop device is to be.
type Config struct {
	Backing   int    // open file, for writing unless ReadOnly; the device holds it
	Name      string // what losetup shows; cut to 63 bytes
	BlockSize int    // logical block, in bytes
	ReadOnly  bool
}

// Device is a loop device that is held: while it is open it is set up.
type Device struct {
	Number int
	fd     int // for reading: some kernels mount no device that is open for writing
}

// Path returns the device's name.
func (d *Device) Path() string { return path(d.Number) }

// FD returns the descriptor by which the device is held.
func (d *Device) FD() int { return d.fd }

func path(n int) string { return fmt.Sprintf("/dev/loop%d", n) }

// Attach sets up a free loop device. Whoever serves the backing file must do so
// meanwhile.
func Attach(c Config) (*Device, error) {
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault.WithCure(fault.Errorf("loopdev.Attach", fault.Unsupported, "no loop devices: %w", err),
			"load the kernel's loop driver (modprobe loop), and run as root")
	}
	defer unix.Close(control)
	for range tries {
		n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fault.Errorf("loopdev.Attach", fault.KindOf(err), "find a free loop device: %w", err)
		}
		d, err := c.attach(n)
		if !errors.Is(err, unix.EBUSY) {
			return d, err
		}
	}
	return nil, fault.Errorf("loopdev.Attach", fault.Busy, "others took %d free loop devices before us", tries)
}

// attach sets up loop device n; EBUSY means that it is not free any more.
func (c *Config) attach(n int) (*Device, error) {
	fail := func(verb string, err error) (*Device, error) {
		return nil, fault.Errorf("loopdev.Attach", fault.KindOf(err), "%s %s: %w", verb, path(n), err)
	}
	writing, err := open(n, unix.O_RDWR)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(writing)
	config := unix.LoopConfig{Fd: uint32(c.Backing), Size: uint32(c.BlockSize)}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO | unix.LO_FLAGS_AUTOCLEAR
	if c.ReadOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], c.Name)
	if err := unix.IoctlLoopConfigure(writing, &config); err != nil {
		return fail("set up", err)
	}
	info, err := unix.IoctlLoopGetStatus64(writing)
	if err == nil && info.Flags&unix.LO_FLAGS_DIRECT_IO == 0 {
		err = unix.EOPNOTSUPP
	}
	if err != nil {
		return fail("direct I/O on", err)
	}
	return Hold(n)
}

// Held returns the device that a descriptor from FD, of whichever process, is on.
func Held(fd int) (*Device, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fault.Errorf("loopdev.Held", fault.KindOf(err), "%w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(st.Rdev) != Major {
		return nil, fault.Errorf("loopdev.Held", fault.Invalid, "descriptor %d is no loop device", fd)
	}
	return &Device{Number: int(unix.Minor(st.Rdev)), fd: fd}, nil
}

// Hold opens a device that is set up, so that it stays.
func Hold(n int) (*Device, error) {
	fd, err := open(n, unix.O_RDONLY)
	if err != nil {
		return nil, fault.Errorf("loopdev.Hold", fault.KindOf(err), "open %s: %w", path(n), err)
	}
	return &Device{Number: n, fd: fd}, nil
}

// Close lets go of the device, which goes away if nobody else has it open. What is in
// the page cache is written first, so its backing file must answer, or fail.
func (d *Device) Close() {
	if d.fd >= 0 {
		_ = unix.Close(d.fd) // opened for reading
		d.fd = -1
	}
}

// Detach lets the device go away as soon as nobody has it open. One that is not set up
// is detached.
func Detach(n int) error {
	fd, err := open(n, unix.O_RDONLY)
	if err == nil {
		defer unix.Close(fd)
		err = unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
	}
	if err == nil || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fault.Errorf("loopdev.Detach", fault.KindOf(err), "detach %s: %w", path(n), err)
}

// Sync writes what the page cache holds of the device at path, and flushes it.
func Sync(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.Fsync(fd)
	}
	if err != nil {
		return fault.Errorf("loopdev.Sync", fault.KindOf(err), "flush %s: %w", path, err)
	}
	return nil
}

// Claimed reports whether somebody uses the device for himself: a mounted filesystem, a
// device mapper, a process that opened it with O_EXCL.
func (d *Device) Claimed() (bool, error) {
	fd, err := open(d.Number, unix.O_RDONLY|unix.O_EXCL)
	if errors.Is(err, unix.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, fault.Errorf("loopdev.Claimed", fault.KindOf(err), "open %s: %w", d.Path(), err)
	}
	_ = unix.Close(fd) // opened for reading
	return false, nil
}

// Users returns the processes that have the device open, as far as this one, which is
// left out, can see them.
func (d *Device) Users() (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != d.Path() {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err == nil && pid != os.Getpid() && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

const blkGetSize64 = 0x80081272

// Size returns the device's size in bytes.
func (d *Device) Size() (int64, error) {
	size, err := unix.IoctlGetInt(d.fd, blkGetSize64)
	if err != nil {
		return 0, fault.Errorf("loopdev.Size", fault.KindOf(err), "size of %s: %w", d.Path(), err)
	}
	return int64(size), nil
}

// UpdateSize makes the device as long as its backing file has become.
func (d *Device) UpdateSize() error {
	if err := unix.IoctlSetInt(d.fd, unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fault.Errorf("loopdev.UpdateSize", fault.KindOf(err), "resize %s: %w", d.Path(), err)
	}
	return nil
}

const blkDiscard = 0x1277

// LearnDiscards has the device find out now, and not from its first user, that its
// backing file refuses discards: it discards a block. Kernels that do not remember it
// refuse each discard by itself.
func (d *Device) LearnDiscards() {
	fd, err := open(d.Number, unix.O_RDWR)
	if err != nil {
		return // its users will find out
	}
	defer unix.Close(fd)
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), blkDiscard, uintptr(unsafe.Pointer(&[2]uint64{0, 4096})))
}

// Found is a loop device that is set up.
type Found struct {
	Number  int
	Backing string // path of the backing file, from the root of its filesystem if that is mounted nowhere
}

// Path returns the device's name.
func (f Found) Path() string { return path(f.Number) }

// List returns all loop devices that are set up.
func List() ([]Found, error) {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, fault.Wrap("loopdev.List", err)
	}
	var list []Found
	for _, name := range names {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.Split(name, "/")[3], "loop"))
		if err != nil {
			continue // named otherwise: not for us
		}
		if backing, ok := backingOf(n); ok {
			list = append(list, Found{Number: n, Backing: backing})
		}
	}
	return list, nil
}

// Backing returns the path of the backing file of device n, and whether it is set up.
func Backing(n int) (string, bool) { return backingOf(n) }

func backingOf(n int) (string, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", n))
	return strings.TrimSuffix(string(raw), "\n"), err == nil
}

// open opens loop device n, and makes its node where nobody else does, as in a
// container.
func open(n, flags int) (int, error) {
	fd, err := unix.Open(path(n), flags|unix.O_CLOEXEC, 0)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	if err := unix.Mknod(path(n), unix.S_IFBLK|0o600, int(unix.Mkdev(Major, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return unix.Open(path(n), flags|unix.O_CLOEXEC, 0)
}
