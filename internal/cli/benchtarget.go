package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/load"
)

// benchTarget is what a load is put on.
type benchTarget struct {
	*load.Target
	what     string // in words
	notes    []string
	readOnly bool
	held     int    // keeps the device from being mounted; -1 for nothing
	spoilt   string // the device that was overwritten, and is to be empty afterwards
	size     int64  // of it, in bytes
}

func (t *benchTarget) close() {
	t.Close()
	if t.spoilt != "" {
		_ = discard(t.spoilt, t.size) // garbage stays on a device that can't: mkfs will ask
	}
	if t.held >= 0 {
		_ = unix.Close(t.held) // it was only read
	}
}

// subject opens what of the volume is measured: a scratch file where it is mounted, else
// its device.
func (b *benching) subject(ctx context.Context, v *v1.Volume) (*benchTarget, error) {
	name, a := v.GetMeta().GetName(), v.GetStatus().GetAttachment()
	if a.GetState() != v1.AttachmentState_ATTACHMENT_STATE_ATTACHED || a.GetDevice() == "" {
		return nil, fault.WithCure(fault.Errorf("bench", fault.Precondition, "volume %s is not attached", name),
			"holdfast volume attach "+name+" --mount /mnt/"+name+", then run this on the node where it is attached")
	}
	device, number, err := blockDevice(a.GetDevice())
	if err != nil {
		return nil, fault.WithCure(fault.Errorf("bench", fault.Precondition, "volume %s has no device on this machine: %w", name, err),
			"run this on the node where it is attached: holdfast volume get "+name)
	}
	if mount := a.GetMountPath(); mount != "" && onDevice(mount, number) {
		if b.destructive {
			return nil, fault.WithCure(fault.Errorf("bench", fault.Precondition, "volume %s is mounted", name), "leave out --destructive: a scratch file is written, and nothing is lost; or unmount it first: holdfast volume unmount "+name)
		}
		return b.scratch(ctx, mount)
	}
	return b.device(v, device)
}

// scratch makes the scratch file on a mounted filesystem.
func (b *benching) scratch(ctx context.Context, mount string) (*benchTarget, error) {
	size, err := b.affordable(mount)
	if err != nil {
		return nil, err
	}
	t, err := load.Scratch(ctx, mount, size)
	if err != nil {
		return nil, err
	}
	return &benchTarget{Target: t, held: -1, what: fmt.Sprintf("a scratch file of %s on %s", bytesText(size), mount),
		notes: []string{"the filesystem has the file's space back; what it took in the pools comes back with: fstrim " + mount}}, nil
}

// device opens the device itself, which the kernel then lets nobody mount.
func (b *benching) device(v *v1.Volume, device string) (*benchTarget, error) {
	name := v.GetMeta().GetName()
	held, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err == unix.EBUSY {
		return nil, fault.WithCure(fault.Errorf("bench", fault.Busy, "%s is in use, but not mounted by Holdfast", device), "end its use, or mount it with holdfast volume mount "+name+" PATH: then a scratch file is measured")
	}
	if err != nil {
		return nil, fault.Errorf("bench", fault.KindOf(err), "%s: %w", device, err)
	}
	t := &benchTarget{what: device + ", overwritten", readOnly: !b.destructive, held: held}
	if !t.readOnly {
		t.spoilt, t.size = device, v.GetSpec().GetSizeBytes()
		t.notes = append(t.notes, "the volume is empty now: what it held and what was written is discarded")
	} else {
		t.what = device + ", only read"
		t.notes = append(t.notes, "it is not mounted, so it is not written: mount it, or give up what it holds with --destructive",
			"where nothing was ever written, reads reach no disk and are faster than raw")
	}
	if t.Target, err = load.Device(device, v.GetSpec().GetSizeBytes(), t.readOnly); err != nil {
		_ = unix.Close(held) // it was only read
		return nil, err
	}
	return t, nil
}

// discard gives back all that a device holds.
func discard(device string, size int64) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing is buffered
	area := [2]uint64{0, uint64(size)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&area))); errno != 0 {
		return &os.PathError{Op: "discard", Path: device, Err: errno}
	}
	return nil
}

// raw makes a file on the disk of a pool of this machine: the one with the volume's
// replica, or any. It returns nil when there is none.
func (b *benching) raw(ctx context.Context, c *client.Client, v *v1.Volume) (*benchTarget, error) {
	node := v.GetStatus().GetAttachment().GetNodeId()
	pools, err := collect(func(token string) ([]*v1.Pool, string, error) {
		out, err := c.Pools.ListPools(ctx, &v1.ListPoolsRequest{Node: node, PageToken: token})
		return out.GetPools(), out.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	best := (*v1.Pool)(nil)
	for _, p := range pools {
		if !p.GetStatus().GetHealthy() || p.GetStatus().GetPath() == "" {
			continue
		}
		for _, replica := range v.GetStatus().GetReplicas() {
			if replica.PoolId == p.GetMeta().GetId() {
				best = p
			}
		}
		if best == nil {
			best = p
		}
	}
	if best == nil {
		return nil, nil
	}
	path := best.Status.Path
	size, err := b.affordable(path)
	if err != nil {
		return nil, err
	}
	t, err := load.Scratch(ctx, path, size)
	if err != nil {
		return nil, err
	}
	return &benchTarget{Target: t, what: fmt.Sprintf("a file of %s in pool %s (%s)", bytesText(size), best.GetMeta().GetName(), path), held: -1}, nil
}

// affordable is the size of a file in a directory: what was asked for, and at most a
// quarter of what is free there.
func (b *benching) affordable(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fault.Errorf("bench", fault.KindOf(err), "%s: %w", dir, err)
	}
	size := min(int64(b.size), int64(fs.Bavail)*fs.Bsize/4) &^ (1<<20 - 1)
	if size < benchSizeMin {
		return 0, fault.WithCure(fault.Errorf("bench", fault.NoSpace, "%s has %s free; a file of %s would take more than a quarter of it", dir, bytesText(int64(fs.Bavail)*fs.Bsize), bytesText(benchSizeMin)), "free some space there")
	}
	return size, nil
}

// blockDevice follows the link of a device to the device, and returns its number.
func blockDevice(link string) (path string, number uint64, err error) {
	if path, err = filepath.EvalSymlinks(link); err != nil {
		return "", 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", 0, fmt.Errorf("%s is no block device", path)
	}
	return path, st.Rdev, nil
}

// onDevice reports whether what is at path lies on a filesystem of that device.
func onDevice(path string, number uint64) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Dev == number
}
