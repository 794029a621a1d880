package node

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
)

// snapshots takes the volume's snapshots that are wished for, and deletes those that are
// not any more. What can't be done now is tried again.
func (a *attachment) snapshots() error {
	if a.show != nil && !a.thawed {
		a.thawed = true
		a.thaw()
	}
	var errs []error
	for _, e := range a.d.view.snapshots.ByIndex(byVolume, a.id) {
		snap, status := e.Value, a.snapStatus(e.ID)
		switch {
		case snap.Spec.Deleted:
			delete(a.groups, e.ID)
			errs = append(errs, a.deleteSnapshot(e.ID, status))
		case status.Ready || status.Problem != "":
		case a.explained(e.ID, status):
		case snap.Spec.GroupId != "":
			errs = append(errs, a.takeOfGroup(e.ID, snap))
		default:
			errs = append(errs, a.take(e.ID, snap))
		}
	}
	return errors.Join(errs...)
}

// byVolume is the index of snapshots by their volume, byGroup by their group.
const (
	byVolume = "volume"
	byGroup  = "group"
)

func snapshotIndexes() map[string]state.Index[*v1.Snapshot] {
	return map[string]state.Index[*v1.Snapshot]{
		byVolume: func(e state.Entry[*v1.Snapshot]) []string { return []string{e.Value.GetSpec().GetVolumeId()} },
		byGroup: func(e state.Entry[*v1.Snapshot]) []string {
			if g := e.Value.GetSpec().GetGroupId(); g != "" {
				return []string{g}
			}
			return nil
		},
	}
}

// snapStatus returns what was said of a snapshot; never nil.
func (a *attachment) snapStatus(id string) *v1.SnapshotStatus {
	if e, ok := a.d.view.snapStatuses.Get(id); ok {
		return e.Value
	}
	return &v1.SnapshotStatus{}
}

// record returns the record as the head knows it.
func (a *attachment) record() (rec spec.Record) {
	h := a.head
	a.d.node.do(func() { rec = h.coord.Record() })
	return rec
}

// order has the volume changed, and waits until that is done or refused, or the head is
// lost.
func (a *attachment) order(ch *coordinator.Change) error {
	done := make(chan error, 1)
	h := a.head
	if !a.d.node.do(func() { h.order(ch, func(err error) { done <- err }) }) {
		return fault.Errorf("node.order", fault.Canceled, "the data process ends")
	}
	select {
	case err := <-done:
		return err
	case why := <-a.lost:
		a.lost <- why // for run
		return why
	case <-a.d.ctx.Done():
		return fault.Errorf("node.order", fault.Canceled, "the data process ends")
	}
}

// explained reports whether a snapshot that was begun has been taken after all, and says
// so then: its status names the generation that it was to become, and the record has it.
func (a *attachment) explained(id string, status *v1.SnapshotStatus) bool {
	if status.Generation == 0 || !slices.Contains(a.record().Snapshots, block.Generation(status.Generation)) {
		return false
	}
	return a.saySnapshot(id, a.ready(block.Generation(status.Generation))) == nil
}

// ready returns the status of a snapshot that was taken.
func (a *attachment) ready(g block.Generation) *v1.SnapshotStatus {
	rec := a.record()
	return &v1.SnapshotStatus{Ready: true, Generation: uint32(g), SizeBytes: rec.Size, Taken: timestamppb.Now(),
		Epoch: uint64(rec.Epoch), Idle: a.show == nil}
}

// saySnapshot writes what there is to say of a snapshot, and waits until it is seen here
// too: who looks next must not find what was before.
func (a *attachment) saySnapshot(id string, s *v1.SnapshotStatus) error {
	return a.sayOfSnapshots(state.SnapshotStatuses.Put(id, s))
}

func (a *attachment) sayOfSnapshots(ops ...state.Op) error {
	at, err := a.d.o.Store.Commit(a.d.ctx, ops...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.d.ctx, coordinator.HoldMax)
	defer cancel()
	return a.d.view.snapStatuses.Reach(ctx, at)
}

// next returns the generation that a snapshot becomes which is taken now, and notes it in
// the snapshot's status first: whoever goes on after a crash finds out what became of it.
// Another one that was to become it, and could not, is taken that note away: else it would
// be believed to be this one.
func (a *attachment) next(id string) (block.Generation, error) {
	g := max(a.record().Generation, 1)
	ops := []state.Op{state.SnapshotStatuses.Put(id, &v1.SnapshotStatus{Generation: uint32(g)})}
	for _, e := range a.d.view.snapshots.ByIndex(byVolume, a.id) {
		if s := a.snapStatus(e.ID); e.ID != id && s.Generation == uint32(g) && !s.Ready {
			other := proto.CloneOf(s)
			other.Generation = 0
			ops = append(ops, state.SnapshotStatuses.Put(e.ID, other))
		}
	}
	return g, a.sayOfSnapshots(ops...)
}

// take takes a snapshot.
func (a *attachment) take(id string, snap *v1.Snapshot) error {
	g, err := a.next(id)
	if err != nil {
		return err
	}
	ch := &coordinator.Change{Op: coordinator.Snapshot}
	err = a.frozen(snap, func() error { return a.order(ch) })
	switch {
	case err == nil && ch.Generation != g:
		err = fault.Errorf("node.snapshot", fault.Internal, "generation %d became %d", g, ch.Generation)
	case err == nil:
		a.log.Info("snapshot taken", "snapshot", snap.Meta.GetName(), "generation", g)
		return a.saySnapshot(id, a.ready(g))
	}
	a.log.Warn("the snapshot can't be taken now", "snapshot", snap.Meta.GetName(), "err", err)
	return err
}

// frozen calls work while the volume's filesystem is frozen, if that is asked for and it
// is mounted here.
func (a *attachment) frozen(snap *v1.Snapshot, work func() error) error {
	if !snap.Spec.Freeze {
		return work()
	}
	if a.show == nil && a.left != nil { // what the filesystem has to write would wait for ever
		return fault.Errorf("node.snapshot", fault.Canceled, "the device has not been taken over yet")
	}
	dir, err := a.mountedAt()
	switch {
	case err != nil:
		return err
	case dir == "":
		return work()
	}
	ctx, cancel := context.WithTimeout(a.d.ctx, mountTimeout)
	defer cancel()
	return mount.Frozen(ctx, dir, work)
}

// mountedAt returns where the device is mounted, by this node or by somebody else, such as
// the driver of Kubernetes' kubelet; "" nowhere.
func (a *attachment) mountedAt() (string, error) {
	if a.mounted != "" || a.show == nil {
		return a.mounted, nil
	}
	where, err := mount.Of(a.show.Device().Path)
	for _, m := range where {
		if !m.ReadOnly {
			return m.Dir, nil
		}
	}
	return "", err
}

// thaw thaws the volume's filesystem if the process before this one was taking a snapshot
// with it frozen. As a rule who froze it has done so, because that process is dead; but who
// was killed with it can't.
func (a *attachment) thaw() {
	dir, err := a.mountedAt()
	if err != nil || dir == "" {
		return
	}
	for _, e := range a.d.view.snapshots.ByIndex(byVolume, a.id) {
		s := a.snapStatus(e.ID)
		if !e.Value.Spec.Freeze || s.Ready || s.Generation == 0 && s.Phase != string(coordinator.GroupFrozen) {
			continue
		}
		ctx, cancel := context.WithTimeout(a.d.ctx, mountTimeout)
		defer cancel()
		if mount.Thaw(ctx, dir) == nil {
			a.log.Warn("the filesystem was still frozen for a snapshot that was not taken; it is thawed", "mount", dir)
		}
		return
	}
}

// deleteSnapshot deletes the generation of a snapshot that is not wished for any more, and
// that no clone is being made of. Control forgets the snapshot when the record does not
// have it.
func (a *attachment) deleteSnapshot(id string, status *v1.SnapshotStatus) error {
	g := block.Generation(status.Generation)
	if g == 0 || !slices.Contains(a.record().Snapshots, g) {
		return nil
	}
	// Asked of the store, not of the view: it must not be older than the wish to delete it.
	births, _, err := state.Births.List(a.d.ctx, a.d.o.Store)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(births, func(e state.Entry[*emptypb.Empty]) bool { return strings.HasPrefix(e.ID, id+"/") }) {
		return nil // the next look finds it made
	}
	a.log.Info("deleting a snapshot", "generation", g)
	return a.order(&coordinator.Change{Op: coordinator.DeleteSnapshot, Generation: g})
}
