package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/spec/options"
)

// ControllerExpandVolume makes a volume larger, attached or not.
func (c *controller) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	required, limit := r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes()
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case r.CapacityRange == nil:
		return nil, missing("the capacity range")
	case required < 0 || limit < 0 || limit > 0 && required > limit:
		return nil, refuse(codes.InvalidArgument, "from %d to %d bytes is no range", required, limit)
	}
	unlock, err := c.d.locks.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := c.volume(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	size := max(v.GetSpec().GetSizeBytes(), (required+sizeUnit-1)/sizeUnit*sizeUnit)
	if limit > 0 && size > limit {
		return nil, refuse(codes.OutOfRange, "the volume has %d bytes, and can't have at most %d", v.GetSpec().GetSizeBytes(), limit)
	}
	if size > v.GetSpec().GetSizeBytes() {
		request := &holdfastv1.UpdateVolumeRequest{Volume: r.VolumeId, SizeBytes: &size, Wait: wait(ctx)}
		if _, err := c.api.Volumes.UpdateVolume(ctx, request); err != nil {
			return nil, tooLarge(err)
		}
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: size, NodeExpansionRequired: r.VolumeCapability.GetBlock() == nil}, nil
}

// ControllerModifyVolume changes what a VolumeAttributesClass may change.
func (c *controller) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, missing("the volume's id")
	}
	request, err := modification(r.VolumeId, r.MutableParameters)
	if err != nil {
		return nil, err
	}
	unlock, err := c.d.locks.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := c.volume(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	request.Limits = combine(v.GetSpec().GetLimits(), request.Limits)
	if _, err := c.api.Volumes.UpdateVolume(ctx, request); err != nil {
		return nil, err
	}
	return &csi.ControllerModifyVolumeResponse{}, nil
}

// modification makes the request for the API of parameters, and refuses those that a
// volume keeps for its life.
func modification(volume string, params map[string]string) (*holdfastv1.UpdateVolumeRequest, error) {
	said, err := options.Parse(params)
	if err != nil {
		return nil, err
	}
	s := said.Spec
	for fixed, is := range map[string]bool{
		"name": said.Name != "", "size": s.SizeBytes != 0, "fs": s.Filesystem != "", "sector": s.SectorBytes != 0,
		"snapshot": said.SourceSnapshot != "", "source": said.SourceVolume != "",
		"where replicas may be": s.Placement != nil,
	} {
		if is {
			return nil, refuse(codes.InvalidArgument, "%s can't be changed by a class of attributes", fixed)
		}
	}
	request := &holdfastv1.UpdateVolumeRequest{Volume: volume, Limits: s.Limits, SetLabels: said.Labels}
	if s.Replicas != 0 {
		request.Replicas = &s.Replicas
	}
	if s.Class != "" {
		request.Class = &s.Class
	}
	if len(s.SnapshotPolicies) > 0 {
		request.SnapshotPolicies = &holdfastv1.SnapshotPolicies{Policies: s.SnapshotPolicies}
	}
	if _, said := params["nodiscard"]; said {
		request.NoDiscard = &s.NoDiscard
	}
	return request, nil
}

// combine returns the limits that a volume has with those that change; nil when none does.
func combine(has, change *holdfastv1.Limits) *holdfastv1.Limits {
	if change == nil {
		return nil
	}
	pick := func(has, change int64) int64 {
		if change != 0 {
			return change
		}
		return has
	}
	return &holdfastv1.Limits{
		ReadIops:            pick(has.GetReadIops(), change.ReadIops),
		WriteIops:           pick(has.GetWriteIops(), change.WriteIops),
		ReadBytesPerSecond:  pick(has.GetReadBytesPerSecond(), change.ReadBytesPerSecond),
		WriteBytesPerSecond: pick(has.GetWriteBytesPerSecond(), change.WriteBytesPerSecond),
	}
}
