package csitest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// plane does what control and nodes would, one step after the other.
type plane struct {
	nodesUp
	store state.Store
	dir   string
	logf  func(format string, args ...any)

	devices map[string]device // by volume
}

// device is a loop device that shows a volume.
type device struct{ node, path, mounted string }

func newPlane(store state.Store, dir string, logf func(string, ...any)) *plane {
	return &plane{nodesUp: nodesUp{up: map[string]bool{}}, store: store, dir: dir, logf: logf, devices: map[string]device{}}
}

// lookAgain is how often the plane looks whether a device is out of use, which nobody
// tells it.
const lookAgain = 20 * time.Millisecond

// run works until ctx ends.
func (p *plane) run(ctx context.Context) {
	changed := p.store.Watch(ctx, state.Root, 0)
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		if err := p.look(ctx); err != nil && ctx.Err() == nil {
			p.logf("plane: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case _, ok := <-changed:
			if !ok {
				changed = p.store.Watch(ctx, state.Root, 0)
			}
		}
	}
}

// look does what is to be done by now.
func (p *plane) look(ctx context.Context) error {
	for _, step := range []func(context.Context) error{p.detach, p.snapshots, p.volumes, p.attach} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *plane) commit(ctx context.Context, ops ...state.Op) error {
	_, err := p.store.Commit(ctx, ops...)
	return err
}

func (p *plane) file(id string) string { return filepath.Join(p.dir, id) }

func (p *plane) volumes(ctx context.Context) error {
	volumes, _, err := state.Volumes.List(ctx, p.store)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		assignment, err := state.Assignments.Get(ctx, p.store, v.ID)
		switch {
		case v.Value.Spec.Deleting:
			err = p.destroy(ctx, v)
		case err != nil:
			err = p.make(ctx, v)
		case assignment.Value.SizeBytes < v.Value.Spec.SizeBytes:
			err = p.grow(ctx, v, assignment.Value)
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Value.Meta.Name, err)
		}
	}
	return nil
}

// make makes a volume's file, and writes what control and nodes would of its replicas.
func (p *plane) make(ctx context.Context, v state.Entry[*holdfastv1.Volume]) error {
	size := v.Value.Spec.SizeBytes
	if source := v.Value.Spec.SourceSnapshotId; source != "" {
		if err := copyFile(p.file(source), p.file(v.ID)); err != nil {
			return err
		}
	}
	if err := truncate(p.file(v.ID), size); err != nil {
		return err
	}
	pools, _, err := state.Pools.List(ctx, p.store)
	if err != nil {
		return err
	}
	alive, _, err := state.Alive.List(ctx, p.store)
	if err != nil {
		return err
	}
	pools = slices.DeleteFunc(pools, func(x state.Entry[*holdfastv1.Pool]) bool {
		return !slices.ContainsFunc(alive, func(n state.Entry[*emptypb.Empty]) bool { return n.ID == x.Value.Spec.NodeId })
	})
	a := &statepb.Assignment{VolumeId: v.ID, SizeBytes: size}
	r := &statepb.Record{VolumeId: v.ID, Version: 1, SizeBytes: size, Epoch: 1, Generation: 1}
	ops := []state.Op{}
	for i := range min(int(v.Value.Spec.Replicas), len(pools)) {
		id, node := newID(), pools[i].Value.Spec.NodeId
		a.Replicas = append(a.Replicas, &statepb.AssignedReplica{ReplicaId: id, NodeId: node, PoolId: pools[i].ID})
		r.Members = append(r.Members, &statepb.Member{ReplicaId: id, NodeId: node, State: uint32(spec.InSync)})
		ops = append(ops, state.Holdings.Put(id, &statepb.Holding{ReplicaId: id, VolumeId: v.ID, NodeId: node, PoolId: pools[i].ID, Ready: true, SizeBytes: size}))
	}
	return p.commit(ctx, append(ops, state.Assignments.Create(v.ID, a), state.Records.Create(v.ID, r))...)
}

func (p *plane) grow(ctx context.Context, v state.Entry[*holdfastv1.Volume], a *statepb.Assignment) error {
	size := v.Value.Spec.SizeBytes
	if err := truncate(p.file(v.ID), size); err != nil {
		return err
	}
	if d, ok := p.devices[v.ID]; ok {
		if err := losetup("-c", d.path); err != nil {
			return err
		}
	}
	r, err := state.Records.Get(ctx, p.store, v.ID)
	if err != nil {
		return err
	}
	a.SizeBytes, r.Value.SizeBytes = size, size
	ops := []state.Op{state.Assignments.Put(v.ID, a), state.Records.Put(v.ID, r.Value)}
	for _, replica := range a.Replicas {
		h, err := state.Holdings.Get(ctx, p.store, replica.ReplicaId)
		if err != nil {
			return err
		}
		h.Value.SizeBytes = size
		ops = append(ops, state.Holdings.Put(replica.ReplicaId, h.Value))
	}
	return p.commit(ctx, ops...)
}

func (p *plane) destroy(ctx context.Context, v state.Entry[*holdfastv1.Volume]) error {
	if _, shown := p.devices[v.ID]; shown {
		return nil // it goes first
	}
	ops := []state.Op{state.Volumes.Delete(v.ID, 0), state.Records.Delete(v.ID, 0), state.Assignments.Delete(v.ID, 0)}
	if a, err := state.Assignments.Get(ctx, p.store, v.ID); err == nil {
		for _, r := range a.Value.Replicas {
			ops = append(ops, state.Holdings.Delete(r.ReplicaId, 0))
		}
	}
	ops = append(ops, p.unname(ctx, state.KindVolume, v.Value.Meta)...)
	_ = os.Remove(p.file(v.ID)) // it may never have been made
	return p.commit(ctx, ops...)
}

// unname frees a name, if it is still the object's.
func (p *plane) unname(ctx context.Context, kind string, m *holdfastv1.Meta) []state.Op {
	key := state.NameKey(kind, m.Name)
	if item, err := p.store.Get(ctx, key); err == nil && string(item.Value) == m.Id {
		return []state.Op{state.Delete(key, item.Revision)}
	}
	return nil
}

func (p *plane) snapshots(ctx context.Context) error {
	snapshots, _, err := state.Snapshots.List(ctx, p.store)
	if err != nil {
		return err
	}
	for _, s := range snapshots {
		_, err := state.SnapshotStatuses.Get(ctx, p.store, s.ID)
		switch {
		case s.Value.Spec.Deleted:
			_ = os.Remove(p.file(s.ID))
			err = p.commit(ctx, append(p.unname(ctx, state.KindSnapshot, s.Value.Meta), state.Snapshots.Delete(s.ID, 0), state.SnapshotStatuses.Delete(s.ID, 0))...)
		case err != nil:
			err = p.take(ctx, s)
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", s.Value.Meta.Name, err)
		}
	}
	return nil
}

func (p *plane) take(ctx context.Context, s state.Entry[*holdfastv1.Snapshot]) error {
	a, err := state.Assignments.Get(ctx, p.store, s.Value.Spec.VolumeId)
	if err != nil {
		return nil // its volume is not made yet
	}
	if d, ok := p.devices[s.Value.Spec.VolumeId]; ok {
		if err := run("blockdev", "--flushbufs", d.path); err != nil {
			return err
		}
	}
	if err := copyFile(p.file(s.Value.Spec.VolumeId), p.file(s.ID)); err != nil {
		return err
	}
	return p.commit(ctx, state.SnapshotStatuses.Put(s.ID, &holdfastv1.SnapshotStatus{Ready: true, Generation: 1, SizeBytes: a.Value.SizeBytes, Taken: timestamppb.Now(), Epoch: 1}))
}

// attach shows what is to be shown.
func (p *plane) attach(ctx context.Context) error {
	wishes, _, err := state.Attachments.List(ctx, p.store)
	if err != nil {
		return err
	}
	for _, w := range wishes {
		node := w.Value.Spec.NodeId
		if _, err := state.Assignments.Get(ctx, p.store, w.ID); err != nil || !p.is(node) {
			continue
		}
		if d, ok := p.devices[w.ID]; ok && d.node == node {
			if err := p.mount(ctx, w, d); err != nil {
				return err
			}
			continue
		} else if ok {
			if d.mounted != "" { // of a node that is dead: its mounts went with it
				_ = run("umount", "-l", d.mounted)
			}
			p.drop(w.ID, d) // the new owner's epoch fences the old one
		}
		args := []string{"-f", "--show"}
		if w.Value.Spec.ReadOnly {
			args = append(args, "-r")
		}
		out, err := exec.Command("losetup", append(args, p.file(w.ID))...).Output()
		if err != nil {
			return fmt.Errorf("losetup: %w", err)
		}
		d := device{node: node, path: strings.TrimSpace(string(out))}
		p.devices[w.ID] = d
		status := &holdfastv1.AttachmentStatus{NodeId: node, State: holdfastv1.AttachmentState_ATTACHMENT_STATE_ATTACHED, Device: d.path, Frontend: "loop", Epoch: 2}
		if err := p.commit(ctx, state.AttachStatuses.Put(w.ID, status)); err != nil {
			return err
		}
		if err := p.mount(ctx, w, d); err != nil {
			return err
		}
	}
	return nil
}

// mount mounts a device's filesystem where it is wished to be.
func (p *plane) mount(ctx context.Context, w state.Entry[*holdfastv1.Attachment], d device) error {
	dir := w.Value.Spec.MountPath
	if dir == "" || dir == d.mounted {
		return nil
	}
	found, err := mount.Probe(ctx, d.path)
	if err == nil && found.Blank() {
		err = mount.Make(ctx, d.path, mount.MakeOptions{Kind: mount.Ext4})
	}
	if err == nil {
		err = mount.Mount(ctx, d.path, dir, mount.Options{})
	}
	if err != nil {
		return err
	}
	status, err := state.AttachStatuses.Get(ctx, p.store, w.ID)
	if err != nil {
		return err
	}
	d.mounted, status.Value.MountPath = dir, dir
	p.devices[w.ID] = d
	return p.commit(ctx, state.AttachStatuses.Put(w.ID, status.Value))
}

// detach takes away what nobody wants any more, and nobody uses.
func (p *plane) detach(ctx context.Context) error {
	for volume, d := range p.devices {
		if w, err := state.Attachments.Get(ctx, p.store, volume); err == nil && w.Value.Spec.NodeId == d.node {
			continue
		}
		if d.mounted != "" && p.is(d.node) && mount.Unmount(ctx, d.mounted) != nil {
			continue // somebody uses it
		}
		if used, err := mount.Of(d.path); err != nil || len(used) > 0 || !p.is(d.node) {
			continue
		}
		p.drop(volume, d)
		status, err := state.AttachStatuses.Get(ctx, p.store, volume)
		if err == nil && status.Value.NodeId == d.node {
			if err := p.commit(ctx, state.AttachStatuses.Delete(volume, status.Revision)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *plane) drop(volume string, d device) {
	delete(p.devices, volume)
	if err := losetup("-d", d.path); err != nil {
		p.logf("plane: %v", err)
	}
}

// close takes all devices away, wherever they are mounted.
func (p *plane) close() {
	for volume, d := range p.devices {
		used, _ := mount.Of(d.path)
		for _, m := range used {
			if err := run("umount", "-l", m.Dir); err != nil {
				p.logf("plane: %v", err)
			}
		}
		p.drop(volume, d)
	}
}

func truncate(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

func copyFile(from, to string) error { return run("cp", "--sparse=always", from, to) }

func losetup(args ...string) error { return run("losetup", args...) }

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
