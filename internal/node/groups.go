package node

import (
	"context"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// takeOfGroup takes the volume's part of a snapshot of several volumes at one moment, as
// coordinator.Group has it. It comes back while the members wait for each other to be
// there: whoever comes is heard of.
func (a *attachment) takeOfGroup(id string, snap *v1.Snapshot) error {
	own, g := a.groupStatus(id), a.groups[id]
	if g == nil || g.Stale(own) {
		g = coordinator.NewGroup(own, coordinator.GroupOptions{Freeze: snap.Spec.Freeze})
		a.groups[id] = g
	}
	end, err := a.inStep(id, snap, g)
	if end.Op == coordinator.GroupWaits && err == nil {
		return nil
	}
	delete(a.groups, id)
	if err != nil {
		return err
	}
	status := &v1.SnapshotStatus{Generation: uint32(end.Generation)}
	if end.Err != nil {
		a.log.Warn("the group's snapshot failed", "snapshot", snap.Meta.GetName(), "err", end.Err)
		what, _ := fault.Describe(end.Err)
		status.Problem = what + "; take another"
	} else {
		a.log.Info("snapshot of a group taken", "snapshot", snap.Meta.GetName(), "generation", end.Generation)
		status = a.ready(end.Generation)
	}
	_, err = a.sayOfGroup(id, status, end.Revision)
	return err
}

// inStep goes on with the other members until they are to be waited for without writes
// being held, or until the end.
func (a *attachment) inStep(id string, snap *v1.Snapshot, g *coordinator.Group) (coordinator.GroupStep, error) {
	for {
		changed := a.d.view.snapStatuses.Changed()
		step := g.Next(a.d.node.loop.Now(), a.groupOthers(id, snap.Spec.GroupId))
		switch step.Op {
		case coordinator.GroupEnds:
			return step, nil
		case coordinator.GroupWaits:
			if step.Phase == coordinator.GroupHere {
				return step, nil
			}
			if err := a.waitFor(changed, step.Until); err != nil {
				g.Done(err)
			}
		case coordinator.GroupSays:
			at, err := a.sayOfGroup(id, &v1.SnapshotStatus{Generation: uint32(step.Generation), Phase: string(step.Phase)}, step.Revision)
			switch {
			case err != nil && step.Phase == coordinator.GroupHere:
				return step, err // nothing has begun: it is tried again
			case err != nil:
				g.Done(err)
			default:
				g.Said(at)
			}
		case coordinator.GroupOrders:
			g.Done(a.order(step.Change))
		case coordinator.GroupFreezes:
			var inside error
			err := a.frozen(snap, func() error {
				g.Done(nil)
				_, inside = a.inStep(id, snap, g)
				return inside
			})
			if inside != nil {
				return step, inside
			}
			if err != nil {
				g.Done(err)
			}
		}
	}
}

// waitFor waits until the status of a snapshot changes, or a moment of the loop's clock.
func (a *attachment) waitFor(changed <-chan struct{}, until time.Duration) error {
	late := time.NewTimer(until - a.d.node.loop.Now())
	defer late.Stop()
	select {
	case <-changed:
	case <-late.C:
	case <-a.d.ctx.Done():
		return fault.Errorf("node.group", fault.Canceled, "the data process ends")
	}
	return nil
}

// sayOfGroup writes what there is to say of a group's snapshot in the place of what was
// said at a revision, and waits until it is seen here.
func (a *attachment) sayOfGroup(id string, s *v1.SnapshotStatus, revision int64) (int64, error) {
	op := state.SnapshotStatuses.Replace(id, s, state.Revision(revision))
	if revision == 0 {
		op = state.SnapshotStatuses.Create(id, s)
	}
	at, err := a.d.o.Store.Commit(a.d.ctx, op)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(a.d.ctx, coordinator.HoldMax)
	defer cancel()
	return int64(at), a.d.view.snapStatuses.Reach(ctx, at)
}

// groupStatus returns what was said of a group's snapshot.
func (a *attachment) groupStatus(id string) coordinator.GroupStatus {
	e, ok := a.d.view.snapStatuses.Get(id)
	if !ok {
		return coordinator.GroupStatus{}
	}
	return coordinator.GroupStatus{Phase: coordinator.GroupPhase(e.Value.Phase), Generation: block.Generation(e.Value.Generation),
		Ready: e.Value.Ready, Problem: e.Value.Problem, Revision: int64(e.Revision)}
}

// groupOthers returns what was said of the other members' snapshots.
func (a *attachment) groupOthers(id, group string) (others []coordinator.GroupStatus) {
	for _, e := range a.d.view.snapshots.ByIndex(byGroup, group) {
		if e.ID != id {
			s := a.groupStatus(e.ID)
			s.Name, s.Deleted = e.Value.Meta.GetName(), e.Value.Spec.Deleted
			others = append(others, s)
		}
	}
	return others
}
