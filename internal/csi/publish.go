package csi

import (
	"context"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// NodePublishVolume shows a staged volume at the path that a container gets.
func (n *node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case r.TargetPath == "":
		return nil, missing("the target path")
	}
	if err := check(r.VolumeCapability); err != nil {
		return nil, err
	}
	if r.StagingTargetPath == "" {
		return nil, refuse(codes.FailedPrecondition, "the volume must be staged first, and the staging path named")
	}
	unlock, err := n.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	target := real(r.TargetPath)
	seen, err := n.targets(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if r.VolumeCapability.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		if other := seen.other(target); other != "" {
			return nil, refuse(codes.FailedPrecondition, "the volume may have one user, and is published at %s", other)
		}
	}
	b := binding{from: real(r.StagingTargetPath), to: target, readOnly: r.Readonly || readOnly(r.VolumeCapability), complete: seen.has(target)}
	if r.VolumeCapability.GetBlock() != nil {
		err = n.publishDevice(ctx, r.VolumeId, b)
	} else {
		err = publishTree(b)
	}
	if err != nil {
		return nil, err
	}
	if err := seen.add(target); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// binding is something that is to be shown at a second path.
type binding struct {
	from, to string
	readOnly bool
	complete bool // an earlier call came to its end
}

// publishTree shows a mounted filesystem at a second path.
func publishTree(b binding) error {
	staged, found, err := mount.At(b.from)
	if err != nil {
		return err
	}
	if !found {
		return refuse(codes.FailedPrecondition, "nothing is staged at %s", b.from)
	}
	there, found, err := mount.At(b.to)
	if err != nil {
		return err
	}
	if found {
		if there.Device != staged.Device || there.ReadOnly && !b.readOnly && !staged.ReadOnly || !there.ReadOnly && b.readOnly && b.complete {
			return refuse(codes.AlreadyExists, "%s is mounted at %s in another way", there.Source, b.to)
		}
		return protect(b, there.ReadOnly)
	}
	if err := os.MkdirAll(b.to, 0o750); err != nil {
		return err
	}
	if err := unix.Mount(b.from, b.to, "", unix.MS_BIND, ""); err != nil {
		return fault.Errorf("csi.Publish", fault.FromErrno(err.(unix.Errno)), "bind %s to %s: %w", b.from, b.to, err)
	}
	return protect(b, false)
}

// protect makes a binding read-only, if it is to be and is not. A binding that can't be is
// taken away again: nobody may write through it.
func protect(b binding, already bool) error {
	if !b.readOnly || already {
		return nil
	}
	if err := unix.Mount("", b.to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		_ = unix.Unmount(b.to, unix.MNT_DETACH)
		return fault.Errorf("csi.Publish", fault.FromErrno(err.(unix.Errno)), "make %s read-only: %w", b.to, err)
	}
	return nil
}

// publishDevice shows a device at a second path.
func (n *node) publishDevice(ctx context.Context, volume string, b binding) error {
	device, err := n.device(ctx, volume)
	if err != nil {
		return err
	}
	st, err := stat(device)
	if err != nil {
		return err
	}
	if b.readOnly && !deviceReadOnly(st.Rdev) {
		return refuse(codes.FailedPrecondition, "the device can be written: publish the volume read-only at the controller too")
	}
	there, found, err := mount.At(b.to)
	if err != nil {
		return err
	}
	if found {
		if now, err := stat(b.to); err == nil && now.Mode&unix.S_IFMT == unix.S_IFBLK && now.Rdev == st.Rdev {
			return nil
		}
		return refuse(codes.AlreadyExists, "something else is mounted at %s: %s", b.to, there.Source)
	}
	if err := os.MkdirAll(filepath.Dir(b.to), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(b.to, os.O_CREATE|os.O_RDONLY, 0o660)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Mount(device, b.to, "", unix.MS_BIND, ""); err != nil {
		return fault.Errorf("csi.Publish", fault.FromErrno(err.(unix.Errno)), "bind %s to %s: %w", device, b.to, err)
	}
	return nil
}

// device returns the path of the device that a volume is on this node.
func (n *node) device(ctx context.Context, volume string) (string, error) {
	a, err := n.api.claim().Here(ctx, volume, n.d.o.Node)
	if err != nil {
		return "", err
	}
	if a.GetStatus().GetDevice() == "" {
		return "", refuse(codes.FailedPrecondition, "the volume is not attached here: it must be staged first")
	}
	return filepath.EvalSymlinks(a.GetStatus().GetDevice())
}

func stat(path string) (st unix.Stat_t, err error) {
	if err := unix.Stat(path, &st); err != nil {
		return st, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st, nil
}

// NodeUnpublishVolume takes a volume away from the path of a container, and the path too.
func (n *node) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case r.TargetPath == "":
		return nil, missing("the target path")
	}
	unlock, err := n.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	target := real(r.TargetPath)
	if err := mount.Unmount(ctx, target); err != nil {
		return nil, err
	}
	if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	seen, err := n.targets(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if err := seen.remove(target); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}
