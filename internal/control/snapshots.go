package control

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/state"
)

// snapshotsGone forgets snapshots that were to be deleted, once the record does not have
// them any more.
func (h *holder) snapshotsGone() {
	for _, id := range h.snaps.of(h.vol.ID) {
		if !h.snapshots.value(id).Spec.GetDeleted() || !h.snapshotIsGone(id) || len(h.ops) > batchMax {
			continue
		}
		h.ops = append(h.ops, h.forgetSnapshot(id)...)
	}
	if len(h.ops) > 0 {
		h.ops = append(h.ops, state.Records.Require(h.vol.ID, h.rec.Revision))
	}
}

// snapshotIsGone reports whether nothing of a snapshot is left. One without a status may
// have been taken, and its status not be written yet: then the record has a generation
// that nobody explains.
func (h *holder) snapshotIsGone(id string) bool {
	status := h.snapStatuses.value(id)
	if g := status.GetGeneration(); g != 0 {
		return !slices.Contains(h.rec.Value.Snapshots, g)
	}
	explained := map[uint32]bool{}
	for other := range h.snaps[h.vol.ID] {
		explained[h.snapStatuses.value(other).GetGeneration()] = true
	}
	return !slices.ContainsFunc(h.rec.Value.Snapshots, func(g uint32) bool { return !explained[g] })
}

// neverTaken forgets snapshots that were to be deleted of a volume that never was.
func (d *decider) neverTaken(volume string, s *step) {
	if _, ok := d.records.get(volume); ok {
		return
	}
	for _, id := range d.snaps.of(volume) {
		if d.snapshots.value(id).Spec.GetDeleted() && len(s.ops) < batchMax {
			s.ops = append(s.ops, d.forgetSnapshot(id)...)
		}
	}
}
