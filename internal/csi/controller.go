package csi

import (
	"context"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// controller makes volumes and says where they are attached.
type controller struct {
	csi.UnimplementedControllerServer
	d   *Driver
	api API
}

var controllerCan = []csi.ControllerServiceCapability_RPC_Type{
	csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
	csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
	csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
	csi.ControllerServiceCapability_RPC_GET_VOLUME,
	csi.ControllerServiceCapability_RPC_GET_CAPACITY,
	csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
	csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
	csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
	csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
	csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
	csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
	csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
	csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
}

// ControllerGetCapabilities returns what the controller can do.
func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range controllerCan {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{
			Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return answer, nil
}

// volume returns a volume that is there to be used: one in the trash is not.
func (c *controller) volume(ctx context.Context, id string) (*holdfastv1.Volume, error) {
	answer, err := c.api.Volumes.GetVolume(ctx, &holdfastv1.GetVolumeRequest{Volume: id})
	if err != nil {
		return nil, err
	}
	if gone(answer) {
		return nil, refuse(codes.NotFound, "volume %s has been deleted", id)
	}
	return answer, nil
}

// gone reports whether the volume is in the trash, or on its way out.
func gone(v *holdfastv1.Volume) bool {
	return v.GetSpec().GetDeleted() != nil || v.GetSpec().GetDeleting()
}

// DeleteVolume deletes a volume: into the trash, when the cluster has one.
func (c *controller) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, missing("the volume's id")
	}
	unlock, err := c.d.locks.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	_, err = c.api.Volumes.DeleteVolume(ctx, &holdfastv1.DeleteVolumeRequest{Volume: r.VolumeId})
	if err != nil && !is(err, fault.NotFound) {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ValidateVolumeCapabilities says whether a volume can be used in some ways.
func (c *controller) ValidateVolumeCapabilities(ctx context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case len(r.VolumeCapabilities) == 0:
		return nil, missing("the volume capabilities")
	}
	if _, err := c.volume(ctx, r.VolumeId); err != nil {
		return nil, err
	}
	if err := checkAll(r.VolumeCapabilities); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeContext: r.VolumeContext,
		VolumeCapabilities: r.VolumeCapabilities, Parameters: r.Parameters, MutableParameters: r.MutableParameters}}, nil
}

// pageMax is the most that one answer of the API lists.
const pageMax = 1000

// page returns how many entries to list; the specification's 0 is no limit of the caller's.
func page(entries int32) (int32, error) {
	if entries < 0 {
		return 0, refuse(codes.InvalidArgument, "max_entries is %d", entries)
	}
	if entries == 0 {
		return pageMax, nil
	}
	return min(entries, pageMax), nil
}

// staleToken turns the API's answer to a token that it does not know into the
// specification's, after which the caller lists anew.
func staleToken(token string, err error) error {
	if token != "" && is(err, fault.Invalid) {
		return refuse(codes.Aborted, "the starting token is not one of ours, or no longer: list from the beginning")
	}
	return err
}

// ListVolumes lists volumes, and where they are attached.
func (c *controller) ListVolumes(ctx context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	size, err := page(r.MaxEntries)
	if err != nil {
		return nil, err
	}
	got, err := c.api.Volumes.ListVolumes(ctx, &holdfastv1.ListVolumesRequest{PageSize: size, PageToken: r.StartingToken})
	if err != nil {
		return nil, staleToken(r.StartingToken, err)
	}
	answer := &csi.ListVolumesResponse{NextToken: got.NextPageToken}
	for _, v := range got.Volumes {
		answer.Entries = append(answer.Entries, &csi.ListVolumesResponse_Entry{Volume: show(v),
			Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: published(v)}})
	}
	return answer, nil
}

// ControllerGetVolume returns one volume, and where it is attached.
func (c *controller) ControllerGetVolume(ctx context.Context, r *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, missing("the volume's id")
	}
	v, err := c.volume(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{Volume: show(v),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: published(v)}}, nil
}

// published returns the node that a volume is attached to, if any.
func published(v *holdfastv1.Volume) []string {
	if node := v.GetStatus().GetAttachment().GetNodeId(); node != "" {
		return []string{node}
	}
	return nil
}

// Keys of a volume's context, which the orchestrator gives back to the node.
const (
	contextName       = "name"
	contextFilesystem = "filesystem"
)

// show returns a volume as the specification has it.
func show(v *holdfastv1.Volume) *csi.Volume {
	out := &csi.Volume{VolumeId: v.GetMeta().GetId(), CapacityBytes: v.GetSpec().GetSizeBytes(),
		VolumeContext: map[string]string{contextName: v.GetMeta().GetName()}}
	if fs := v.GetSpec().GetFilesystem(); slices.Contains(filesystems, fs) {
		out.VolumeContext[contextFilesystem] = fs
	}
	return out
}
