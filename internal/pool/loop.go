package pool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// loopTries is how often a free loop device may be snatched from us.
const loopTries = 100

// detachTries times busyPause is how long a loop device may stay in use after its last
// unmount: a container that starts has a copy of every mount for a moment, which is seconds
// on a busy machine.
const detachTries = 300

// loopMajor is the device number of /dev/loopN, with N.
const loopMajor = 7

// attachLoop returns an open loop device over the image, with direct I/O and 4096-byte
// blocks: the one that there is, or a new one. It detaches by itself when nobody has it
// open or mounted any more, so even a process that is killed leaves none behind.
func attachLoop(image string) (*os.File, error) {
	if name := findLoop(image); name != "" {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if loopHolds(f, image) { // it was not detached meanwhile, and now can't be
			return directLoop(f)
		}
		f.Close()
	}
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.WithCure(fault.Errorf("loop", fault.NotFound, "the pool's image %s is gone", image),
			"put it back; if it is lost, wipe the pool with --damaged, and let the replicas elsewhere fill a new one")
	}
	if err != nil {
		return nil, err
	}
	defer backing.Close() // the loop device has it
	f, err := newLoop(backing)
	if err != nil {
		return nil, err
	}
	return directLoop(f)
}

// newLoop sets up a free loop device.
func newLoop(backing *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fault.WithCure(fault.Errorf("loop", fault.Unsupported, "no loop devices: %w", err),
			"load the kernel's loop driver (modprobe loop), and run as root")
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: host.Align}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO | unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:len(config.Info.File_name)-1], backing.Name())
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		f, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		if err = unix.IoctlLoopConfigure(int(f.Fd()), &config); err == nil {
			return f, nil
		}
		f.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fault.Errorf("loop", fault.KindOf(err), "set up %s over %s: %w", f.Name(), backing.Name(), err)
		}
	}
	return nil, fault.Errorf("loop", fault.Busy, "others took %d free loop devices before us", loopTries)
}

// openLoop opens a loop device, and makes its node where nobody else does, as in a
// container.
func openLoop(n int) (*os.File, error) {
	name := fmt.Sprintf("/dev/loop%d", n)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if err := unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, &os.PathError{Op: "mknod", Path: name, Err: err}
		}
		f, err = os.OpenFile(name, os.O_RDWR, 0)
	}
	return f, err
}

// directLoop refuses a loop device that goes through the page cache: its reads are
// several times slower, and its data is cached twice.
func directLoop(f *os.File) (*os.File, error) {
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err == nil && info.Flags&unix.LO_FLAGS_DIRECT_IO != 0 {
		return f, nil
	}
	name := f.Name()
	f.Close()
	if err != nil {
		return nil, fault.Errorf("loop", fault.KindOf(err), "%s: %w", name, err)
	}
	return nil, fault.WithCure(fault.Errorf("loop", fault.Unsupported, "%s does not use direct I/O", name),
		"if it was set up by hand, detach it (losetup -d "+name+"); else use a directory whose filesystem has direct I/O")
}

// findLoop returns the loop device over the image, or "".
func findLoop(image string) string {
	backings, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is good
	for _, backing := range backings {
		// Open only those that can be it: others' devices are none of our business.
		raw, err := os.ReadFile(backing)
		if err != nil || filepath.Base(strings.TrimSpace(string(raw))) != filepath.Base(image) {
			continue
		}
		f, err := os.Open("/dev/" + strings.Split(backing, "/")[3])
		if err != nil {
			continue
		}
		holds := loopHolds(f, image)
		f.Close()
		if holds {
			return f.Name()
		}
	}
	return ""
}

// loopHolds reports whether the loop device is over the image.
func loopHolds(f *os.File, image string) bool {
	var st unix.Stat_t
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	return err == nil && unix.Stat(image, &st) == nil && info.Inode == st.Ino && info.Device == st.Dev
}

// detachLoop detaches the image's loop device, if it has one, and waits until it is.
func detachLoop(image string) error {
	for range detachTries {
		name := findLoop(image)
		if name == "" {
			return nil
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if loopHolds(f, image) {
			err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EBUSY) {
			return fault.Errorf("loop", fault.KindOf(err), "detach %s: %w", name, err)
		}
		time.Sleep(busyPause)
	}
	name := findLoop(image)
	return fault.WithCure(fault.Errorf("loop", fault.Busy, "%s is still in use, by another process or mount namespace", name),
		"see who has it: lsof "+name+"; grep -l "+name+" /proc/*/mountinfo")
}
