package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// Keys of a publish context, which the orchestrator gives to the node.
const (
	contextDevice   = "device"   // for people: the node asks the API where it is
	contextReadOnly = "readonly" // "true": the device refuses writes
)

// ControllerPublishVolume attaches a volume to a node.
func (c *controller) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case r.NodeId == "":
		return nil, missing("the node's id")
	}
	if err := check(r.VolumeCapability); err != nil {
		return nil, err
	}
	unlock, err := c.d.locks.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := c.volume(ctx, r.VolumeId); err != nil {
		return nil, err
	}
	if _, err := c.api.Nodes.GetNode(ctx, &holdfastv1.GetNodeRequest{Node: r.NodeId}); err != nil {
		return nil, err
	}
	request := &holdfastv1.AttachRequest{Volume: r.VolumeId, Node: r.NodeId, ReadOnly: r.Readonly || readOnly(r.VolumeCapability)}
	if err := c.room(ctx, request); err != nil {
		return nil, err
	}
	a, err := c.api.claim().Attach(ctx, request)
	if err != nil {
		return nil, err
	}
	published := map[string]string{contextDevice: a.GetStatus().GetDevice()}
	if request.ReadOnly {
		published[contextReadOnly] = "true"
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: published}, nil
}

// room refuses one volume more than a node may show.
func (c *controller) room(ctx context.Context, r *holdfastv1.AttachRequest) error {
	var others int64
	for token := ""; ; {
		got, err := c.api.Attachments.ListAttachments(ctx, &holdfastv1.ListAttachmentsRequest{Node: r.Node, PageSize: pageMax, PageToken: token})
		if err != nil {
			return err
		}
		for _, a := range got.Attachments {
			if a.VolumeId == r.Volume {
				return nil // it is there already
			}
			others++
		}
		if token = got.NextPageToken; token == "" {
			break
		}
	}
	if others >= c.d.o.VolumesPerNodeMax {
		return refuse(codes.ResourceExhausted, "the node shows %d volumes, as many as it may", others)
	}
	return nil
}

// ControllerUnpublishVolume takes a volume off a node.
func (c *controller) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, missing("the volume's id")
	}
	unlock, err := c.d.locks.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.api.claim().Detach(ctx, r.VolumeId, r.NodeId); err != nil {
		return nil, err
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}
