package csi

import (
	"context"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// CreateSnapshot takes a snapshot of a volume.
func (c *controller) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	switch {
	case r.Name == "":
		return nil, missing("the snapshot's name")
	case r.SourceVolumeId == "":
		return nil, missing("the source volume's id")
	}
	freeze, labels, err := snapshotParameters(r.Parameters)
	if err != nil {
		return nil, err
	}
	unlock, err := c.d.locks.lock(ctx, "snapshot/"+r.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	answer, err := c.api.Snapshots.CreateSnapshot(ctx, &holdfastv1.CreateSnapshotRequest{Volume: r.SourceVolumeId, Name: nameFor(r.Name),
		Labels: labels, Freeze: freeze, Wait: wait(ctx)})
	if err != nil {
		return nil, err
	}
	if problem := answer.GetStatus().GetProblem(); problem != "" {
		return nil, refuse(codes.Internal, "%s", problem)
	}
	return &csi.CreateSnapshotResponse{Snapshot: picture(answer)}, nil
}

// toldOfSnapshots are the reserved parameters that become labels.
var toldOfSnapshots = map[string]string{
	"csi.storage.k8s.io/volumesnapshot/name":             "volumesnapshot",
	"csi.storage.k8s.io/volumesnapshot/namespace":        "namespace",
	"csi.storage.k8s.io/volumesnapshotcontent/name":      "volumesnapshotcontent",
	"csi.storage.k8s.io/volumegroupsnapshot/name":        "volumegroupsnapshot",
	"csi.storage.k8s.io/volumegroupsnapshot/namespace":   "namespace",
	"csi.storage.k8s.io/volumegroupsnapshotcontent/name": "volumegroupsnapshotcontent",
}

// snapshotParameters reads a class of snapshots: there is one key, freeze.
func snapshotParameters(params map[string]string) (freeze bool, labels map[string]string, err error) {
	labels = map[string]string{}
	for key, value := range params {
		switch {
		case toldOfSnapshots[key] != "":
			labels[toldOfSnapshots[key]] = value
		case key == "freeze" && (value == "true" || value == "false"):
			freeze = value == "true"
		case key == "freeze":
			return false, nil, refuse(codes.InvalidArgument, "freeze: %q is neither true nor false", value)
		default:
			return false, nil, refuse(codes.InvalidArgument, "parameter %s: snapshots have no such option; the one they have is freeze=true|false", key)
		}
	}
	return freeze, merge(labels, nil), nil
}

// picture returns a snapshot as the specification has it.
func picture(s *holdfastv1.Snapshot) *csi.Snapshot {
	out := &csi.Snapshot{SnapshotId: s.GetMeta().GetId(), SourceVolumeId: s.GetSpec().GetVolumeId(), SizeBytes: s.GetStatus().GetSizeBytes(),
		ReadyToUse: s.GetStatus().GetReady(), GroupSnapshotId: s.GetSpec().GetGroupId(), CreationTime: s.GetStatus().GetTaken()}
	if out.CreationTime == nil {
		out.CreationTime = s.GetMeta().GetCreated()
	}
	return out
}

// DeleteSnapshot deletes a snapshot.
func (c *controller) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if r.SnapshotId == "" {
		return nil, missing("the snapshot's id")
	}
	if err := deleteSnapshot(ctx, c.api, r.SnapshotId); err != nil {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

func deleteSnapshot(ctx context.Context, api API, id string) error {
	_, err := api.Snapshots.DeleteSnapshot(ctx, &holdfastv1.DeleteSnapshotRequest{Snapshot: id, Wait: wait(ctx)})
	if is(err, fault.NotFound) {
		return nil
	}
	return err
}

// GetSnapshot returns one snapshot.
func (c *controller) GetSnapshot(ctx context.Context, r *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	if r.SnapshotId == "" {
		return nil, missing("the snapshot's id")
	}
	s, err := c.snapshot(ctx, r.SnapshotId)
	if err != nil {
		return nil, err
	}
	return &csi.GetSnapshotResponse{Snapshot: picture(s)}, nil
}

func (c *controller) snapshot(ctx context.Context, id string) (*holdfastv1.Snapshot, error) {
	answer, err := c.api.Snapshots.GetSnapshot(ctx, &holdfastv1.GetSnapshotRequest{Snapshot: id})
	if err != nil {
		return nil, err
	}
	if answer.GetSpec().GetDeleted() {
		return nil, refuse(codes.NotFound, "snapshot %s has been deleted", id)
	}
	return answer, nil
}

// ListSnapshots lists snapshots: one, those of a volume, or all.
func (c *controller) ListSnapshots(ctx context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	size, err := page(r.MaxEntries)
	if err != nil {
		return nil, err
	}
	if r.SnapshotId != "" {
		return c.listOne(ctx, r)
	}
	got, err := c.api.Snapshots.ListSnapshots(ctx, &holdfastv1.ListSnapshotsRequest{Volume: r.SourceVolumeId, PageSize: size, PageToken: r.StartingToken})
	if is(err, fault.NotFound) {
		return &csi.ListSnapshotsResponse{}, nil
	}
	if err != nil {
		return nil, staleToken(r.StartingToken, err)
	}
	answer := &csi.ListSnapshotsResponse{NextToken: got.NextPageToken}
	for _, s := range got.Snapshots {
		if !s.GetSpec().GetDeleted() {
			answer.Entries = append(answer.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: picture(s)})
		}
	}
	return answer, nil
}

func (c *controller) listOne(ctx context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	s, err := c.snapshot(ctx, r.SnapshotId)
	if is(err, fault.NotFound) || err == nil && r.SourceVolumeId != "" && s.GetSpec().GetVolumeId() != r.SourceVolumeId {
		return &csi.ListSnapshotsResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &csi.ListSnapshotsResponse{Entries: []*csi.ListSnapshotsResponse_Entry{{Snapshot: picture(s)}}}, nil
}

// groups takes snapshots of several volumes, of one moment.
type groups struct {
	csi.UnimplementedGroupControllerServer
	c *controller
}

// GroupControllerGetCapabilities returns what can be done with groups.
func (g *groups) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{{
		Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
			Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT}}}}}, nil
}

// CreateVolumeGroupSnapshot takes snapshots of several volumes, of one moment.
func (g *groups) CreateVolumeGroupSnapshot(ctx context.Context, r *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	switch {
	case r.Name == "":
		return nil, missing("the group snapshot's name")
	case len(r.SourceVolumeIds) == 0:
		return nil, missing("the source volumes")
	}
	freeze, labels, err := snapshotParameters(r.Parameters)
	if err != nil {
		return nil, err
	}
	unlock, err := g.c.d.locks.lock(ctx, "snapshot/"+r.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	answer, err := g.c.api.Snapshots.CreateGroupSnapshot(ctx, &holdfastv1.CreateGroupSnapshotRequest{Volumes: r.SourceVolumeIds, Name: nameFor(r.Name),
		Labels: labels, Freeze: freeze, Wait: wait(ctx)})
	if err != nil {
		return nil, err
	}
	for _, s := range answer.Snapshots {
		if problem := s.GetStatus().GetProblem(); problem != "" {
			return nil, refuse(codes.Internal, "%s: %s", s.GetMeta().GetName(), problem)
		}
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: album(answer.GroupId, answer.Snapshots)}, nil
}

// album returns a group of snapshots as the specification has it.
func album(id string, snapshots []*holdfastv1.Snapshot) *csi.VolumeGroupSnapshot {
	out := &csi.VolumeGroupSnapshot{GroupSnapshotId: id, ReadyToUse: true}
	for _, s := range snapshots {
		one := picture(s)
		one.GroupSnapshotId = id
		out.Snapshots = append(out.Snapshots, one)
		out.ReadyToUse = out.ReadyToUse && one.ReadyToUse
		if out.CreationTime == nil || one.CreationTime.AsTime().After(out.CreationTime.AsTime()) {
			out.CreationTime = one.CreationTime
		}
	}
	return out
}

// members lists the snapshots of a group.
func (g *groups) members(ctx context.Context, id string) (all []*holdfastv1.Snapshot, err error) {
	for token := ""; ; {
		got, err := g.c.api.Snapshots.ListSnapshots(ctx, &holdfastv1.ListSnapshotsRequest{GroupId: id, PageSize: pageMax, PageToken: token})
		if is(err, fault.NotFound) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		for _, s := range got.Snapshots {
			if !s.GetSpec().GetDeleted() {
				all = append(all, s)
			}
		}
		if token = got.NextPageToken; token == "" {
			return all, nil
		}
	}
}

// GetVolumeGroupSnapshot returns one group of snapshots.
func (g *groups) GetVolumeGroupSnapshot(ctx context.Context, r *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	if r.GroupSnapshotId == "" {
		return nil, missing("the group snapshot's id")
	}
	all, err := g.members(ctx, r.GroupSnapshotId)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, refuse(codes.NotFound, "there is no group snapshot %s", r.GroupSnapshotId)
	}
	if err := sameMembers(all, r.SnapshotIds); err != nil {
		return nil, err
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: album(r.GroupSnapshotId, all)}, nil
}

// DeleteVolumeGroupSnapshot deletes all snapshots of a group.
func (g *groups) DeleteVolumeGroupSnapshot(ctx context.Context, r *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	if r.GroupSnapshotId == "" {
		return nil, missing("the group snapshot's id")
	}
	all, err := g.members(ctx, r.GroupSnapshotId)
	if err != nil {
		return nil, err
	}
	for _, id := range r.SnapshotIds {
		if !slices.ContainsFunc(all, func(s *holdfastv1.Snapshot) bool { return s.GetMeta().GetId() == id }) {
			if _, err := g.c.snapshot(ctx, id); err == nil {
				return nil, refuse(codes.InvalidArgument, "snapshot %s is not of group %s", id, r.GroupSnapshotId)
			}
		}
	}
	for _, s := range all {
		if err := deleteSnapshot(ctx, g.c.api, s.GetMeta().GetId()); err != nil {
			return nil, err
		}
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}

// sameMembers refuses ids that are not all of a group's; no ids ask for nothing.
func sameMembers(all []*holdfastv1.Snapshot, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	var have []string
	for _, s := range all {
		have = append(have, s.GetMeta().GetId())
	}
	slices.Sort(have)
	if !slices.Equal(have, slices.Sorted(slices.Values(ids))) {
		return refuse(codes.InvalidArgument, "the group snapshot has the snapshots %s", strings.Join(have, ", "))
	}
	return nil
}
