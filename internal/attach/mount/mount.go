// Package mount puts filesystems on devices and devices into the directory tree: it
// makes, checks, mounts, grows, trims, freezes and unmounts them.
//
// It remembers nothing. What is mounted is asked of the kernel each time, and what is on
// a device of the device, so the answers are true after any restart, and every verb can be
// repeated: what is done already is done.
//
// All that may have to wait for a device is done by programs of the machine, in processes
// of their own (mkfs, mount, fstrim and others), never by a thread of the caller: if the
// caller serves the device itself, such a thread could wait for ever, and could not even be
// killed. A verb whose ctx ends returns at once; its program, which may be waiting for the
// device, ends when that answers.
package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Kind is a kind of filesystem that this package makes.
type Kind string

// The kinds.
const (
	Ext4 Kind = "ext4"
	XFS  Kind = "xfs"
)

// Options say how a device is mounted.
type Options struct {
	Kind     Kind     // "" is what is on the device
	ReadOnly bool     //
	Flags    []string // as mount -o takes them, such as noatime, discard
}

// Mount mounts a device at dir, which is made if it is missing. If it is mounted there
// already, that is success, whatever the options; something else there is fault.Exists.
// The error is fault.Precondition when there is no filesystem on the device, or another
// than Options.Kind, fault.Corrupt when the kernel does not accept it.
func Mount(ctx context.Context, device, dir string, o Options) error {
	const op = "mount.Mount"
	there, err := already(device, dir)
	if err != nil || there {
		return fault.Wrap(op, err)
	}
	found, err := Probe(ctx, device)
	if err != nil {
		return fault.Wrap(op, err)
	}
	switch {
	case found.Kind == "":
		return fault.WithCure(fault.Errorf(op, fault.Precondition, "%s carries %s, no filesystem", device, found),
			"make one first")
	case o.Kind != "" && o.Kind != found.Kind:
		return fault.Errorf(op, fault.Precondition, "%s carries %s, not %s", device, found, o.Kind)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fault.Wrap(op, err)
	}
	flags := slices.Clone(o.Flags)
	if o.ReadOnly {
		flags = append(flags, "ro")
	}
	if found.Kind == XFS {
		flags = append(flags, "nouuid") // or it is refused beside its clone, its snapshot, and a mount of it whose device is dead
	}
	args := []string{"-t", string(found.Kind)}
	if len(flags) > 0 {
		args = append(args, "-o", strings.Join(flags, ","))
	}
	if _, err := run(ctx, mountTool, append(args, device, dir)...); err != nil {
		return refused(op, device, dir, err)
	}
	return nil
}

// refused says what a failed mount(8) means, by its exit status (mount(8), RETURN
// CODES), which tells little.
func refused(op, device, dir string, err error) error {
	if exitOf(err) != 32 { // it was not the mount itself that failed
		return fault.Wrap(op, err)
	}
	if there, alreadyErr := already(device, dir); there && alreadyErr == nil {
		return nil // somebody was faster
	}
	return fault.WithCure(fault.Errorf(op, fault.Corrupt, "mount %s at %s: %w", device, dir, err),
		"see what the kernel says (dmesg); then check the filesystem: e2fsck -f, or xfs_repair")
}

// already reports whether the device is mounted at dir. Another device there is
// fault.Exists.
func already(device, dir string) (bool, error) {
	number, err := numberOf(device)
	if err != nil {
		return false, err
	}
	m, found, err := At(dir)
	if err != nil || !found {
		return false, err
	}
	if m.Device != number {
		return false, fault.WithCure(fault.Errorf("mount.At", fault.Exists, "%s is mounted at %s", m.Source, dir), "unmount that, or use another directory")
	}
	return true, nil
}

// numberOf returns the device number of a block device.
func numberOf(device string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: device, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, fault.Errorf("mount", fault.Invalid, "%s is no block device", device)
	}
	return st.Rdev, nil
}

// Unmount takes off what is mounted at dir, all layers of it. Nothing there is success.
// It is fault.Busy while a process uses it.
func Unmount(ctx context.Context, dir string) error {
	const op = "mount.Unmount"
	for {
		_, found, err := At(dir)
		if err != nil || !found {
			return fault.Wrap(op, err)
		}
		_, err = run(ctx, umountTool, "--no-canonicalize", dir)
		if err == nil {
			continue
		}
		if exitOf(err) != 32 {
			return fault.Wrap(op, err)
		}
		if _, found, _ := At(dir); !found { // somebody was faster
			return nil
		}
		return fault.WithCure(fault.Errorf(op, fault.Busy, "%s: %w", dir, err), "see who uses it: fuser -vm "+dir)
	}
}

// Grow makes the filesystem on a device as large as the device has become: where it is
// mounted, or, of ext4, unmounted too, after a check. One that is as large is success.
// Growing a mounted ext4 needs CAP_SYS_RESOURCE: without it the error is fault.Denied.
func Grow(ctx context.Context, device string) error {
	const op = "mount.Grow"
	mounts, err := Of(device)
	if err != nil {
		return fault.Wrap(op, err)
	}
	if len(mounts) > 0 {
		return fault.Wrap(op, growMounted(ctx, device, mounts[0]))
	}
	found, err := Probe(ctx, device)
	switch {
	case err != nil:
	case found.Kind == XFS:
		err = fault.WithCure(fault.Errorf(op, fault.Precondition, "XFS on %s grows only where it is mounted", device), "mount it first")
	case found.Kind != Ext4:
		err = fault.Errorf(op, fault.Precondition, "%s carries %s, no filesystem", device, found)
	default:
		if err = checkExt4(ctx, device, "-f"); err == nil {
			_, err = run(ctx, resize2fs, device)
		}
	}
	return fault.Wrap(op, err)
}

// Behind reports whether the ext4 on a device, which is not mounted, is smaller than the
// device has become. Of XFS that is not known before it is mounted, and of what can't be
// read it is not said.
func Behind(ctx context.Context, device string) bool {
	found, err := Probe(ctx, device)
	if err != nil || found.Kind != Ext4 {
		return false
	}
	size, err := sizeOf(device)
	if err != nil {
		return false
	}
	out, err := run(ctx, dumpe2fs, "-h", device)
	if err != nil {
		return false
	}
	blocks, blockBytes := int64(0), int64(0)
	for _, line := range strings.Split(string(out), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && name == "Block count" {
			blocks, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64) // 0 is not known
		} else if ok && name == "Block size" {
			blockBytes, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return blocks*blockBytes > 0 && size-blocks*blockBytes >= blockBytes
}

func growMounted(ctx context.Context, device string, m Mounted) (err error) {
	switch Kind(m.Kind) {
	case XFS:
		_, err = run(ctx, xfsGrowfs, m.Dir)
	case Ext4:
		_, err = run(ctx, resize2fs, device)
		if err != nil && !canResize() {
			err = fault.WithCure(fault.Errorf("grow", fault.Denied, "%w", err), "unmount it to have it grown, or run with CAP_SYS_RESOURCE")
		}
	default:
		err = fault.Errorf("grow", fault.Unsupported, "%s at %s", m.Kind, m.Dir)
	}
	return err
}

// canResize reports whether this process has CAP_SYS_RESOURCE.
func canResize() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective>>unix.CAP_SYS_RESOURCE&1 != 0
}

// Trim gives the space that the filesystem at dir does not use back to the volume, and
// returns how many bytes it offered; some of them may have been given back before. The
// error is fault.Unsupported when the device takes no discards.
func Trim(ctx context.Context, dir string) (bytes int64, err error) {
	out, err := run(ctx, fstrim, "--verbose", dir)
	if exitOf(err) == 1 && !discards(dir) {
		return 0, fault.Errorf("mount.Trim", fault.Unsupported, "what is at %s takes no discards: %w", dir, err)
	}
	if err != nil {
		return 0, fault.Wrap("mount.Trim", err)
	}
	said := string(out)
	if i := strings.LastIndexByte(said, '('); i >= 0 {
		if _, err := fmt.Sscanf(said[i:], "(%d bytes)", &bytes); err == nil {
			return bytes, nil
		}
	}
	return 0, fault.Errorf("mount.Trim", fault.Internal, "what fstrim says can't be read: %q", said)
}

// discards reports whether the device at dir takes discards.
func discards(dir string) bool {
	m, found, err := At(dir)
	if err != nil || !found {
		return true // nothing is known against it
	}
	raw, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/queue/discard_max_bytes", unix.Major(m.Device), unix.Minor(m.Device)))
	return err != nil || strings.TrimSpace(string(raw)) != "0"
}

// Check repairs what can be repaired safely on a device that is not mounted, as is to be
// done before it is. Of XFS that is the kernel's business. The error is fault.Corrupt when a
// person has to look, and fault.Busy when it is mounted.
func Check(ctx context.Context, device string) error {
	const op = "mount.Check"
	mounts, err := Of(device)
	if err != nil {
		return fault.Wrap(op, err)
	}
	if len(mounts) > 0 {
		return fault.Errorf(op, fault.Busy, "%s is mounted at %s", device, mounts[0].Dir)
	}
	found, err := Probe(ctx, device)
	if err == nil && found.Kind == Ext4 {
		err = checkExt4(ctx, device)
	}
	return fault.Wrap(op, err)
}

func checkExt4(ctx context.Context, device string, more ...string) error {
	_, err := run(ctx, e2fsck, append(append([]string{"-p"}, more...), device)...)
	switch code := exitOf(err); {
	case err == nil || code == 1: // errors were corrected
		return nil
	case code > 0 && code&4 != 0:
		return fault.WithCure(fault.Errorf("check", fault.Corrupt, "%w", err), "take a snapshot, then e2fsck -f "+device)
	}
	return err
}

// absolute returns dir without symbolic links, as the kernel has it in its table. What
// is mounted is not touched: it may not answer.
func absolute(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return dir, nil
	}
	return filepath.Join(parent, filepath.Base(dir)), err
}
