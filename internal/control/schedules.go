package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/spec/schedule"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// Next returns when a policy takes its next snapshots, zero for never: what
// SnapshotPolicyStatus.next shows.
func Next(p *v1.SnapshotPolicySpec, now time.Time) (next time.Time) {
	if p.GetSuspended() {
		return next
	}
	for _, x := range p.GetSchedules() {
		s, err := schedule.Parse(x.Kind, x.At)
		if err != nil {
			continue
		}
		if t := s.After(now); !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// HoldsFor reports whether a policy takes snapshots of a volume: the volume names it, or
// its selector matches.
func HoldsFor(p *v1.SnapshotPolicy, vol *v1.Volume) bool {
	if vol.Spec.GetDeleted() != nil || vol.Spec.GetDeleting() {
		return false
	}
	if slices.ContainsFunc(vol.Spec.GetSnapshotPolicies(), func(name string) bool { return name == p.Meta.GetId() || name == p.Meta.GetName() }) {
		return true
	}
	for k, want := range p.Spec.GetSelector() {
		if got, ok := vol.Meta.GetLabels()[k]; !ok || got != want {
			return false
		}
	}
	return len(p.Spec.GetSelector()) > 0
}

// rhythm is a schedule of a policy, read.
type rhythm struct {
	schedule.Schedule
	key  string
	keep int
}

func rhythms(p *v1.SnapshotPolicy) (list []rhythm) {
	for _, x := range p.Spec.GetSchedules() {
		s, err := schedule.Parse(x.Kind, x.At)
		twice := slices.ContainsFunc(list, func(r rhythm) bool { return r.key == x.Kind+" "+x.At })
		if err != nil || twice {
			continue // the server refuses what can't be read
		}
		r := rhythm{Schedule: s, key: x.Kind + " " + x.At, keep: int(x.Keep)}
		if r.keep <= 0 {
			r.keep = schedule.Keep(x.Kind)
		}
		list = append(list, r)
	}
	return list
}

// schedules takes the snapshots of a volume that are due, and deletes those that are too
// many.
func (d *decider) schedules(vol *v1.Volume, s *step) {
	for _, id := range d.policies.list() {
		p := d.policies.value(id)
		next := Next(p.Spec, d.now)
		if next.IsZero() || !HoldsFor(p, vol) {
			continue
		}
		var done step
		if p.Spec.Together { // see together
			for _, r := range rhythms(p) {
				d.prune(p, vol, r, &done)
			}
		} else {
			s.due(next)
			done = d.scheduled(p, vol, rhythms(p))
		}
		if len(done.ops) > 0 {
			s.ops, s.event = done.ops, done.event
			return
		}
	}
}

// oldMarks deletes the marks of policies that are gone.
func (d *decider) oldMarks() (steps []step) {
	for _, key := range d.marks.list() {
		policy, volume, _ := strings.Cut(key, "/")
		if d.policies.value(policy) == nil || volume != allVolumes && d.volumes.value(volume) == nil {
			steps = append(steps, step{ops: []state.Op{state.ScheduleMarks.Delete(key, d.marks.entries[key].Revision)}})
		}
	}
	return steps
}

// scheduled does what a policy has to do with one volume now. A volume that is new to a
// schedule begins with the time that comes next. Of times that were missed, only the last
// is made up for.
func (d *decider) scheduled(p *v1.SnapshotPolicy, vol *v1.Volume, list []rhythm) (s step) {
	key := p.Meta.Id + "/" + vol.Meta.Id
	was := d.marks.entries[key]
	mark := &statepb.ScheduleMark{PolicyId: p.Meta.Id, VolumeId: vol.Meta.Id, Done: map[string]*timestamppb.Timestamp{}}
	for _, r := range list {
		due := r.Before(d.now)
		last := was.Value.GetDone()[r.key]
		if len(s.ops) > state.OpsMax/2 {
			if last != nil {
				mark.Done[r.key] = last
			}
			continue // in the next commit
		}
		mark.Done[r.key] = timestamppb.New(due)
		if last == nil || !last.AsTime().Before(due) {
			if last != nil {
				mark.Done[r.key] = last
			}
			d.prune(p, vol, r, &s)
			continue
		}
		if _, placed := d.records.get(vol.Meta.Id); placed && !d.unchanged(vol) {
			d.take(p, vol, r, due, "", &s)
		}
		d.prune(p, vol, r, &s)
	}
	if !proto.Equal(was.Value, mark) {
		s.ops = append(s.ops, state.ScheduleMarks.Put(key, mark))
	}
	return s
}

// unchanged reports whether nothing can have been written to a volume since its last
// snapshot: it is detached, and has been since a head without a device took it. When that
// head went, it raised the epoch once and left the volume without an owner; whoever else
// had it would have raised it more.
func (d *decider) unchanged(vol *v1.Volume) bool {
	id := vol.Meta.Id
	if _, attached := d.attachments.get(id); attached {
		return false
	}
	rec := d.records.value(id)
	for snap := range d.snaps[id] {
		s := d.snapStatuses.value(snap)
		same := s.GetEpoch() == rec.GetEpoch() || s.GetEpoch()+1 == rec.GetEpoch() && rec.OwnerNodeId == ""
		if s.GetReady() && s.Idle && same && !d.snapshots.value(snap).Spec.GetDeleted() {
			return true
		}
	}
	return false
}

// take has a snapshot taken, as one of a group if that has an id.
func (d *decider) take(p *v1.SnapshotPolicy, vol *v1.Volume, r rhythm, due time.Time, group string, s *step) {
	if len(d.snaps[vol.Meta.Id]) >= d.settings.snapshotsMax {
		s.event = d.about(vol, "warning", "SnapshotLimit", "policy %s took no snapshot: the volume has %d, the most that there may be; delete some, or have the policy keep fewer",
			p.Meta.Name, len(d.snaps[vol.Meta.Id]))
		return
	}
	id := d.ids()
	kind, _, _ := strings.Cut(r.key, " ")
	snap := &v1.Snapshot{
		Meta: &v1.Meta{Id: id, Name: snapshotName(vol, p, kind, due), Labels: maps.Clone(vol.Meta.Labels), Created: timestamppb.New(d.now)},
		Spec: &v1.SnapshotSpec{VolumeId: vol.Meta.Id, GroupId: group, Freeze: p.Spec.Freeze, Policy: p.Meta.Id, Schedule: r.key, Due: timestamppb.New(due)},
	}
	name := state.NameKey(state.KindSnapshot, snap.Meta.Name)
	if _, taken := d.names[name]; taken {
		snap.Meta.Name += "-" + id[:8]
		name = state.NameKey(state.KindSnapshot, snap.Meta.Name)
	}
	volume := d.volumes.entries[vol.Meta.Id]
	s.ops = append(s.ops, state.Snapshots.Create(id, snap), state.Create(name, []byte(id)), state.Volumes.Require(volume.ID, volume.Revision))
}

// snapshotName says what a snapshot is of, and why it is there.
func snapshotName(vol *v1.Volume, p *v1.SnapshotPolicy, kind string, due time.Time) string {
	return fmt.Sprintf("%s-%s-%s-%s", vol.Meta.Name, p.Meta.Name, kind, due.UTC().Format("20060102-150405"))
}

// prune has the oldest snapshots of a schedule deleted, when there are more that can be
// used than it keeps; and those that failed, once there is a newer one that did not.
func (d *decider) prune(p *v1.SnapshotPolicy, vol *v1.Volume, r rhythm, s *step) {
	var ready, failed []string
	for id := range d.snaps[vol.Meta.Id] {
		spec := d.snapshots.value(id).Spec
		if spec.Policy != p.Meta.Id || spec.Schedule != r.key || spec.Deleted {
			continue
		}
		switch status := d.snapStatuses.value(id); {
		case status.GetProblem() != "" || d.groupFailed(spec.GroupId):
			failed = append(failed, id)
		case status.GetReady():
			ready = append(ready, id)
		}
	}
	due := func(id string) time.Time { return d.snapshots.value(id).Spec.Due.AsTime() }
	order := func(a, b string) int {
		if c := due(a).Compare(due(b)); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	}
	slices.SortFunc(ready, order)
	slices.SortFunc(failed, order)
	var gone []string
	if n := len(ready) - r.keep; n > 0 {
		gone = ready[:n]
	}
	for _, id := range failed {
		if len(ready) > 0 && due(ready[len(ready)-1]).After(due(id)) {
			gone = append(gone, id)
			gone = append(gone, d.othersOf(id)...) // without the one that failed they would count as taken
		}
	}
	for _, id := range gone[:min(len(gone), batchMax)] {
		snap := d.snapshots.entries[id]
		if snap.Value.Spec.Deleted || slices.ContainsFunc(s.ops, func(op state.Op) bool { return op.Key == state.Snapshots.Key(id) }) {
			continue
		}
		next := proto.CloneOf(snap.Value)
		next.Spec.Deleted = true
		s.ops = append(s.ops, state.Snapshots.Replace(id, next, snap.Revision))
	}
}
