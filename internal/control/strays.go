package control

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// condemnedFor is how long a replica stays condemned although its node does not have it:
// the node may be about to make it, because it has not heard yet that nobody wants it.
const condemnedFor = 10 * time.Minute

// strayReplicas finds holdings that no assignment expects, and after the grace condemns
// those of which the volume has good copies elsewhere. One that may be the last of its
// volume is never touched; somebody is told.
// Without all, it looks only at what has changed.
func (d *decider) strayReplicas(all bool) (steps []step) {
	if all {
		for _, ids := range [][]string{d.holdings.list(), d.strays.list()} {
			for _, id := range ids {
				d.suspects[id] = true
			}
		}
		steps = d.pardon()
	}
	for _, id := range slices.Sorted(maps.Keys(d.suspects)) {
		_, held := d.holdings.get(id)
		marked, known := d.strays.get(id)
		switch {
		case held:
			steps = append(steps, d.stray(id))
		case known:
			steps = append(steps, step{ops: []state.Op{state.Strays.Delete(id, marked.Revision)}})
		}
	}
	clear(d.suspects)
	return steps
}

// pardon ends the condemnation of replicas that are gone, or whose node is.
func (d *decider) pardon() (steps []step) {
	for _, id := range d.condemned.list() {
		c := d.condemned.entries[id]
		gone := d.holdings.value(id) == nil && (d.up(c.Value.NodeId) || d.nodes.value(c.Value.NodeId) == nil)
		if gone && !d.now.Before(c.Value.Since.AsTime().Add(condemnedFor)) {
			steps = append(steps, step{ops: []state.Op{state.Condemned.Delete(id, c.Revision), state.Holdings.Require(id, 0)}})
		}
	}
	return steps
}

func (d *decider) stray(id string) (s step) {
	h := d.holdings.entries[id]
	marked, known := d.strays.get(id)
	_, doomed := d.condemned.get(id)
	switch expected := d.expected(h.Value); {
	case doomed || expected:
		if known {
			s.ops = []state.Op{state.Strays.Delete(id, marked.Revision)}
		}
	case !known:
		s.ops = []state.Op{state.Strays.Create(id, &statepb.Stray{ReplicaId: id, Since: timestamppb.New(d.now)}), state.Holdings.Require(id, h.Revision)}
		if d.volumes.value(h.Value.VolumeId) == nil {
			s.event = &v1.Event{Object: "volume/" + h.Value.VolumeId, ObjectName: h.Value.VolumeId, Severity: "warning", Reason: "StrayReplica", NodeId: h.Value.NodeId,
				Message: "node " + d.nodeName(h.Value.NodeId) + " holds a replica of a volume that the cluster does not know; it is kept"}
		}
	case d.now.Before(marked.Value.Since.AsTime().Add(d.settings.orphanGrace)):
		s.due(marked.Value.Since.AsTime().Add(d.settings.orphanGrace))
	case d.spareable(h.Value):
		rec, a := d.records.entries[h.Value.VolumeId], d.assignments.entries[h.Value.VolumeId]
		r := &statepb.AssignedReplica{ReplicaId: id, NodeId: h.Value.NodeId, PoolId: h.Value.PoolId}
		s.ops = []state.Op{d.condemn(r, h.Value.VolumeId, "nobody expects it, and its volume has good copies"), state.Strays.Delete(id, marked.Revision),
			state.Records.Require(rec.ID, rec.Revision), state.Assignments.Require(a.ID, a.Revision)}
	}
	return s
}

// expected reports whether an assignment or the record names a replica.
func (d *decider) expected(h *statepb.Holding) bool {
	for _, r := range d.assignments.value(h.VolumeId).GetReplicas() {
		if r.ReplicaId == h.ReplicaId {
			return true
		}
	}
	return memberOf(d.records.value(h.VolumeId), h.ReplicaId) != nil
}

// spareable reports whether a replica's volume has a good copy elsewhere that is there
// now, and as many as it is to have.
func (d *decider) spareable(h *statepb.Holding) bool {
	vol, rec := d.volumes.value(h.VolumeId), d.records.value(h.VolumeId)
	if vol == nil || rec == nil {
		return false
	}
	good := 0
	for _, m := range rec.Members {
		if m.State == uint32(spec.InSync) && d.up(m.NodeId) && d.holdings.value(m.ReplicaId).GetReady() {
			good++
		}
	}
	return good >= max(1, int(vol.Spec.GetReplicas()))
}
