package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// How long unmounting and detaching wait for what is still closing.
const (
	busyTries = 40
	busyPause = 50 * time.Millisecond
)

// xfsBytesMin is the smallest filesystem that mkfs.xfs makes.
const xfsBytesMin = 300 << 20

// filesystemLabel marks our filesystems for people, in lsblk and in refusals.
const filesystemLabel = "holdfast"

// Names of filesystems, by the magic number that statfs gives.
var filesystems = map[int64]string{
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.F2FS_SUPER_MAGIC:      "f2fs",
	0xca451a4e:                 "bcachefs",
	0x2fc12fc1:                 "zfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.RAMFS_MAGIC:           "ramfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.CIFS_SUPER_MAGIC:      "cifs",
	unix.SMB2_SUPER_MAGIC:      "cifs",
	unix.FUSE_SUPER_MAGIC:      "fuse",
}

// filesystemOf names the filesystem that dir is on; one that we don't know by name is
// its number.
func filesystemOf(dir string) (string, error) {
	st, err := statfs(dir)
	if err != nil {
		return "", err
	}
	magic := int64(uint32(st.Type)) // the sign of Type differs between machines
	if name := filesystems[magic]; name != "" {
		return name, nil
	}
	return fmt.Sprintf("%#x", magic), nil
}

// volatile reports whether a filesystem loses everything when the machine stops.
func volatile(filesystem string) bool { return filesystem == "tmpfs" || filesystem == "ramfs" }

// noteOn returns what is worth knowing about pools of kind Directory on a filesystem.
func noteOn(filesystem string) string {
	switch filesystem {
	case "xfs", "btrfs":
		return ""
	case "ext4":
		return "ext4: the first writes to new space are several times slower than on XFS; an image (--image) is XFS"
	case "tmpfs", "ramfs":
		return filesystem + ": everything in the pool is lost when the machine stops"
	}
	return filesystem + ": not a filesystem that Holdfast is tested on; an image (--image) is XFS"
}

func statfs(dir string) (unix.Statfs_t, error) {
	var st unix.Statfs_t
	err := retryEINTR(func() error { return unix.Statfs(dir, &st) })
	if err != nil {
		return st, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return st, nil
}

func retryEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// roomOf returns how full the pool at path, mounted at mount, is. An image can't grow
// beyond what the filesystem that it lies in has left.
func roomOf(path, mount string) (room, error) {
	st, err := statfs(mount)
	if err != nil {
		return room{}, err
	}
	unit := st.Frsize
	r := room{
		capacity: int64(st.Blocks) * unit,
		used:     int64(st.Blocks-st.Bfree) * unit,
		free:     int64(st.Bavail) * unit,
	}
	if _, err := os.Lstat(filepath.Join(path, imageName)); err == nil {
		under, err := statfs(path)
		if err != nil {
			return room{}, err
		}
		r.free = min(r.free, int64(under.Bavail)*under.Frsize)
	}
	return r, nil
}

// usable checks that the filesystem of dir can do what the store needs: direct I/O at
// 4 KiB, and holes.
func usable(dir string) error {
	f, err := os.CreateTemp(dir, "usable")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	fd, err := unix.Open(f.Name(), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		_, err = unix.Pwrite(fd, host.Buffer(host.Align), 0)
	}
	if err == nil {
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, host.Align)
	}
	if err == nil {
		return nil
	}
	if !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Unsupported) {
		return err
	}
	return fault.WithCure(fault.Errorf("directory", fault.Unsupported,
		"the filesystem of %s can't do direct I/O at 4 KiB with holes: %w", dir, err),
		"use a directory on XFS, btrfs or ext4, or a block device")
}

// withoutCopyOnWrite has files that will be made in dir overwritten in place, where the
// filesystem asks for that: on btrfs, direct I/O is several times faster so, and the
// store has its own checksums.
func withoutCopyOnWrite(dir string) error {
	if name, err := filesystemOf(dir); err != nil || name != "btrfs" {
		return err
	}
	const nocow = 0x00800000 // FS_NOCOW_FL
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	flags, err := unix.IoctlGetUint32(int(d.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, int(flags|nocow))
	}
	return err
}

// makeXFS puts an XFS filesystem on a device, whatever is there.
func makeXFS(ctx context.Context, device string, id Identity) error {
	// Reflink costs nothing until it is used.
	args := []string{"-q", "-f", "-L", filesystemLabel, "-m", "crc=1,reflink=1,uuid=" + id.Pool.String()}
	if id.Kind == Image {
		args = append(args, "-K") // a new file has nothing to discard
	}
	_, err := run(ctx, tool{"mkfs.xfs", "xfsprogs"}, append(args, device)...)
	return err
}

// mountPool mounts the image or device of the pool at path, and reports whether it had
// to: false when it was mounted already.
func mountPool(ctx context.Context, path string, id Identity) (bool, error) {
	dir := filepath.Join(path, mountName)
	if mounted(path) {
		return false, nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false, err
	}
	if id.Kind == Device {
		device, err := findDevice(ctx, id.Pool, id.Device)
		if err != nil {
			return false, err
		}
		return true, mountXFS(device, dir, "")
	}
	loop, err := attachLoop(filepath.Join(path, imageName))
	if err != nil {
		return false, err
	}
	defer loop.Close() // the mount holds it; without one it detaches now
	// Discard: what is deleted in the image is given back to the filesystem around it.
	return true, mountXFS(loop.Name(), dir, "discard")
}

func mountXFS(device, dir, options string) error {
	const flags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	err := unix.Mount(device, dir, "xfs", flags, options)
	if err == nil {
		return nil
	}
	failed := func(kind fault.Kind, cure string) error {
		return fault.WithCure(fault.Errorf("mount", kind, "can't mount %s at %s: %w", device, dir, err), cure)
	}
	switch {
	case errors.Is(err, unix.ENODEV):
		return failed(fault.Unsupported, "load the kernel's XFS: modprobe xfs")
	case errors.Is(err, unix.EPERM):
		return failed(fault.Denied, "run as root")
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EINVAL):
		return failed(fault.Corrupt, "see what the kernel says (dmesg), and repair the filesystem: xfs_repair "+device)
	case errors.Is(err, unix.EIO):
		return failed(fault.Media, "see what the kernel says (dmesg), and check the disk")
	}
	return failed(fault.KindOf(err), "see what the kernel says: dmesg")
}

// mounted reports whether a filesystem is mounted in the pool at path.
func mounted(path string) bool {
	var under, inside unix.Stat_t
	if unix.Stat(path, &under) != nil {
		return false
	}
	err := unix.Stat(filepath.Join(path, mountName), &inside)
	// One that has shut down answers EIO even here.
	return err == nil && inside.Dev != under.Dev || errors.Is(err, unix.EIO)
}

// unmountPool unmounts and detaches whatever the pool at path has; Busy when it is still
// in use after busyTries.
func unmountPool(path string) error {
	dir := filepath.Join(path, mountName)
	if mounted(path) {
		var err error
		for range busyTries {
			if err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(busyPause)
		}
		if err != nil {
			err = &os.PathError{Op: "unmount", Path: dir, Err: err}
			return fault.WithCure(err, "see who uses it: fuser -vm "+quote(dir))
		}
	}
	return detachLoop(filepath.Join(path, imageName))
}

// tool is a program of the machine, and the Debian package that has it.
type tool struct{ name, packaged string }

// sbin is where programs of administrators may be when PATH leaves it out, as su does.
var sbin = []string{"/usr/sbin", "/sbin"}

// run runs a program and returns what it prints; its complaints become the error.
func run(ctx context.Context, t tool, args ...string) ([]byte, error) {
	name, err := exec.LookPath(t.name)
	for _, dir := range sbin {
		if err != nil {
			name, err = exec.LookPath(filepath.Join(dir, t.name))
		}
	}
	if err != nil {
		return nil, fault.WithCure(fault.Errorf("run", fault.Unsupported, "%s is not installed", t.name),
			"run: apt-get install "+t.packaged)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, fault.Errorf("run", fault.Canceled, "%s was interrupted: %w", t.name, ctx.Err())
	case err != nil:
		return nil, fault.Errorf("run", fault.Unknown, "%s %s: %w: %s",
			t.name, strings.Join(args, " "), err, strings.Join(strings.Fields(complaint.String()), " "))
	}
	return out, nil
}
