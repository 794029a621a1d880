package control

import (
	"strings"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
)

// A clone is placed in one commit, and made by its nodes a while later. From the one to
// the other there is a birth in the state, written by the same commit, so that whoever
// would take away what it begins with knows: the snapshot's head does not delete it, and
// the source's replicas stay.

// birthKey is the id of a clone's birth.
func birthKey(clone state.Entry[*v1.Volume]) string {
	return clone.Value.Spec.GetSourceSnapshotId() + "/" + clone.ID
}

// birthChanged has those looked at for whom it matters.
func (v *view) birthChanged(key string) {
	snap, clone, _ := strings.Cut(key, "/")
	v.touched[clone] = true
	v.touchSnapshot(snap)
}

// oldBirths deletes the births of clones that have all the replicas that they count on, or
// are gone.
func (d *decider) oldBirths() (steps []step) {
	for _, key := range d.births.list() {
		_, clone, _ := strings.Cut(key, "/")
		_, placed := d.assignments.get(clone)
		if !placed || d.born(clone) {
			steps = append(steps, step{ops: []state.Op{state.Births.Delete(key, d.births.entries[key].Revision)}})
		}
	}
	return steps
}

// born reports whether every replica that a volume's record counts on has been made.
func (v *view) born(volume string) bool {
	for _, m := range v.records.value(volume).GetMembers() {
		if m.State == uint32(spec.InSync) && !v.holdings.value(m.ReplicaId).GetReady() {
			return false
		}
	}
	return true
}

// beginsWith returns the name of a clone of a volume that needs what it begins with, in a
// pool, or in any if that is "".
func (v *view) beginsWith(volume, pool string) string {
	for _, key := range v.births.list() {
		snap, clone, _ := strings.Cut(key, "/")
		if v.snapshots.value(snap).GetSpec().GetVolumeId() != volume || v.born(clone) {
			continue
		}
		for _, r := range v.assignments.value(clone).GetReplicas() {
			m := memberOf(v.records.value(clone), r.ReplicaId)
			waits := m != nil && m.State == uint32(spec.InSync) && !v.holdings.value(r.ReplicaId).GetReady()
			if waits && (pool == "" || r.PoolId == pool) {
				return v.volumeName(clone)
			}
		}
	}
	return ""
}

// halfBorn reports whether a volume that is new lacks a replica which its node can't make
// now, because it is down, or because what the volume begins with is not there any more.
// Its head leaves that one behind, goes on with those that were made, and has the others
// filled; without a head the volume would never be whole, and nobody could use it.
func (h *holder) halfBorn() bool {
	if _, born := h.births.get(birthKey(h.vol)); !born && h.rec.Value.Epoch > 1 {
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
