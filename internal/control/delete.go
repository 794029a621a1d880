package control

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// isDeleting reports whether a volume goes for good: somebody said so, or its time in the
// trash is over.
func (d *decider) isDeleting(vol *v1.Volume) bool {
	t := vol.Spec.GetDeleted()
	return vol.Spec.GetDeleting() || t != nil && !d.now.Before(t.AsTime().Add(d.settings.trashKeep))
}

// batchMax is how many objects go in one commit, with room for the conditions.
const batchMax = 30

// delete takes a volume away: first its assignment, and when the nodes have deleted its
// replicas, all that is known of it.
func (d *decider) delete(vol state.Entry[*v1.Volume]) (s step) {
	if at, ok := d.attachments.get(vol.ID); ok {
		s.tell(Deleted, false, "Attached", "it is to be deleted, and waits until it is detached from node %s", d.nodeName(at.Value.Spec.GetNodeId()))
		return s
	}
	if a, ok := d.assignments.get(vol.ID); ok {
		if clone := d.beginsWith(vol.ID, ""); clone != "" {
			s.tell(Deleted, false, "Cloning", "it is to be deleted, and waits until volume %s, which begins with a snapshot of it, has been made", clone)
			return s
		}
		d.unassign(vol, a, &s)
		return s
	}
	if d.condemnLate(vol.ID, &s); len(s.ops) > 0 {
		return s
	}
	if waits := d.deletersUp(vol.ID); len(waits) > 0 {
		s.tell(Deleted, false, "Deleting", "its replicas are being deleted on %s", d.placesText(waits))
		return s
	}
	if d.deleteSnapshots(vol.ID, &s); len(s.ops) > 0 {
		return s
	}
	d.forget(vol, &s)
	return s
}

// unassign is the point of no return: from here on the volume can't be taken out of the
// trash, and the mark says so.
func (d *decider) unassign(vol state.Entry[*v1.Volume], a state.Entry[*statepb.Assignment], s *step) {
	marked := proto.CloneOf(vol.Value)
	marked.Spec.Deleting = true
	s.ops = []state.Op{state.Volumes.Replace(vol.ID, marked, vol.Revision), state.Attachments.Require(vol.ID, 0), state.Assignments.Delete(vol.ID, a.Revision)}
	for _, r := range d.everywhere(vol.ID, a.Value) {
		s.ops = append(s.ops, d.condemn(r, vol.ID, "its volume was deleted"))
	}
}

// everywhere returns the replicas that a volume has, had, or is said to have, but for
// those that are condemned.
func (d *decider) everywhere(volume string, a *statepb.Assignment) []*statepb.AssignedReplica {
	all := map[string]*statepb.AssignedReplica{}
	for id := range d.holds[volume] {
		h := d.holdings.value(id)
		if _, ok := d.condemned.get(id); ok {
			continue
		}
		all[id] = &statepb.AssignedReplica{ReplicaId: id, NodeId: h.NodeId, PoolId: h.PoolId}
	}
	for _, r := range a.GetReplicas() {
		all[r.ReplicaId] = r
	}
	var list []*statepb.AssignedReplica
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if list = append(list, all[id]); len(list) == batchMax {
			break
		}
	}
	return list
}

// condemn has a replica deleted by its node.
func (d *decider) condemn(r *statepb.AssignedReplica, volume, why string) state.Op {
	return state.Condemned.Put(r.ReplicaId, &statepb.Condemned{ReplicaId: r.ReplicaId, VolumeId: volume, NodeId: r.NodeId, PoolId: r.PoolId, Reason: why, Since: timestamppb.New(d.now)})
}

// condemnLate condemns what a node was still making when the volume was deleted.
func (d *decider) condemnLate(volume string, s *step) {
	for _, r := range d.everywhere(volume, nil) {
		if _, ok := d.condemned.get(r.ReplicaId); !ok {
			s.ops = append(s.ops, d.condemn(r, volume, "its volume was deleted"))
		}
	}
}

// deletersUp returns the replicas of a volume on nodes that are there to delete them.
// Those of other nodes are condemned, and go when their node is back.
func (d *decider) deletersUp(volume string) (list []*statepb.AssignedReplica) {
	for _, id := range slices.Sorted(maps.Keys(d.holds[volume])) {
		if h := d.holdings.value(id); d.up(h.NodeId) {
			list = append(list, &statepb.AssignedReplica{ReplicaId: id, NodeId: h.NodeId, PoolId: h.PoolId})
		}
	}
	return list
}

// deleteSnapshots forgets some of a volume's snapshots.
func (d *decider) deleteSnapshots(volume string, s *step) {
	for i, id := range d.snaps.of(volume) {
		if i == batchMax {
			break
		}
		s.ops = append(s.ops, d.forgetSnapshot(id)...)
	}
}

// forgetSnapshot deletes what is known of a snapshot.
func (d *decider) forgetSnapshot(id string) []state.Op {
	snap := d.snapshots.entries[id]
	ops := []state.Op{state.Snapshots.Delete(id, snap.Revision), state.SnapshotStatuses.Delete(id, 0)}
	return append(ops, d.freeName(state.KindSnapshot, snap.Value.Meta, id)...)
}

// freeName frees the name of an object, if it has it.
func (d *decider) freeName(kind string, meta *v1.Meta, id string) []state.Op {
	key := state.NameKey(kind, meta.GetName())
	if d.names[key] != id {
		return nil
	}
	return []state.Op{state.Delete(key, 0)}
}

// forget deletes all that is known of a volume.
func (d *decider) forget(vol state.Entry[*v1.Volume], s *step) {
	s.ops = []state.Op{state.Volumes.Delete(vol.ID, vol.Revision), state.Assignments.Require(vol.ID, 0), state.Attachments.Require(vol.ID, 0),
		state.Records.Delete(vol.ID, 0), state.AttachStatuses.Delete(vol.ID, 0), state.Verdicts.Delete(vol.ID, 0)}
	s.ops = append(s.ops, d.freeName(state.KindVolume, vol.Value.Meta, vol.ID)...)
	for _, policy := range d.policies.list() {
		if len(s.ops) < state.OpsMax-10 {
			s.ops = append(s.ops, state.ScheduleMarks.Delete(policy+"/"+vol.ID, 0))
		}
	}
	s.event = d.about(vol.Value, "info", "Deleted", "it is gone for good")
}
