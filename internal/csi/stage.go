package csi

import (
	"cmp"
	"context"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// NodeStageVolume makes a volume a device here, if the controller has not done so, and
// mounts its filesystem, which is made when the device is blank.
func (n *node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case r.StagingTargetPath == "":
		return nil, missing("the staging path")
	}
	if err := check(r.VolumeCapability); err != nil {
		return nil, err
	}
	unlock, err := n.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	me, err := n.me(ctx)
	if err != nil {
		return nil, err
	}
	ro := readOnly(r.VolumeCapability) || r.PublishContext[contextReadOnly] == "true"
	a, err := n.api.claim().Attach(ctx, &holdfastv1.AttachRequest{Volume: r.VolumeId, Node: me.GetMeta().GetId(), ReadOnly: ro})
	if err != nil {
		return nil, err
	}
	if r.VolumeCapability.GetBlock() == nil {
		want := staging{device: a.GetStatus().GetDevice(), path: real(r.StagingTargetPath), readOnly: ro, flags: r.VolumeCapability.GetMount().GetMountFlags(),
			kind: mount.Kind(cmp.Or(r.VolumeCapability.GetMount().GetFsType(), r.VolumeContext[contextFilesystem], string(mount.Ext4)))}
		if err := n.stage(ctx, r.VolumeId, want); err != nil {
			return nil, err
		}
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// staging is a filesystem that is to be mounted.
type staging struct {
	device, path string
	kind         mount.Kind
	readOnly     bool
	flags        []string
}

// stage mounts a filesystem, after making it if the device is blank, and makes it as large
// as the device: one that was restored may be smaller.
func (n *node) stage(ctx context.Context, volume string, s staging) error {
	where, err := mount.Of(s.device)
	if err != nil {
		return err
	}
	for _, m := range where {
		if m.Dir == s.path {
			if m.ReadOnly != s.readOnly {
				return refuse(codes.AlreadyExists, "%s is mounted at %s in another way", s.device, s.path)
			}
			return nil
		}
	}
	found, err := mount.Probe(ctx, s.device)
	switch {
	case err != nil:
		return err
	case found.Blank() && s.readOnly:
		return refuse(codes.FailedPrecondition, "the volume is blank, and can't be given a filesystem read-only")
	case found.Blank():
		if err := mount.Make(ctx, s.device, mount.MakeOptions{Kind: s.kind}); err != nil {
			return err
		}
	}
	if err := mount.Mount(ctx, s.device, s.path, mount.Options{Kind: s.kind, ReadOnly: s.readOnly, Flags: s.flags}); err != nil {
		return err
	}
	if !s.readOnly && !found.Blank() {
		if err := mount.Grow(ctx, s.device); err != nil {
			n.d.log.Warn("the filesystem is not as large as its volume", "volume", volume, "device", s.device, obs.Err(err))
		}
	}
	return nil
}

// NodeUnstageVolume unmounts a volume's filesystem. The device stays until the controller
// takes it away.
func (n *node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case r.StagingTargetPath == "":
		return nil, missing("the staging path")
	}
	unlock, err := n.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := mount.Unmount(ctx, real(r.StagingTargetPath)); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// real returns the path as the kernel's table of mounts has it: without symbolic links on
// the way. The last element is left: it may be what is mounted, or not be there yet.
func real(path string) string {
	path = filepath.Clean(path)
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}
