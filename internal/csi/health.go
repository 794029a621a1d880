package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

type healthEntry = csi.VolumeHealth_VolumeHealthEntry

// ControllerGetVolumeHealth says how a volume does.
func (c *controller) ControllerGetVolumeHealth(ctx context.Context, r *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	if r.VolumeId == "" {
		return nil, missing("the volume's id")
	}
	v, err := c.volume(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: healthOf(v)}, nil
}

// ControllerListVolumeHealth says how those volumes do that are not healthy.
func (c *controller) ControllerListVolumeHealth(ctx context.Context, r *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	size, err := page(r.MaxEntries)
	if err != nil {
		return nil, err
	}
	got, err := c.api.Volumes.ListVolumes(ctx, &holdfastv1.ListVolumesRequest{Attention: true, PageSize: size, PageToken: r.StartingToken})
	if err != nil {
		return nil, staleToken(r.StartingToken, err)
	}
	answer := &csi.ControllerListVolumeHealthResponse{NextToken: got.NextPageToken}
	for _, v := range got.Volumes {
		if health := healthOf(v); len(health.HealthStatuses) > 0 {
			answer.Entries = append(answer.Entries, health)
		}
	}
	return answer, nil
}

// healthOf translates a volume's health. A volume that is being made is not ill.
func healthOf(v *holdfastv1.Volume) *csi.VolumeHealth {
	health := &csi.VolumeHealth{VolumeId: v.GetMeta().GetId()}
	status := v.GetStatus()
	switch status.GetHealth() {
	case holdfastv1.Health_HEALTH_DEGRADED:
		health.HealthStatuses = append(health.HealthStatuses, entry(csi.VolumeHealthErrorType_DEGRADED, "Degraded", status.GetConditions()))
	case holdfastv1.Health_HEALTH_UNAVAILABLE:
		health.HealthStatuses = append(health.HealthStatuses, entry(csi.VolumeHealthErrorType_INACCESSIBLE, "Unavailable", status.GetConditions()))
	default:
		if a := status.GetAttachment(); a.GetState() == holdfastv1.AttachmentState_ATTACHMENT_STATE_STALLED {
			health.HealthStatuses = append(health.HealthStatuses, entry(csi.VolumeHealthErrorType_INACCESSIBLE, "Stalled", a.GetConditions()))
		}
	}
	return health
}

// entry says what is wrong in the words of the first condition that has some.
func entry(kind csi.VolumeHealthErrorType, reason string, conditions []*holdfastv1.Condition) *healthEntry {
	e := &healthEntry{Status: kind, Reason: reason, Message: reason}
	for _, condition := range conditions {
		if condition.GetMessage() == "" {
			continue
		}
		e.Message = condition.Message
		if condition.Reason != "" {
			e.Reason = condition.Reason
		}
		break
	}
	return e
}
