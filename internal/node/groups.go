package node

import (
	"cmp"
	"context"
	"slices"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// The phases of a group's snapshot, as each member's status has them, in their order.
const (
	phaseHere   = "here"   // its head serves
	phaseFrozen = "frozen" // its filesystem is frozen, if that was asked for and there is one
	phaseHeld   = "held"   // it holds its writes
	phaseTaken  = "taken"  // it has taken its snapshot
)

var phases = []string{phaseHere, phaseFrozen, phaseHeld, phaseTaken}

// groupWait is how long the heads of a group wait for each other before any holds its
// writes: one whose volume is not attached has to be claimed first.
const groupWait = 30 * time.Second

// takeOfGroup takes the volume's part of a snapshot of several volumes at one moment. The
// members say that they are here; only then, so that nobody's writes wait for a node that
// is away, do all hold their writes, wherever they are attached, and say so. When all have
// said so, which is the moment, each takes its snapshot; and when all have, writes go on.
// A member that can't makes it nobody's.
func (a *attachment) takeOfGroup(id string, snap *v1.Snapshot) error {
	switch a.snapStatus(id).Phase {
	case "":
		if err := a.saySnapshot(id, &v1.SnapshotStatus{Phase: phaseHere}); err != nil {
			return err
		}
	case phaseHere:
	default:
		return a.failGroup(id, snap, a.snapStatus(id).Generation, fault.Errorf("node.group", fault.Canceled, "the data process ended while the group's snapshot was taken"))
	}
	missing, err := a.behind(id, snap.Spec.GroupId, phaseHere)
	switch {
	case err != nil:
	case missing == "":
		delete(a.groups, id)
		return a.takeTogether(id, snap)
	case a.groups[id].IsZero():
		a.groups[id] = time.Now()
		return nil
	case time.Since(a.groups[id]) < groupWait:
		return nil // whoever comes is heard of
	default:
		err = fault.Errorf("node.group", fault.Timeout, "the volume of snapshot %s was not there within %v", missing, groupWait)
	}
	if err != nil {
		delete(a.groups, id)
		return a.failGroup(id, snap, 0, err)
	}
	return nil
}

// failGroup says that there is no snapshot of the group, and why. The number is that which
// it got, if it got one: the record may list it all the same, and then it is deleted with
// the snapshot.
func (a *attachment) failGroup(id string, snap *v1.Snapshot, number uint32, err error) error {
	a.log.Warn("the group's snapshot failed", "snapshot", snap.Meta.GetName(), "err", err)
	what, _ := fault.Describe(err)
	return a.saySnapshot(id, &v1.SnapshotStatus{Generation: number, Problem: what + "; take another"})
}

// takeTogether takes the snapshot, with the others, which are all there.
func (a *attachment) takeTogether(id string, snap *v1.Snapshot) error {
	hold := &coordinator.Change{Op: coordinator.Hold}
	err := a.frozen(snap, func() error {
		if err := a.allFrozen(id, snap); err != nil {
			return err
		}
		hold.Until = a.d.node.loop.Now() + coordinator.HoldMax
		if err := a.order(hold); err != nil {
			return err
		}
		err := a.inStep(id, snap.Spec.GroupId, hold)
		release := a.order(&coordinator.Change{Op: coordinator.Release, Generation: hold.Generation, Drop: err != nil})
		return cmp.Or(err, release) // when it is dropped anyway, it does not matter that writes went on before
	})
	if err != nil {
		return a.failGroup(id, snap, uint32(hold.Generation), err)
	}
	a.log.Info("snapshot of a group taken", "snapshot", snap.Meta.GetName(), "generation", hold.Generation)
	return a.saySnapshot(id, a.ready(hold.Generation))
}

// allFrozen waits, where filesystems are frozen, until all are: to write out what they
// have in memory may take longer than writes may be held.
func (a *attachment) allFrozen(id string, snap *v1.Snapshot) error {
	if !snap.Spec.Freeze {
		return nil
	}
	if err := a.saySnapshot(id, &v1.SnapshotStatus{Phase: phaseFrozen}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.d.ctx, groupWait)
	defer cancel()
	return a.others(ctx, id, snap.Spec.GroupId, phaseFrozen)
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
	for {
		changed := a.d.view.snapStatuses.Changed()
		missing, err := a.behind(id, group, phase)
		if missing == "" || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fault.Errorf("node.group", fault.Timeout, "snapshot %s of the group was not %s in time", missing, phase)
		}
	}
}

// behind returns the name of another snapshot of the group that has not come as far as
// phase, "" for none. An error says that one failed, and so the group.
func (a *attachment) behind(id, group, phase string) (missing string, err error) {
	for _, e := range a.d.view.snapshots.ByIndex(byGroup, group) {
		name := e.Value.Meta.GetName()
		switch s := a.snapStatus(e.ID); {
		case e.ID == id, s.Ready, slices.Index(phases, s.Phase) >= slices.Index(phases, phase):
		case s.Problem != "":
			return "", fault.Errorf("node.group", fault.Unavailable, "snapshot %s of the group failed: %s", name, s.Problem)
		case e.Value.Spec.Deleted:
			return "", fault.Errorf("node.group", fault.Canceled, "snapshot %s of the group was deleted", name)
		default:
			missing = name
		}
	}
	return missing, nil
}
