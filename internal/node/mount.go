package node

import (
	"context"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach/frontend"
	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// mountTimeout is how long making and mounting a filesystem may take before it is said
// that it does.
const mountTimeout = 2 * time.Minute

// snapshotFlags are for filesystems of snapshots. One that was not frozen has a journal
// that would have to be replayed, which a device that can't be written does not allow.
var snapshotFlags = map[mount.Kind][]string{mount.Ext4: {"noload"}, mount.XFS: {"norecovery"}}

// mount mounts the device where it is wished to be, and nowhere else that a wish before
// this one named. A blank device gets its volume's filesystem first.
func (a *attachment) mount(w wish) error {
	ctx, cancel := context.WithTimeout(a.d.ctx, mountTimeout)
	defer cancel()
	if err := a.unmount(ctx, w.attach.MountPath); err != nil || w.attach.MountPath == "" || a.mounted == w.attach.MountPath {
		return err
	}
	if a.kind == frontend.Export {
		return fault.WithCure(fault.Errorf("node.mount", fault.Precondition, "the volume is exported to clients, and is no device here"), "detach it, and attach it without --frontend export")
	}
	device := a.show.Device().Path
	kind := mount.Kind(w.volume.Spec.Filesystem)
	found, err := mount.Probe(ctx, device)
	if err != nil {
		return err
	}
	readOnly := w.attach.ReadOnly || a.snapshot
	if found.Blank() && !readOnly {
		if kind == "" {
			kind = mount.Ext4
		}
		a.log.Info("making a filesystem", "kind", kind, "device", device)
		if err := mount.Make(ctx, device, mount.MakeOptions{Kind: kind}); err != nil {
			return err
		}
	} else if at, err := mount.Of(device); err == nil && len(at) == 0 && !readOnly {
		if err := mount.Check(ctx, device); err != nil {
			return err
		}
		if mount.Behind(ctx, device) { // the volume grew when it was mounted nowhere, or couldn't grow with it
			if err := mount.Grow(ctx, device); err != nil {
				return err
			}
		}
	}
	flags := w.attach.MountOptions
	if a.snapshot {
		flags = append(slices.Clone(flags), snapshotFlags[found.Kind]...)
	}
	err = mount.Mount(ctx, device, w.attach.MountPath, mount.Options{Kind: kind, ReadOnly: readOnly, Flags: flags})
	if err != nil {
		return err
	}
	a.mounted = w.attach.MountPath
	a.log.Info("mounted", "device", device, "path", a.mounted)
	if readOnly || found.Kind != mount.XFS {
		return nil
	}
	return mount.Grow(ctx, device) // nothing, if it has not grown
}

// unmount takes the device off where this node mounted it, unless that is where it is to
// stay. What others mounted is theirs.
func (a *attachment) unmount(ctx context.Context, stay string) error {
	if a.mounted == "" || a.mounted == stay {
		return nil
	}
	if err := mount.Unmount(ctx, a.mounted); err != nil {
		if fault.Is(err, fault.Busy) {
			return fault.WithCure(err, "end what uses files below "+a.mounted)
		}
		return err
	}
	a.mounted = ""
	return nil
}
