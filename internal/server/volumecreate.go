package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/control"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

func (s *Server) stamp() *timestamppb.Timestamp { return timestamppb.New(s.now()) }

// CreateVolume makes a volume, or finds the one that was made so already.
func (s *volumes) CreateVolume(ctx context.Context, r *v1.CreateVolumeRequest) (*v1.Volume, error) {
	if err := checkName("name", r.Name); err != nil {
		return nil, err
	}
	if err := checkLabels("labels", r.Labels); err != nil {
		return nil, err
	}
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	asked, err := s.asked(ctx, r)
	if err != nil {
		return nil, err
	}
	e, err := s.create(ctx, r, asked)
	if err != nil {
		return nil, err
	}
	err = s.waitFor(ctx, wait, fmt.Sprintf("volume %s can't be used yet", r.Name), func() (bool, string, error) { return s.usableYet(e.ID) })
	if err != nil {
		return nil, err
	}
	if now, ok := s.view.volumes.Get(e.ID); ok {
		e = now
	}
	return s.view.volume(e), nil
}

// asked returns the spec that is asked for, with names resolved, and without defaults.
func (s *volumes) asked(ctx context.Context, r *v1.CreateVolumeRequest) (*v1.VolumeSpec, error) {
	spec := &v1.VolumeSpec{}
	if r.Spec != nil {
		spec = clone(r.Spec)
	}
	if err := refuseOutputs(spec); err != nil {
		return nil, err
	}
	if r.SourceSnapshot != "" && r.SourceVolume != "" {
		return nil, invalid("source_volume", "give one of source_snapshot and source_volume", "a volume can't begin with two things")
	}
	if r.SourceSnapshot != "" {
		e, err := s.findSnapshot(ctx, r.SourceSnapshot)
		if err != nil {
			return nil, fault.WithField(err, "source_snapshot")
		}
		spec.SourceSnapshotId, spec.SourceVolumeId = e.ID, e.Value.GetSpec().GetVolumeId()
	}
	if r.SourceVolume != "" {
		e, err := s.usableVolume(ctx, r.SourceVolume)
		if err != nil {
			return nil, fault.WithField(err, "source_volume")
		}
		spec.SourceVolumeId = e.ID
	}
	var err error
	spec.SnapshotPolicies, err = s.policyIDs(ctx, "spec.snapshot_policies", spec.SnapshotPolicies)
	return spec, err
}

// refuseOutputs refuses fields that say what became of a volume.
func refuseOutputs(spec *v1.VolumeSpec) error {
	for field, set := range map[string]bool{
		"deleted": spec.Deleted != nil, "deleting": spec.Deleting, "accepted_loss": spec.AcceptedLoss != nil,
		"source_snapshot_id": spec.SourceSnapshotId != "", "source_volume_id": spec.SourceVolumeId != "",
	} {
		if set {
			return invalid("spec."+field, "leave it out", "the cluster sets it")
		}
	}
	return nil
}

// policyIDs resolves names of snapshot policies, in order and each once.
func (s *Server) policyIDs(ctx context.Context, field string, refs []string) (ids []string, err error) {
	for _, ref := range refs {
		e, err := s.findPolicy(ctx, ref)
		if err != nil {
			return nil, fault.WithField(err, field)
		}
		if !slices.Contains(ids, e.ID) {
			ids = append(ids, e.ID)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// create writes the volume, unless there is one of the name.
func (s *volumes) create(ctx context.Context, r *v1.CreateVolumeRequest, asked *v1.VolumeSpec) (state.Entry[*v1.Volume], error) {
	for range attemptsMax {
		if e, found, err := s.existing(ctx, r.Name); err != nil || found {
			if err == nil {
				err = sameVolume(r, asked, e.Value)
			}
			return e, err
		}
		spec, err := s.complete(ctx, r, clone(asked))
		if err != nil {
			return state.Entry[*v1.Volume]{}, err
		}
		meta, err := s.newMeta(r.Name, r.Labels)
		if err != nil {
			return state.Entry[*v1.Volume]{}, err
		}
		v := &v1.Volume{Meta: meta, Spec: spec}
		birth, err := s.birth(ctx, v)
		if err != nil {
			return state.Entry[*v1.Volume]{}, err
		}
		at, err := s.commit(ctx, append(birth, state.Volumes.Create(meta.Id, v), state.Create(state.NameKey(state.KindVolume, r.Name), []byte(meta.Id)),
			s.event(ctx, state.KindVolume, meta, "CreateAsked", "volume %s of %d bytes with %d replicas is to be made", r.Name, spec.SizeBytes, spec.Replicas))...)
		if fault.Is(err, fault.Busy) {
			continue // somebody took the name: look again
		}
		if err != nil {
			return state.Entry[*v1.Volume]{}, err
		}
		restamp(v, at)
		return state.Entry[*v1.Volume]{ID: meta.Id, Value: v, Revision: at}, s.view.volumes.Reach(ctx, at)
	}
	return state.Entry[*v1.Volume]{}, fault.Errorf("server", fault.Busy, "volume %s was not made: %w", r.Name, errTooBusy)
}

// birth is what is written with a clone, so that what it begins with stays until it is
// made: from then on nobody deletes the snapshot, and who was about to take the source away
// meets another revision of it, and looks again.
func (s *volumes) birth(ctx context.Context, clone *v1.Volume) ([]state.Op, error) {
	id := clone.Spec.SourceSnapshotId
	if id == "" {
		return nil, nil
	}
	snap, err := state.Snapshots.Get(ctx, s.store, id)
	if err == nil && snap.Value.GetSpec().GetDeleted() {
		err = fault.Errorf("server", fault.Precondition, "snapshot %s is being deleted", snap.Value.GetMeta().GetName())
	}
	if err != nil {
		return nil, unreachableIf(err)
	}
	source, err := state.Volumes.Get(ctx, s.store, snap.Value.GetSpec().GetVolumeId())
	if err == nil && source.Value.GetSpec().GetDeleting() {
		err = usable(source.Value)
	}
	if err != nil {
		return nil, unreachableIf(err)
	}
	return []state.Op{state.Births.Create(state.BirthKey(id, clone.Meta.Id), &emptypb.Empty{}),
		state.Snapshots.Require(id, snap.Revision), state.Volumes.Replace(source.ID, source.Value, source.Revision)}, nil
}

// existing returns the volume that has a name, by what the store says.
func (s *volumes) existing(ctx context.Context, name string) (state.Entry[*v1.Volume], bool, error) {
	id, err := s.fresh(ctx, state.KindVolume, name)
	if err == nil {
		var e state.Entry[*v1.Volume]
		if e, err = state.Volumes.Get(ctx, s.store, id); err == nil {
			return e, true, usable(e.Value)
		}
	}
	switch {
	case fault.Is(err, fault.NotFound):
		return state.Entry[*v1.Volume]{}, false, nil
	case fault.Is(err, fault.Unavailable):
		err = unreachable(err)
	}
	return state.Entry[*v1.Volume]{}, false, err
}

// complete gives what was left out its default, and checks the whole.
func (s *volumes) complete(ctx context.Context, r *v1.CreateVolumeRequest, spec *v1.VolumeSpec) (*v1.VolumeSpec, error) {
	if r.SourceVolume != "" {
		id, err := s.snapshotForClone(ctx, spec.SourceVolumeId, r.Name)
		if err != nil {
			return nil, err
		}
		spec.SourceSnapshotId = id
	}
	if err := s.fromSource(ctx, spec); err != nil {
		return nil, err
	}
	set := s.view.setting()
	if spec.Replicas == 0 {
		spec.Replicas = cmp.Or(set.GetDefaultReplicas(), s.defaultReplicas())
	}
	spec.SectorBytes = cmp.Or(spec.SectorBytes, 4096)
	spec.Filesystem = orNone(cmp.Or(spec.Filesystem, set.GetDefaultFilesystem(), filesystemDefault))
	if spec.SizeBytes == 0 {
		return nil, invalid("spec.size_bytes", "give the size in bytes, such as 10737418240 for 10 GiB", "it is missing")
	}
	return spec, checkVolumeSpec(spec)
}

// fromSource takes over what a clone has of its source, and checks that it can be made.
func (s *volumes) fromSource(ctx context.Context, spec *v1.VolumeSpec) error {
	if spec.SourceSnapshotId == "" {
		return nil
	}
	e, err := s.findSnapshot(ctx, spec.SourceSnapshotId)
	if err != nil {
		return err
	}
	snap := s.view.snapshot(e)
	name := snap.GetMeta().GetName()
	switch {
	case snap.GetSpec().GetDeleted():
		return fault.Errorf("server", fault.Precondition, "snapshot %s is being deleted", name)
	case !snap.Status.Ready:
		return fault.WithCure(fault.Errorf("server", fault.Unavailable, "snapshot %s is not taken yet%s", name, because(snap.Status.Problem)), "try again in a moment")
	}
	source := value(s.view.volumes, snap.GetSpec().GetVolumeId())
	size := cmp.Or(snap.Status.SizeBytes, source.GetSpec().GetSizeBytes())
	spec.SizeBytes = cmp.Or(spec.SizeBytes, size)
	if spec.SizeBytes < size {
		return invalid("spec.size_bytes", fmt.Sprintf("give at least %d", size), "%d is less than snapshot %s has", spec.SizeBytes, name)
	}
	spec.Filesystem = cmp.Or(spec.Filesystem, source.GetSpec().GetFilesystem())
	if source != nil && spec.Filesystem == "" {
		spec.Filesystem = "none"
	}
	spec.SectorBytes = cmp.Or(spec.SectorBytes, source.GetSpec().GetSectorBytes())
	spec.Replicas = cmp.Or(spec.Replicas, source.GetSpec().GetReplicas())
	return nil
}

// orNone makes what asks for no filesystem the empty word.
func orNone(filesystem string) string {
	if filesystem == "none" {
		return ""
	}
	return filesystem
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// sameVolume compares what is asked for with a volume of the name. What was left out
// and has a default is the same as anything.
func sameVolume(r *v1.CreateVolumeRequest, asked *v1.VolumeSpec, have *v1.Volume) error {
	want, is := clone(asked), clone(have.Spec)
	want.Filesystem = orNone(want.Filesystem)
	if want.SizeBytes == 0 {
		want.SizeBytes = is.SizeBytes
	}
	if want.Replicas == 0 {
		want.Replicas = is.Replicas
	}
	if want.SectorBytes == 0 {
		want.SectorBytes = is.SectorBytes
	}
	if asked.Filesystem == "" {
		want.Filesystem = is.Filesystem
	}
	if r.SourceVolume != "" {
		want.SourceSnapshotId = is.SourceSnapshotId
	}
	want.RepairPaused, is.AcceptedLoss = is.RepairPaused, nil
	for _, s := range []*v1.VolumeSpec{want, is} {
		if s.Placement != nil {
			s.Placement.Prefer = "" // a wish at the time, which may be another each time
		}
	}
	if d := differences(want.ProtoReflect(), is.ProtoReflect(), ""); len(d) > 0 {
		return exists(r.Name, d)
	}
	for _, key := range sortedKeys(r.Labels) {
		if got, ok := have.GetMeta().GetLabels()[key]; !ok || got != r.Labels[key] {
			return exists(r.Name, []string{fmt.Sprintf("label %s is %q, not %q", key, got, r.Labels[key])})
		}
	}
	return nil
}

func exists(name string, differences []string) error {
	return fault.WithCure(fault.Errorf("server", fault.Exists, "volume %s exists, and is another: %s", name, strings.Join(differences, "; ")),
		"choose another name, or change the volume: holdfast volume update "+name)
}

// differences names the fields in which two specs differ. A message that is absent is the
// same as an empty one.
func differences(want, have protoreflect.Message, prefix string) (all []string) {
	fields := want.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		a, b := want.Get(f), have.Get(f)
		switch {
		case f.Message() != nil && !f.IsList() && !f.IsMap():
			all = append(all, differences(a.Message(), b.Message(), prefix+string(f.Name())+".")...)
		case !a.Equal(b):
			all = append(all, fmt.Sprintf("%s%s is %v, not %v", prefix, f.Name(), shown(b), shown(a)))
		}
	}
	return all
}

// shown prints a value for people; an empty one needs a word.
func shown(v protoreflect.Value) string {
	switch v := v.Interface().(type) {
	case protoreflect.List:
		var all []string
		for i := range v.Len() {
			all = append(all, v.Get(i).String())
		}
		return cmp.Or(strings.Join(all, ","), "(none)")
	case protoreflect.Map:
		var all []string
		v.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			all = append(all, key.String()+"="+value.String())
			return true
		})
		slices.Sort(all)
		return cmp.Or(strings.Join(all, ","), "(none)")
	}
	return cmp.Or(v.String(), "(none)")
}

// defaultReplicas is how many copies a volume has for which neither its maker nor the
// settings say.
func (s *Server) defaultReplicas() int32 {
	return int32(max(1, min(replicasDefault, s.view.nodes.Len())))
}

// usableYet reports whether a volume can be used, and if not, why; an error says that it
// never will without somebody's doing.
func (s *Server) usableYet(id string) (bool, string, error) {
	e, ok := s.view.volumes.Get(id)
	if !ok {
		return false, "it is gone", fault.Errorf("server", fault.NotFound, "the volume was deleted meanwhile")
	}
	v := s.view.volume(e)
	switch v.Status.Health {
	case v1.Health_HEALTH_HEALTHY, v1.Health_HEALTH_DEGRADED:
		return true, "", nil
	case v1.Health_HEALTH_DELETING, v1.Health_HEALTH_TRASHED:
		return false, "", fault.Errorf("server", fault.Precondition, "the volume was deleted meanwhile")
	}
	for _, c := range v.Status.Conditions {
		if isRefusal(c) {
			return false, c.Message, fault.WithCure(fault.Errorf("server", fault.NoSpace, "volume %s has no place: %s", v.Meta.Name, c.Message),
				"give it place as the message says: it is made then by itself; or delete it: holdfast volume delete "+v.Meta.Name)
		}
	}
	return false, words(v.Status.Conditions, "nothing is known of it yet"), nil
}

// isRefusal reports whether a condition says that there is no place for a volume.
func isRefusal(c *v1.Condition) bool { return c.Type == control.Placed && !c.Status }

// isObstacle reports whether a condition says that what was asked for can't be done as
// things are.
func isObstacle(c *v1.Condition) bool {
	return !c.Status && (c.Reason == "NoPlace" || c.Reason == "NoSpace") && slices.Contains([]string{control.Placed, control.Repaired, control.Grown, control.Moved}, c.Type)
}
