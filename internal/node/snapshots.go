package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
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
	var errs []error
	for _, e := range a.d.view.snapshots.ByIndex(byVolume, a.id) {
		snap, status := e.Value, a.snapStatus(e.ID)
		switch {
		case snap.Spec.Deleted:
			errs = append(errs, a.deleteSnapshot(status))
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

func (a *attachment) saySnapshot(id string, s *v1.SnapshotStatus) error {
	_, err := a.d.o.Store.Commit(a.d.ctx, state.SnapshotStatuses.Put(id, s))
	return err
}

// next returns the generation that a snapshot becomes which is taken now, and notes it in
// the snapshot's status first: whoever goes on after a crash finds out what became of it.
func (a *attachment) next(id string) (block.Generation, error) {
	g := max(a.record().Generation, 1)
	return g, a.saySnapshot(id, &v1.SnapshotStatus{Generation: uint32(g)})
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

// frozen calls work while the volume's filesystem is frozen, if that is asked for and
// this node has mounted it.
func (a *attachment) frozen(snap *v1.Snapshot, work func() error) error {
	if !snap.Spec.Freeze || a.mounted == "" {
		return work()
	}
	ctx, cancel := context.WithTimeout(a.d.ctx, mountTimeout)
	defer cancel()
	return mount.Frozen(ctx, a.mounted, work)
}

// The phases of a group's snapshot.
const (
	phaseHeld  = "held"
	phaseTaken = "taken"
)

// takeOfGroup takes the volume's part of a snapshot of several volumes at one moment. All
// members hold their writes, wherever they are attached, and say so; when all have said
// so, which is the moment, each takes its snapshot; and when all have, writes go on. A
// member that can't makes it nobody's.
func (a *attachment) takeOfGroup(id string, snap *v1.Snapshot) error {
	if a.snapStatus(id).Phase != "" {
		return a.saySnapshot(id, &v1.SnapshotStatus{Problem: "the node was restarted while the group's snapshot was taken; take another"})
	}
	g, err := a.next(id)
	if err != nil {
		return err
	}
	taken := false
	err = a.frozen(snap, func() error {
		until := a.d.node.loop.Now() + coordinator.HoldMax
		hold := &coordinator.Change{Op: coordinator.Hold, Until: until}
		if err := a.order(hold); err != nil {
			return err
		}
		err := a.inStep(id, snap.Spec.GroupId, hold)
		release := a.order(&coordinator.Change{Op: coordinator.Release, Generation: hold.Generation, Drop: err != nil})
		taken = err == nil && release == nil
		return errors.Join(err, release)
	})
	if taken {
		a.log.Info("snapshot of a group taken", "snapshot", snap.Meta.GetName(), "generation", g)
		return a.saySnapshot(id, a.ready(g))
	}
	problem := "its moment was missed"
	if err != nil {
		problem = err.Error()
	}
	a.log.Warn("the group's snapshot failed", "snapshot", snap.Meta.GetName(), "err", err)
	return a.saySnapshot(id, &v1.SnapshotStatus{Problem: problem + "; take another"})
}

// inStep goes through the phases with the other members.
func (a *attachment) inStep(id, group string, hold *coordinator.Change) error {
	ctx, cancel := context.WithTimeout(a.d.ctx, coordinator.HoldMax)
	defer cancel()
	for _, phase := range []string{phaseHeld, phaseTaken} {
		if phase == phaseTaken {
			if err := a.order(&coordinator.Change{Op: coordinator.Snapshot, Generation: hold.Generation, Held: true}); err != nil {
				return err
			}
		}
		if err := a.saySnapshot(id, &v1.SnapshotStatus{Generation: uint32(hold.Generation), Phase: phase}); err != nil {
			return err
		}
		if err := a.others(ctx, id, group, phase); err != nil {
			return err
		}
	}
	return nil
}

// others waits until every member of the group has come as far as phase.
func (a *attachment) others(ctx context.Context, id, group, phase string) error {
	v := a.d.view
	for {
		changed := v.snapStatuses.Changed()
		missing := ""
		for _, e := range v.snapshots.ByIndex(byGroup, group) {
			switch s := a.snapStatus(e.ID); {
			case e.ID == id, s.Ready, s.Phase == phaseTaken, s.Phase == phase:
			case s.Problem != "":
				return fault.Errorf("node.group", fault.Unavailable, "snapshot %s of the group failed: %s", e.Value.Meta.GetName(), s.Problem)
			default:
				missing = e.Value.Meta.GetName()
			}
		}
		if missing == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fault.Errorf("node.group", fault.Timeout, "snapshot %s of the group was not %s within %v", missing, phase, coordinator.HoldMax)
		}
	}
}

// deleteSnapshot deletes the generation of a snapshot that is not wished for any more.
// Control forgets the snapshot when the record does not have it.
func (a *attachment) deleteSnapshot(status *v1.SnapshotStatus) error {
	g := block.Generation(status.Generation)
	if g == 0 || !slices.Contains(a.record().Snapshots, g) {
		return nil
	}
	a.log.Info("deleting a snapshot", "generation", g)
	return a.order(&coordinator.Change{Op: coordinator.DeleteSnapshot, Generation: g})
}

// usageEvery is how often it is looked how much space snapshots take.
const usageEvery = time.Minute

// usage says what each snapshot takes, if a replica lies on this node.
func (a *attachment) usage() error {
	if time.Since(a.counted) < usageEvery {
		return nil
	}
	a.counted = time.Now()
	generations, err := a.generationUsage()
	if err != nil || generations == nil {
		return err
	}
	var errs []error
	for _, e := range a.d.view.snapshots.ByIndex(byVolume, a.id) {
		was := a.snapStatus(e.ID)
		now := proto.CloneOf(was)
		u, ok := generations[block.Generation(was.Generation)]
		if now.ExclusiveBytes, now.SharedBytes = u.Exclusive, u.Shared(); ok && was.Ready && !proto.Equal(was, now) {
			errs = append(errs, a.saySnapshot(e.ID, now))
		}
	}
	return errors.Join(errs...)
}
