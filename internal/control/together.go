package control

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// allVolumes stands for a volume in the mark of a policy that takes all its volumes
// together.
const allVolumes = "*"

// togetherMax is how many volumes a policy may take together: one commit has all their
// snapshots.
const togetherMax = 32

// together takes the snapshots that are due of policies that take all their volumes at one
// moment. They are deleted volume by volume, as those of others are.
func (d *decider) together() (steps []step) {
	for _, id := range d.policies.list() {
		p := d.policies.value(id)
		next := Next(p.Spec, d.now)
		if !p.Spec.Together || next.IsZero() {
			continue
		}
		s := d.takeTogether(p)
		s.due(next)
		steps = append(steps, s)
	}
	return steps
}

// takeTogether is scheduled for a policy that takes all its volumes together.
func (d *decider) takeTogether(p *v1.SnapshotPolicy) (s step) {
	key := p.Meta.Id + "/" + allVolumes
	was := d.marks.entries[key]
	mark := &statepb.ScheduleMark{PolicyId: p.Meta.Id, VolumeId: allVolumes, Done: map[string]*timestamppb.Timestamp{}}
	for _, r := range rhythms(p) {
		due := r.Before(d.now)
		last := was.Value.GetDone()[r.key]
		switch {
		case last != nil && !last.AsTime().Before(due):
			mark.Done[r.key] = last
		case last != nil && len(s.ops) > 0: // in the next commit
			mark.Done[r.key] = last
		default:
			mark.Done[r.key] = timestamppb.New(due)
			if last != nil {
				d.takeGroup(p, r, due, &s)
			}
		}
	}
	if !proto.Equal(was.Value, mark) {
		s.ops = append(s.ops, state.ScheduleMarks.Put(key, mark))
	}
	return s
}

// takeGroup has a group's snapshot taken of the policy's volumes, unless none of them can
// have changed.
func (d *decider) takeGroup(p *v1.SnapshotPolicy, r rhythm, due time.Time, s *step) {
	var members []*v1.Volume
	changed := false
	for _, id := range d.volumes.list() {
		vol := d.volumes.value(id)
		if _, placed := d.records.get(id); placed && HoldsFor(p, vol) {
			members = append(members, vol)
			changed = changed || !d.unchanged(vol)
		}
	}
	about := func(reason, format string, args ...any) {
		s.event = &v1.Event{Object: "policy/" + p.Meta.Id, ObjectName: p.Meta.Name, Severity: "warning", Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case !changed:
		return
	case len(members) > togetherMax:
		about("GroupTooBig", "it took no snapshot: it holds for %d volumes, and takes %d together at most; use several policies", len(members), togetherMax)
		return
	}
	for _, vol := range members {
		if n := len(d.snaps[vol.Meta.Id]); n >= d.settings.snapshotsMax {
			about("SnapshotLimit", "it took no snapshot: volume %s has %d, the most that there may be; delete some, or have the policy keep fewer", vol.Meta.Name, n)
			return
		}
	}
	group := d.ids()
	for _, vol := range members {
		d.take(p, vol, r, due, group, s)
	}
}

// groupFailed reports whether a group's snapshot could not be taken of one of its volumes.
func (v *view) groupFailed(group string) bool {
	for id := range v.groups[group] {
		if v.snapStatuses.value(id).GetProblem() != "" {
			return true
		}
	}
	return false
}

// othersOf returns the other snapshots of a snapshot's group.
func (v *view) othersOf(id string) (others []string) {
	for _, other := range v.groups.of(v.snapshots.value(id).Spec.GetGroupId()) {
		if other != id {
			others = append(others, other)
		}
	}
	return others
}
