package control

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/internal/placement"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// From the wish for a clone until its nodes have made it there is a birth in the state,
// written by the commit that creates the volume, so that whoever would take away what it
// begins with knows: the snapshot's head does not delete it, and the source's replicas
// stay.

// birthChanged has those looked at for whom it matters.
func (v *view) birthChanged(key string) {
	snap, clone := state.BirthOf(key)
	v.touched[clone] = true
	v.touchSnapshot(snap)
}

// oldBirths deletes the births of clones that need nothing any more.
func (d *decider) oldBirths() (steps []step) {
	for _, key := range d.births.list() {
		if _, clone := state.BirthOf(key); !d.unborn(clone) {
			steps = append(steps, step{ops: []state.Op{state.Births.Delete(key, d.births.entries[key].Revision)}})
		}
	}
	return steps
}

// unborn reports whether a clone still needs what it begins with: it has no place yet, or
// a replica that its record counts on has not been made.
func (v *view) unborn(clone string) bool {
	vol, there := v.volumes.get(clone)
	if _, placed := v.assignments.get(clone); !placed {
		return there && vol.Value.Spec.GetDeleted() == nil && !vol.Value.Spec.GetDeleting()
	}
	return slices.ContainsFunc(v.records.value(clone).GetMembers(), v.unmade)
}

// unmade reports whether a replica that the record counts on has not been made.
func (v *view) unmade(m *statepb.Member) bool {
	return m.State == uint32(spec.InSync) && !v.holdings.value(m.ReplicaId).GetReady()
}

// beginsWith returns the name of a clone of a volume that needs what it begins with, in a
// pool, or in any if that is "". One without a place needs no pool before others.
func (v *view) beginsWith(volume, pool string) string {
	for _, key := range v.births.list() {
		snap, clone := state.BirthOf(key)
		if v.snapshots.value(snap).GetSpec().GetVolumeId() != volume || !v.unborn(clone) {
			continue
		}
		waits := func(r *statepb.AssignedReplica) bool {
			m := memberOf(v.records.value(clone), r.ReplicaId)
			return r.PoolId == pool && m != nil && v.unmade(m)
		}
		if pool == "" || slices.ContainsFunc(v.assignments.value(clone).GetReplicas(), waits) {
			return v.volumeName(clone)
		}
	}
	return ""
}

// halfBorn reports whether a volume that is new lacks a replica which its node can't make
// now, because it is down, or because what the volume begins with is not there any more.
// Its head leaves that one behind, goes on with those that were made, and has the others
// filled; without a head the volume would never be whole, and nobody could use it.
func (h *holder) halfBorn() bool {
	if _, born := h.births.get(state.BirthKey(h.vol.Value.Spec.GetSourceSnapshotId(), h.vol.ID)); !born && h.rec.Value.Epoch > 1 {
		return false
	}
	made, can := false, true
	for _, r := range h.replicas {
		switch held := h.holdings.value(r.ReplicaId); {
		case r.Leaving || !r.inSync:
		case held.GetReady():
			made = made || r.up
		case !r.up || held.GetProblem() != "":
			can = false
		}
	}
	return made && !can
}

// makeElsewhere has a replica made elsewhere whose node went down before it was made. Nothing was
// ever written to the volume, because no head has claimed it: the new one lacks nothing.
// Without another place those that were made have to do; see halfBorn.
func (h *holder) makeElsewhere() {
	if h.rec.Value.Epoch > 1 || h.a.Value.SourceVolumeId != "" || h.vol.Value.Spec.GetDeleted() != nil {
		return
	}
	made := func(r *replica) bool { return h.holdings.value(r.ReplicaId).GetReady() }
	i := slices.IndexFunc(h.replicas, func(r replica) bool { return r.inSync && !r.up && !r.Leaving && !made(&r) })
	if i < 0 {
		return
	}
	lost := h.replicas[i]
	r := placement.Request{Volume: h.placementVolume(h.vol.Value), Replicas: 1, Avoid: []string{lost.PoolId}}
	for _, x := range h.replicas {
		if x.ReplicaId != lost.ReplicaId {
			r.Held = append(r.Held, x.PoolId)
		}
	}
	pools, err := h.room().Choose(r)
	switch {
	case err == nil:
		h.bear(i, pools[0])
	case !h.count1(func(r *replica) bool { return r.up && made(r) }):
		h.refused(h.step, Placed, err)
	}
}

// bear puts a replica that was never made into another pool, under another id.
func (h *holder) bear(i int, pool string) {
	old := h.replicas[i].AssignedReplica
	now := &statepb.AssignedReplica{ReplicaId: h.ids(), NodeId: h.pools.value(pool).Spec.NodeId, PoolId: pool}
	next, rec := proto.CloneOf(h.a.Value), proto.CloneOf(h.rec.Value)
	next.Replicas[i] = now
	m := memberOf(rec, old.ReplicaId)
	m.ReplicaId, m.NodeId = now.ReplicaId, now.NodeId
	rec.Version++
	h.ops = []state.Op{state.Assignments.Replace(h.vol.ID, next, h.a.Revision), state.Records.Replace(h.vol.ID, rec, h.rec.Revision),
		state.Volumes.Require(h.vol.ID, h.vol.Revision), state.Holdings.Require(old.ReplicaId, 0), h.condemn(old, h.vol.ID, "it was placed elsewhere before it was made")}
	h.event = h.about(h.vol.Value, "info", "Placed", "node %s went down before it made its replica; that is made on %s now", h.nodeName(old.NodeId), h.placeText(now))
}
