package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec/selector"
	"github.com/holdfast-io/holdfast/internal/state"
)

// snapshots is the SnapshotService.
type snapshots struct{ *Server }

// groupMax bounds a group of volumes: one commit holds all its snapshots.
const groupMax = 32

// CreateSnapshot takes a snapshot.
func (s *snapshots) CreateSnapshot(ctx context.Context, r *v1.CreateSnapshotRequest) (*v1.Snapshot, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	if err := checkLabels("labels", r.Labels); err != nil {
		return nil, err
	}
	volume, err := s.usableVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	name := cmp.Or(r.Name, s.timed(volume.Value.Meta.Name))
	if err := checkName("name", name); err != nil {
		return nil, err
	}
	e, err := s.take(ctx, volume, name, r)
	if err != nil {
		return nil, err
	}
	if err := s.waitTaken(ctx, wait, e.ID); err != nil {
		return nil, err
	}
	return s.view.snapshot(e), nil
}

// timed makes a name of what is taken, and the time.
func (s *Server) timed(of string) string {
	const form = "20060102-150405.000"
	return fmt.Sprintf("%.100s-%s", of, s.now().UTC().Format(form))
}

// take writes a snapshot's spec, unless there is one of the name.
func (s *snapshots) take(ctx context.Context, volume state.Entry[*v1.Volume], name string, r *v1.CreateSnapshotRequest) (state.Entry[*v1.Snapshot], error) {
	if e, found, err := s.existing(ctx, name); err != nil || found {
		if err == nil {
			err = sameSnapshot(volume, e.Value, s.view)
		}
		return e, err
	}
	if err := s.roomFor(volume, 1); err != nil {
		return state.Entry[*v1.Snapshot]{}, err
	}
	meta, err := s.newMeta(name, r.Labels)
	if err != nil {
		return state.Entry[*v1.Snapshot]{}, err
	}
	snap := &v1.Snapshot{Meta: meta, Spec: &v1.SnapshotSpec{VolumeId: volume.ID, Freeze: r.Freeze}}
	at, err := s.commit(ctx, s.creates(ctx, volume, snap)...)
	if fault.Is(err, fault.Busy) { // the name was taken, or the volume changed
		if e, found, err := s.existing(ctx, name); err != nil || found {
			if err == nil {
				err = sameSnapshot(volume, e.Value, s.view)
			}
			return e, err
		}
		if volume, err = s.again(ctx, volume.ID); err == nil {
			at, err = s.commit(ctx, s.creates(ctx, volume, snap)...)
		}
	}
	if err != nil {
		return state.Entry[*v1.Snapshot]{}, err
	}
	restamp(snap, at)
	return state.Entry[*v1.Snapshot]{ID: meta.Id, Value: snap, Revision: at}, s.view.snapshots.Reach(ctx, at)
}

// creates returns what creates a snapshot.
func (s *snapshots) creates(ctx context.Context, volume state.Entry[*v1.Volume], snap *v1.Snapshot) []state.Op {
	return []state.Op{
		state.Snapshots.Create(snap.Meta.Id, snap),
		state.Create(state.NameKey(state.KindSnapshot, snap.Meta.Name), []byte(snap.Meta.Id)),
		state.Volumes.Require(volume.ID, volume.Revision),
		s.event(ctx, state.KindSnapshot, snap.Meta, "SnapshotAsked", "a snapshot of volume %s is to be taken", volume.Value.Meta.Name),
	}
}

func (s *snapshots) existing(ctx context.Context, name string) (state.Entry[*v1.Snapshot], bool, error) {
	id, err := s.fresh(ctx, state.KindSnapshot, name)
	if err == nil {
		var e state.Entry[*v1.Snapshot]
		if e, err = state.Snapshots.Get(ctx, s.store, id); err == nil {
			return e, true, nil
		}
	}
	if fault.Is(err, fault.NotFound) {
		err = nil
	}
	return state.Entry[*v1.Snapshot]{}, false, unreachableIf(err)
}

func sameSnapshot(volume state.Entry[*v1.Volume], have *v1.Snapshot, v *view) error {
	name := have.GetMeta().GetName()
	switch {
	case have.GetSpec().GetDeleted():
		return fault.WithCure(fault.Errorf("server", fault.Busy, "snapshot %s is being deleted", name), "try again in a moment")
	case have.GetSpec().GetVolumeId() != volume.ID:
		return fault.WithCure(fault.Errorf("server", fault.Exists, "snapshot %s exists, and is of volume %s", name, v.volumeName(have.Spec.VolumeId)), "choose another name")
	}
	return nil
}

// roomFor refuses more snapshots than a volume may have.
func (s *Server) roomFor(volume state.Entry[*v1.Volume], more int) error {
	most := int(cmp.Or(s.view.setting().GetSnapshotsPerVolumeMax(), snapshotsDefault))
	if have := len(s.view.snapshots.ByIndex(byVolume, volume.ID)); have+more > most {
		name := volume.Value.Meta.Name
		return fault.WithCure(fault.Errorf("server", fault.NoSpace, "volume %s has %d snapshots, and %d is the most", name, have, most),
			"delete some: holdfast snapshot list --volume "+name)
	}
	return nil
}

// waitTaken waits until a snapshot is there.
func (s *Server) waitTaken(ctx context.Context, wait time.Duration, ids ...string) error {
	return s.waitFor(ctx, wait, "the snapshot is not taken yet", func() (bool, string, error) {
		for _, id := range ids {
			e, ok := s.view.snapshots.Get(id)
			if !ok || e.Value.GetSpec().GetDeleted() {
				return false, "", fault.Errorf("server", fault.NotFound, "the snapshot was deleted meanwhile")
			}
			if snap := s.view.snapshot(e); snap.Status.Problem != "" {
				return false, "", fault.Errorf("server", fault.Unavailable, "snapshot %s was not taken: %s", snap.Meta.Name, snap.Status.Problem)
			} else if !snap.Status.Ready {
				return false, "the head of volume " + s.view.volumeName(snap.Spec.VolumeId) + " is at it", nil
			}
		}
		return true, "", nil
	})
}

// snapshotForClone takes the snapshot that a clone of a volume begins with. It is one for
// each name, so that a repeated call finds it.
func (s *Server) snapshotForClone(ctx context.Context, volume, clone string) (string, error) {
	e, err := state.Volumes.Get(ctx, s.store, volume)
	if err != nil {
		return "", unreachableIf(err)
	}
	r := &v1.CreateSnapshotRequest{Volume: volume, Name: fmt.Sprintf("for-clone-%.110s", clone), Labels: map[string]string{"holdfast.io/for-clone": "true"}}
	snap, err := (&snapshots{s}).take(ctx, e, r.Name, r)
	if err != nil {
		return "", err
	}
	return snap.ID, s.waitTaken(ctx, cloneWait, snap.ID)
}

// cloneWait is how long a clone waits for its snapshot.
const cloneWait = time.Minute

// CreateGroupSnapshot takes snapshots of one moment.
func (s *snapshots) CreateGroupSnapshot(ctx context.Context, r *v1.CreateGroupSnapshotRequest) (*v1.CreateGroupSnapshotResponse, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	if err := checkLabels("labels", r.Labels); err != nil {
		return nil, err
	}
	members, err := s.groupMembers(ctx, r)
	if err != nil {
		return nil, err
	}
	name := cmp.Or(r.Name, s.timed("group"))
	if err := checkName("name", name); err != nil {
		return nil, err
	}
	group, list, err := s.takeGroup(ctx, members, name, r)
	if err != nil {
		return nil, err
	}
	out := &v1.CreateGroupSnapshotResponse{GroupId: group}
	var ids []string
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	if err := s.waitTaken(ctx, wait, ids...); err != nil {
		if s.view.groupProblem(group) != "" {
			return nil, errors.Join(err, s.dropGroup(ctx, list))
		}
		return nil, err
	}
	for _, e := range list {
		out.Snapshots = append(out.Snapshots, s.view.snapshot(e))
	}
	return out, nil
}

// groupMembers returns the volumes that are named, or that a selector matches.
func (s *snapshots) groupMembers(ctx context.Context, r *v1.CreateGroupSnapshotRequest) (members []state.Entry[*v1.Volume], err error) {
	switch {
	case len(r.Volumes) > 0 && r.Selector != "":
		return nil, invalid("selector", "give one of volumes and selector", "volumes are named already")
	case len(r.Volumes) == 0 && r.Selector == "":
		return nil, invalid("volumes", "name the volumes, or give a selector", "it is empty")
	}
	for _, ref := range r.Volumes {
		e, err := s.usableVolume(ctx, ref)
		if err != nil {
			return nil, fault.WithField(err, "volumes")
		}
		if slices.ContainsFunc(members, func(m state.Entry[*v1.Volume]) bool { return m.ID == e.ID }) {
			return nil, invalid("volumes", "name each volume once", "%s is there twice", ref)
		}
		members = append(members, e)
	}
	if r.Selector != "" {
		sel, err := parseSelector(r.Selector)
		if err != nil {
			return nil, err
		}
		for _, e := range s.view.volumes.List() {
			if sel.Matches(e.Value.GetMeta().GetLabels()) && usable(e.Value) == nil {
				members = append(members, e)
			}
		}
	}
	if len(members) == 0 {
		return nil, invalid("selector", "see what there is: holdfast volume list", "%q matches no volume", r.Selector)
	}
	if len(members) > groupMax {
		return nil, invalid("volumes", "take several groups", "%d volumes are more than the %d of a group", len(members), groupMax)
	}
	return members, nil
}

// takeGroup writes the snapshots of a group in one commit, unless they are there.
func (s *snapshots) takeGroup(ctx context.Context, members []state.Entry[*v1.Volume], name string, r *v1.CreateGroupSnapshotRequest) (string, []state.Entry[*v1.Snapshot], error) {
	if group, list, err := s.existingGroup(ctx, members, name); err != nil || list != nil {
		if err != nil || s.view.groupProblem(group) == "" {
			return group, list, err
		}
		if err := s.dropGroup(ctx, list); err != nil {
			return "", nil, err
		}
	}
	group, err := s.newID()
	if err != nil {
		return "", nil, err
	}
	var ops []state.Op
	var list []state.Entry[*v1.Snapshot]
	for _, m := range members {
		if err := s.roomFor(m, 1); err != nil {
			return "", nil, err
		}
		meta, err := s.newMeta(memberName(name, m.Value), r.Labels)
		if err != nil {
			return "", nil, err
		}
		snap := &v1.Snapshot{Meta: meta, Spec: &v1.SnapshotSpec{VolumeId: m.ID, GroupId: group, Freeze: r.Freeze}}
		ops = append(ops, s.creates(ctx, m, snap)[:3]...)
		list = append(list, state.Entry[*v1.Snapshot]{ID: meta.Id, Value: snap})
	}
	ops = append(ops, s.event(ctx, state.KindSnapshot, &v1.Meta{Id: group, Name: name}, "GroupSnapshotAsked", "a snapshot of %d volumes at one moment is to be taken", len(members)))
	at, err := s.commit(ctx, ops...)
	if fault.Is(err, fault.Busy) {
		if group, list, err := s.existingGroup(ctx, members, name); err != nil || list != nil {
			return group, list, err
		}
		return "", nil, fault.WithCure(fault.Errorf("server", fault.Busy, "a volume of the group was changed meanwhile"), "try again")
	}
	if err != nil {
		return "", nil, err
	}
	for _, e := range list {
		restamp(e.Value, at)
	}
	return group, list, s.view.snapshots.Reach(ctx, at)
}

// dropGroup deletes what there is of a group's snapshot that failed.
func (s *snapshots) dropGroup(ctx context.Context, list []state.Entry[*v1.Snapshot]) error {
	for _, e := range list {
		if _, err := s.unwant(ctx, e); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}

func memberName(group string, v *v1.Volume) string {
	return fmt.Sprintf("%.80s-%.47s", group, v.GetMeta().GetName())
}

// existingGroup returns the snapshots of a group that was taken already. A name that
// another snapshot has is refused.
func (s *snapshots) existingGroup(ctx context.Context, members []state.Entry[*v1.Volume], name string) (group string, list []state.Entry[*v1.Snapshot], err error) {
	for i, m := range members {
		e, found, err := s.existing(ctx, memberName(name, m.Value))
		if err != nil {
			return "", nil, err
		}
		if found {
			if err := sameSnapshot(m, e.Value, s.view); err != nil {
				return "", nil, err
			}
		}
		if found && len(list) != i || !found && len(list) > 0 || found && i > 0 && e.Value.Spec.GroupId != group || found && e.Value.Spec.GroupId == "" {
			return "", nil, fault.WithCure(fault.Errorf("server", fault.Exists, "snapshots called %s-… exist, and are not of these volumes at one moment", name), "choose another name")
		}
		if !found {
			continue
		}
		group = e.Value.Spec.GroupId
		list = append(list, e)
	}
	return group, list, nil
}

// GetSnapshot returns one snapshot.
func (s *snapshots) GetSnapshot(ctx context.Context, r *v1.GetSnapshotRequest) (*v1.Snapshot, error) {
	e, err := s.findSnapshot(ctx, r.Snapshot)
	if err != nil {
		return nil, err
	}
	return s.view.snapshot(e), nil
}

// snapshotFilter is what a list of snapshots is limited to.
type snapshotFilter struct {
	volume, group, policy string
	selector              selector.Selector
}

func (f snapshotFilter) matches(snap *v1.Snapshot) bool {
	return (f.volume == "" || snap.GetSpec().GetVolumeId() == f.volume) && (f.group == "" || snap.GetSpec().GetGroupId() == f.group) &&
		(f.policy == "" || snap.GetSpec().GetPolicy() == f.policy) && f.selector.Matches(snap.GetMeta().GetLabels())
}

func (s *snapshots) filter(ctx context.Context, volume, group, policy, sel string) (f snapshotFilter, err error) {
	if f.selector, err = parseSelector(sel); err != nil {
		return f, err
	}
	f.group = group
	if volume != "" {
		e, err := s.findVolume(ctx, volume)
		if err != nil {
			return f, err
		}
		f.volume = e.ID
	}
	if policy != "" {
		f.policy = policy
		if e, err := s.findPolicy(ctx, policy); err == nil {
			f.policy = e.ID
		}
	}
	return f, nil
}

// ListSnapshots lists snapshots, by name.
func (s *snapshots) ListSnapshots(ctx context.Context, r *v1.ListSnapshotsRequest) (*v1.ListSnapshotsResponse, error) {
	f, err := s.filter(ctx, r.Volume, r.GroupId, r.Policy, r.Selector)
	if err != nil {
		return nil, err
	}
	var list []*v1.Snapshot
	for _, e := range s.view.snapshots.List() {
		if f.matches(e.Value) {
			list = append(list, s.view.snapshot(e))
		}
	}
	list, next, err := page(sortedBy(list, nameKey), r.PageSize, r.PageToken, nameKey)
	return &v1.ListSnapshotsResponse{Snapshots: list, NextPageToken: next}, err
}

// WatchSnapshots tells of snapshots.
func (s *snapshots) WatchSnapshots(ctx context.Context, r *v1.WatchSnapshotsRequest, out *connect.ServerStream[v1.WatchSnapshotsResponse]) error {
	f, err := s.filter(ctx, r.Volume, r.GroupId, "", "")
	if err != nil {
		return err
	}
	return watch(ctx, s.Server, func() watched[*v1.Snapshot] {
		all := watched[*v1.Snapshot]{}
		for _, e := range s.view.snapshots.List() {
			if f.matches(e.Value) {
				all[e.ID] = s.view.snapshot(e)
			}
		}
		return all
	}, stream(out, func(c v1.Change, o *v1.Snapshot) *v1.WatchSnapshotsResponse {
		return &v1.WatchSnapshotsResponse{Change: c, Snapshot: o}
	}))
}

// UpdateSnapshot changes labels and name.
func (s *snapshots) UpdateSnapshot(ctx context.Context, r *v1.UpdateSnapshotRequest) (*v1.Snapshot, error) {
	e, err := s.findSnapshot(ctx, r.Snapshot)
	if err != nil {
		return nil, err
	}
	if r.Name != nil {
		if err := checkName("name", *r.Name); err != nil {
			return nil, err
		}
	}
	e, err = update(ctx, s.Server, state.Snapshots, s.view.snapshots, e.ID, func(o *v1.Snapshot) (ops []state.Op, err error) {
		o.Meta.Labels = relabel(o.Meta.Labels, r.SetLabels, r.RemoveLabels)
		if r.Name != nil && *r.Name != o.Meta.Name {
			ops = rename(state.KindSnapshot, o.Meta, *r.Name)
		}
		return ops, checkLabels("set_labels", o.Meta.Labels)
	})
	if fault.Is(err, fault.Busy) && r.Name != nil {
		return nil, s.taken(ctx, state.KindSnapshot, *r.Name, err)
	}
	if err != nil {
		return nil, err
	}
	return s.view.snapshot(e), nil
}

// DeleteSnapshot marks a snapshot as to go away.
func (s *snapshots) DeleteSnapshot(ctx context.Context, r *v1.DeleteSnapshotRequest) (*v1.DeleteSnapshotResponse, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	e, err := s.findSnapshot(ctx, r.Snapshot)
	if err == nil {
		if group := e.Value.GetSpec().GetGroupId(); group != "" && s.view.groupProblem(group) != "" {
			err = s.dropGroup(ctx, s.view.snapshots.ByIndex(byGroup, group)) // without the one that failed the rest would look as if it were all
		} else {
			e, err = s.unwant(ctx, e)
		}
	}
	if fault.Is(err, fault.NotFound) {
		return &v1.DeleteSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &v1.DeleteSnapshotResponse{}, s.waitFor(ctx, wait, fmt.Sprintf("snapshot %s is not gone yet", e.Value.Meta.Name), func() (bool, string, error) {
		now, there := s.view.snapshots.Get(e.ID)
		if !there {
			return true, "", nil
		}
		return false, cmp.Or(s.view.snapshot(now).Status.Problem, s.view.awaitsClone(e.ID), "the head of its volume is at it"), nil
	})
}

// awaitsClone says which volume that is still being made begins with a snapshot.
func (v *view) awaitsClone(snapshot string) string {
	for _, e := range v.volumes.List() {
		if e.Value.GetSpec().GetSourceSnapshotId() == snapshot && v.volume(e).GetStatus().GetHealth() == v1.Health_HEALTH_CREATING {
			return fmt.Sprintf("volume %s, which begins with it, is still being made", e.Value.GetMeta().GetName())
		}
	}
	return ""
}

func (s *snapshots) unwant(ctx context.Context, e state.Entry[*v1.Snapshot]) (state.Entry[*v1.Snapshot], error) {
	return update(ctx, s.Server, state.Snapshots, s.view.snapshots, e.ID, func(o *v1.Snapshot) ([]state.Op, error) {
		if o.Spec.Deleted {
			return nil, nil
		}
		if a, err := state.Attachments.Get(ctx, s.store, o.Spec.VolumeId); err == nil && a.Value.GetSpec().GetSnapshotId() == e.ID {
			return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "snapshot %s is attached to node %s", o.Meta.Name, s.view.nodeName(a.Value.Spec.NodeId)),
				"detach it first: holdfast volume detach "+s.view.volumeName(o.Spec.VolumeId))
		}
		o.Spec.Deleted = true
		return append(s.freeName(ctx, state.KindSnapshot, o.Meta), s.event(ctx, state.KindSnapshot, o.Meta, "Deleted", "it is to go away")), nil
	})
}

// CloneSnapshot makes a volume that begins with a snapshot.
func (s *snapshots) CloneSnapshot(ctx context.Context, r *v1.CloneSnapshotRequest) (*v1.Volume, error) {
	if r.Snapshot == "" {
		return nil, invalid("snapshot", "give the name or the id of a snapshot", "it is empty")
	}
	return (&volumes{s.Server}).CreateVolume(ctx, &v1.CreateVolumeRequest{Name: r.Name, Labels: r.Labels, Spec: r.Spec, SourceSnapshot: r.Snapshot, Wait: r.Wait})
}
