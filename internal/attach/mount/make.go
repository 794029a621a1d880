package mount

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Found is what a device carries.
type Found struct {
	Kind  Kind     // "" when it is none that this package makes
	UUID  string   //
	Label string   //
	Types []string // of all signatures, such as ext4, LVM2_member, gpt; empty when it is blank
}

// Blank reports whether nothing was found.
func (f Found) Blank() bool { return len(f.Types) == 0 }

// String describes it.
func (f Found) String() string {
	if f.Blank() {
		return "nothing"
	}
	return strings.Join(f.Types, ", ")
}

// Probe looks at what a device carries.
func Probe(ctx context.Context, device string) (f Found, err error) {
	const op = "mount.Probe"
	if _, err := numberOf(device); err != nil {
		return f, fault.Wrap(op, err)
	}
	out, err := run(ctx, wipefs, "--json", "--no-act", device)
	if err != nil {
		return f, fault.Wrap(op, err)
	}
	return parseSignatures(out)
}

func parseSignatures(out []byte) (f Found, err error) {
	var said struct {
		Signatures []struct{ Type, UUID, Label string }
	}
	if len(bytes.TrimSpace(out)) > 0 {
		if err := json.Unmarshal(out, &said); err != nil {
			return f, fault.Errorf("mount.Probe", fault.Internal, "what wipefs says can't be read: %w", err)
		}
	}
	for _, s := range said.Signatures {
		f.Types = append(f.Types, s.Type)
		if k := Kind(s.Type); k == Ext4 || k == XFS {
			f.Kind, f.UUID, f.Label = k, s.UUID, s.Label
		}
	}
	if len(f.Types) > 1 { // which one is right, a person must say
		f.Kind = ""
	}
	return f, nil
}

// MakeOptions say what filesystem to make.
type MakeOptions struct {
	Kind  Kind
	Label string
	// Force makes it whatever the device carries, which is lost.
	Force bool
	// Flags are given to mkfs as they are, for those who know.
	Flags []string
}

// xfsBytesMin is the smallest device that mkfs.xfs takes.
const xfsBytesMin = 300 << 20

// Make makes a filesystem on a device. A device that carries anything is refused with
// fault.Exists, unless forced: a filesystem of the kind that is asked for, too, since who
// wants that one asks Probe first; and bytes that are nothing known, where filesystems have
// what they need most, since a filesystem whose beginning was lost looks like that. One that is mounted or otherwise in use is fault.Busy,
// even then. Everything on the device is discarded first, so what it held before takes no
// space, and tables that must be zeros need not be written.
func Make(ctx context.Context, device string, o MakeOptions) error {
	const op = "mount.Make"
	if o.Kind != Ext4 && o.Kind != XFS {
		return fault.Errorf(op, fault.Invalid, "filesystem %q: use %s or %s", o.Kind, Ext4, XFS)
	}
	size, err := idle(device)
	if err != nil {
		return fault.Wrap(op, err)
	}
	if o.Kind == XFS && size < xfsBytesMin {
		return fault.WithCure(fault.Errorf(op, fault.Invalid, "%s has %d bytes; XFS needs %d MiB", device, size, xfsBytesMin>>20),
			"make the volume larger, or use ext4")
	}
	zeros, err := empty(ctx, device, size, o.Force)
	switch {
	case err != nil:
	case o.Kind == XFS:
		err = makeXFS(ctx, device, o)
	default:
		err = makeExt4(ctx, device, o, zeros)
	}
	return fault.Wrap(op, err)
}

// idle returns the size of a device that is not mounted, and that no other device is
// made of.
func idle(device string) (int64, error) {
	mounts, err := Of(device)
	if err != nil {
		return 0, err
	}
	if len(mounts) > 0 {
		return 0, fault.WithCure(fault.Errorf("idle", fault.Busy, "%s is mounted at %s", device, mounts[0].Dir), "unmount it")
	}
	if holders, _ := filepath.Glob(inSysfs(device, "holders/*")); len(holders) > 0 { // the pattern is good
		return 0, fault.Errorf("idle", fault.Busy, "%s is a part of %s", device, filepath.Base(holders[0]))
	}
	return sizeOf(device)
}

// sizeOf returns the bytes of a device.
func sizeOf(device string) (int64, error) {
	raw, err := os.ReadFile(inSysfs(device, "size"))
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	return sectors * 512, err
}

// inSysfs returns the path of something that sysfs has about a device. It is asked there
// because opening a device may wait for it.
func inSysfs(device, name string) string {
	number, _ := numberOf(device) // was looked at before
	return fmt.Sprintf("/sys/dev/block/%d:%d/%s", unix.Major(number), unix.Minor(number), name)
}

// empty takes away what a device carries, which must be nothing unless forced, and
// reports whether it then reads as zeros.
func empty(ctx context.Context, device string, size int64, force bool) (zeros bool, err error) {
	found, err := Probe(ctx, device)
	if err != nil {
		return false, err
	}
	if !found.Blank() {
		if !force {
			return false, fault.WithCure(fault.Errorf("empty", fault.Exists, "%s carries %s", device, found), "if nothing of that is needed, force it")
		}
		if _, err := run(ctx, wipefs, "--all", device); err != nil { // which refuses what is in use
			return false, err
		}
	} else if !force {
		if err := unused(ctx, device, size); err != nil {
			return false, err
		}
	}
	if _, err = run(ctx, blkdiscard, device); exitOf(err) > 0 { // it takes no discards: it may hold anything
		return false, nil
	}
	return err == nil, err
}

// lookBytes is how much is looked at in each place.
const lookBytes = 1 << 20

// unused returns fault.Exists when there is something else than zeros on a device: at its
// beginning, at its end, where ext4 has the first copy of its beginning, and where XFS has
// the beginnings of its parts.
func unused(ctx context.Context, device string, size int64) error {
	for _, at := range []int64{0, 128 << 20, size / 4, size / 2, size / 4 * 3, size - lookBytes} {
		at = max(0, at) / 4096 * 4096
		if at >= size {
			continue
		}
		n := min(lookBytes, size-at)
		_, err := run(ctx, cmp, "--quiet", "--ignore-initial="+strconv.FormatInt(at, 10)+":0", "--bytes="+strconv.FormatInt(n, 10), device, "/dev/zero")
		switch {
		case exitOf(err) == 1:
			return fault.WithCure(fault.Errorf("unused", fault.Exists, "%s carries no filesystem, but it is not blank: there is something at byte %d or soon after", device, at),
				"if a filesystem lost its beginning, repair it: e2fsck, xfs_repair, or an older snapshot; if nothing of that is needed: blkdiscard "+device)
		case err != nil:
			return err
		}
	}
	return nil
}

func makeXFS(ctx context.Context, device string, o MakeOptions) error {
	args := []string{"-q", "-f", "-K", "-m", "crc=1,reflink=1"}
	if o.Label != "" {
		args = append(args, "-L", o.Label)
	}
	_, err := run(ctx, mkfsXFS, append(append(args, o.Flags...), device)...)
	return err
}

// makeExt4 makes an ext4 with blocks of 4 KiB and nothing reserved for root. On a device
// that reads as zeros its tables are not written, now or by the kernel later; else the
// kernel does it in the background after the first mount.
func makeExt4(ctx context.Context, device string, o MakeOptions, zeros bool) error {
	args := []string{"-q", "-F", "-b", "4096", "-m", "0"}
	if o.Label != "" {
		args = append(args, "-L", o.Label)
	}
	make := func(extended string) error {
		all := append(append(args, "-E", extended), o.Flags...)
		_, err := run(ctx, mkfsExt4, append(all, device)...)
		return err
	}
	if zeros && make("nodiscard,assume_storage_prezeroed=1") == nil {
		return nil
	}
	// e2fsprogs before 1.47 does not know that.
	return make("nodiscard,lazy_itable_init=1,lazy_journal_init=1")
}
