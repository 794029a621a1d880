package server

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/control"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
)

// UpdateVolume changes what is named.
func (s *volumes) UpdateVolume(ctx context.Context, r *v1.UpdateVolumeRequest) (*v1.Volume, error) {
	e, err := s.usableVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	if r.Name != nil {
		if err := checkName("name", *r.Name); err != nil {
			return nil, err
		}
	}
	policies, err := s.policyIDs(ctx, "snapshot_policies", r.GetSnapshotPolicies().GetPolicies())
	if err != nil {
		return nil, err
	}
	e, err = update(ctx, s.Server, state.Volumes, s.view.volumes, e.ID, func(v *v1.Volume) ([]state.Op, error) {
		if err := usable(v); err != nil {
			return nil, err
		}
		return s.apply(r, policies, v)
	})
	if fault.Is(err, fault.Busy) && r.Name != nil {
		return nil, s.taken(ctx, state.KindVolume, *r.Name, err)
	}
	if err != nil {
		return nil, err
	}
	began, of := time.Now(), changed{size: r.SizeBytes != nil, copies: r.Replicas != nil || r.Class != nil || r.Placement != nil}
	if of == (changed{}) {
		wait = 0 // it is as asked, whatever else is the matter
	}
	err = s.waitFor(ctx, wait, fmt.Sprintf("volume %s is not as asked yet", e.Value.Meta.Name), func() (bool, string, error) {
		return s.cameTrue(e.ID, of, time.Since(began) > verdictAge)
	})
	if err != nil {
		return nil, err
	}
	return s.view.volume(e), nil
}

// apply changes a volume as asked, and checks what comes out.
func (s *volumes) apply(r *v1.UpdateVolumeRequest, policies []string, v *v1.Volume) (ops []state.Op, err error) {
	if err := checkRevision(r.Revision, v.Meta.Revision); err != nil {
		return nil, err
	}
	spec := v.Spec
	if r.SizeBytes != nil {
		if *r.SizeBytes < spec.SizeBytes {
			return nil, invalid("size_bytes", fmt.Sprintf("give at least %d; to shrink, copy what is on it to a smaller volume", spec.SizeBytes),
				"%d is less than the volume has, and volumes only grow", *r.SizeBytes)
		}
		spec.SizeBytes = *r.SizeBytes
	}
	set(&spec.Replicas, r.Replicas)
	set(&spec.Class, r.Class)
	set(&spec.NoDiscard, r.NoDiscard)
	set(&spec.RepairPaused, r.RepairPaused)
	if r.Limits != nil {
		spec.Limits = r.Limits
	}
	if r.Placement != nil {
		spec.Placement = r.Placement
	}
	if r.SnapshotPolicies != nil {
		spec.SnapshotPolicies = policies
	}
	v.Meta.Labels = relabel(v.Meta.Labels, r.SetLabels, r.RemoveLabels)
	if err := checkLabels("labels", v.Meta.Labels); err != nil {
		return nil, err
	}
	if r.Name != nil && *r.Name != v.Meta.Name {
		ops = rename(state.KindVolume, v.Meta, *r.Name)
	}
	return ops, checkVolumeSpec(spec)
}

// set changes a field that is named.
func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}

// rename gives an object another name, and returns what it takes besides.
func rename(kind string, meta *v1.Meta, name string) []state.Op {
	old := meta.Name
	meta.Name = name
	return []state.Op{state.Delete(state.NameKey(kind, old), 0), state.Create(state.NameKey(kind, name), []byte(meta.Id))}
}

// taken explains that a name could not be had, if that is why.
func (s *Server) taken(ctx context.Context, kind, name string, err error) error {
	if _, e := s.fresh(ctx, kind, name); e == nil {
		return fault.WithField(fault.WithCure(fault.Errorf("server", fault.Exists, "name: there is a %s %s already", kind, name), "choose another name"), "name")
	}
	return err
}

// verdictAge is how old a verdict may be that says something of what was before a change.
const verdictAge = 3 * time.Second

// changed is what of a volume was asked to be other than before, as far as it takes time.
type changed struct{ size, copies bool }

// concerns reports whether a condition is about what was asked for.
func (c changed) concerns(x *v1.Condition) bool {
	switch x.Type {
	case control.Grown:
		return c.size
	case control.Placed, control.Repaired, control.Moved:
		return c.copies
	}
	return false
}

// cameTrue reports whether a volume has the size and the replicas that were asked for. What
// stands in the way is believed when it is of now.
func (s *volumes) cameTrue(id string, of changed, settled bool) (bool, string, error) {
	e, ok := s.view.volumes.Get(id)
	if !ok {
		return false, "", fault.Errorf("server", fault.NotFound, "the volume was deleted meanwhile")
	}
	v := s.view.volume(e)
	for _, c := range v.Status.Conditions {
		if settled && isObstacle(c) && of.concerns(c) {
			return false, "", fault.Errorf("server", fault.NoSpace, "it can't be done: %s", c.Message)
		}
	}
	why := s.unsettled(id, of)
	if of.size {
		why = cmp.Or(s.small(id, v), why)
		if err := s.fixed(id, v); err != nil {
			return false, "", err
		}
	}
	if of.copies {
		why = cmp.Or(s.uneven(id, v), why)
	}
	if why != "" {
		return false, cmp.Or(words(v.Status.Conditions, ""), why), nil
	}
	return !of.copies || v.Status.Health == v1.Health_HEALTH_HEALTHY, words(v.Status.Conditions, "the cluster has not begun"), nil
}

// uneven says which replica is missing or too many, or nothing.
func (s *volumes) uneven(id string, v *v1.Volume) string {
	record, assignment := value(s.view.records, id), value(s.view.assignments, id)
	if len(record.GetMembers()) != int(v.Spec.Replicas) || len(assignment.GetReplicas()) != int(v.Spec.Replicas) {
		return fmt.Sprintf("it has %d replicas", len(record.GetMembers()))
	}
	for _, r := range assignment.Replicas {
		if r.Leaving {
			return fmt.Sprintf("the replica on node %s is still there", s.view.nodeName(r.NodeId))
		}
	}
	return ""
}

// small says what of a volume has not grown yet, or nothing. A replica that does not count
// grows when it is brought up to date.
func (s *volumes) small(id string, v *v1.Volume) string {
	record, want := value(s.view.records, id), v.Spec.SizeBytes
	if record.GetSizeBytes() < want {
		return fmt.Sprintf("its size is %d bytes", record.GetSizeBytes())
	}
	for _, m := range record.GetMembers() {
		if h := value(s.view.holdings, m.ReplicaId); m.State == uint32(spec.InSync) && h.GetSizeBytes() < want {
			return fmt.Sprintf("the replica on node %s has %d bytes", s.view.nodeName(m.NodeId), h.GetSizeBytes())
		}
	}
	attached, wanted := s.view.attachments.Get(id)
	device := s.view.device(id)
	if size := device.GetSizeBytes(); wanted && attached.Value.GetSpec().GetSnapshotId() == "" && size > 0 && size < want { // a node of before says none
		return fmt.Sprintf("its device on node %s has %d bytes", s.view.nodeName(device.NodeId), device.SizeBytes)
	}
	return ""
}

// reasonFixed is of the condition by which a node says that a device can't grow while it is
// there.
const reasonFixed = "DeviceCantGrow"

// fixed returns what is to be done about a volume that has grown but for its device, which
// can't; nil when that is not so.
func (s *volumes) fixed(id string, v *v1.Volume) error {
	device, size := s.view.device(id), v.Spec.SizeBytes
	if device.GetSizeBytes() >= size || value(s.view.records, id).GetSizeBytes() < size {
		return nil
	}
	for _, c := range device.GetConditions() {
		if c.Reason == reasonFixed {
			name := v.Meta.Name
			return fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s has %d bytes now, and its device on node %s keeps its %d: %s",
				name, size, s.view.nodeName(device.NodeId), device.SizeBytes, c.Message), "holdfast volume detach "+name+", then attach it as before")
		}
	}
	return nil
}

// unsettled returns what control last found to be in the way of a change, which it looks at
// again when something has changed.
func (s *volumes) unsettled(id string, of changed) string {
	for _, c := range value(s.view.verdicts, id).GetConditions() {
		if !c.Status && of.concerns(c) {
			return c.Message
		}
	}
	return ""
}

// DeleteVolume puts a volume into the trash, or deletes it for good.
func (s *volumes) DeleteVolume(ctx context.Context, r *v1.DeleteVolumeRequest) (*v1.DeleteVolumeResponse, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	e, err := s.findVolume(ctx, r.Volume)
	if fault.Is(err, fault.NotFound) {
		return &v1.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	keep := s.view.trashKeep()
	if e, err = s.discard(ctx, e, r.Purge || keep <= 0); err != nil {
		if fault.Is(err, fault.NotFound) {
			return &v1.DeleteVolumeResponse{}, nil
		}
		return nil, err
	}
	if e.Value.Spec.Deleting {
		return &v1.DeleteVolumeResponse{Volume: s.view.volume(e)}, s.waitGone(ctx, e, wait)
	}
	return &v1.DeleteVolumeResponse{Volume: s.view.volume(e), PurgeAt: timestamppb.New(e.Value.Spec.Deleted.AsTime().Add(keep))}, nil
}

// discard marks a volume as deleted, or as to be deleted for good, and frees its name.
func (s *volumes) discard(ctx context.Context, e state.Entry[*v1.Volume], forGood bool) (state.Entry[*v1.Volume], error) {
	return update(ctx, s.Server, state.Volumes, s.view.volumes, e.ID, func(v *v1.Volume) (ops []state.Op, err error) {
		if v.Spec.Deleting || v.Spec.Deleted != nil && !forGood {
			return nil, nil
		}
		a, err := state.Attachments.Get(ctx, s.store, e.ID)
		switch {
		case err == nil:
			return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is attached to node %s", v.Meta.Name, s.view.nodeName(a.Value.GetSpec().GetNodeId())),
				"detach it first: holdfast volume detach "+v.Meta.Name)
		case !fault.Is(err, fault.NotFound):
			return nil, err
		}
		ops = append(ops, state.Attachments.Require(e.ID, 0))
		reason, text := "Deleted", "it is in the trash"
		if forGood {
			v.Spec.Deleting, reason, text = true, "Purged", "it is being deleted for good"
		}
		if v.Spec.Deleted == nil {
			v.Spec.Deleted = s.stamp()
			ops = append(ops, s.freeName(ctx, state.KindVolume, v.Meta)...)
		}
		return append(ops, s.event(ctx, state.KindVolume, v.Meta, reason, "%s", text)), nil
	})
}

// freeName gives an object's name free, if it still is the object's.
func (s *Server) freeName(ctx context.Context, kind string, meta *v1.Meta) []state.Op {
	key := state.NameKey(kind, meta.Name)
	item, err := s.store.Get(ctx, key)
	if err != nil || string(item.Value) != meta.Id {
		return nil
	}
	return []state.Op{state.Delete(key, item.Revision)}
}

func (s *volumes) waitGone(ctx context.Context, e state.Entry[*v1.Volume], wait time.Duration) error {
	return s.waitFor(ctx, wait, fmt.Sprintf("volume %s is not gone yet", e.Value.Meta.Name), func() (bool, string, error) {
		_, there := s.view.volumes.Get(e.ID)
		return !there, fmt.Sprintf("%d replicas are left", len(s.view.holdings.ByIndex(byVolume, e.ID))), nil
	})
}

// RestoreVolume takes a volume out of the trash.
func (s *volumes) RestoreVolume(ctx context.Context, r *v1.RestoreVolumeRequest) (*v1.Volume, error) {
	e, err := s.trashed(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	name := e.Value.Meta.Name
	if r.Name != "" {
		if err := checkName("name", r.Name); err != nil {
			return nil, err
		}
		name = r.Name
	}
	e, err = update(ctx, s.Server, state.Volumes, s.view.volumes, e.ID, func(v *v1.Volume) ([]state.Op, error) {
		switch {
		case v.Spec.Deleting:
			return nil, usable(v)
		case v.Spec.Deleted == nil:
			return nil, nil
		}
		v.Spec.Deleted, v.Meta.Name = nil, name
		return []state.Op{state.Create(state.NameKey(state.KindVolume, name), []byte(v.Meta.Id)),
			s.event(ctx, state.KindVolume, v.Meta, "Restored", "it is out of the trash")}, nil
	})
	if fault.Is(err, fault.Busy) {
		return nil, fault.WithCure(s.taken(ctx, state.KindVolume, name, err), "restore it by its id under another name: holdfast volume restore "+e.ID+" --name NAME")
	}
	if err != nil {
		return nil, err
	}
	return s.view.volume(e), nil
}

// trashed finds a volume in the trash; of several of a name, the one that was deleted
// last. One that isn't in the trash is returned as it is.
func (s *volumes) trashed(ctx context.Context, ref string) (state.Entry[*v1.Volume], error) {
	var best state.Entry[*v1.Volume]
	for _, e := range s.view.volumes.ByIndex(byName, ref) {
		d := e.Value.GetSpec().GetDeleted()
		if d != nil && !e.Value.Spec.Deleting && (best.Value == nil || d.AsTime().After(best.Value.Spec.Deleted.AsTime())) {
			best = e
		}
	}
	if best.Value != nil {
		return best, nil
	}
	return s.findVolume(ctx, ref)
}

// PurgeVolume deletes for good what is in the trash.
func (s *volumes) PurgeVolume(ctx context.Context, r *v1.PurgeVolumeRequest) (*v1.PurgeVolumeResponse, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	e, err := s.trashed(ctx, r.Volume)
	if fault.Is(err, fault.NotFound) {
		return &v1.PurgeVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if e.Value.GetSpec().GetDeleted() == nil && !e.Value.GetSpec().GetDeleting() {
		return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is not in the trash", e.Value.Meta.Name), "delete it first: holdfast volume delete "+e.Value.Meta.Name)
	}
	if e, err = s.discard(ctx, e, true); err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	return &v1.PurgeVolumeResponse{Volume: s.view.volume(e)}, s.waitGone(ctx, e, wait)
}
