package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// node puts volumes into the directory tree of this node.
type node struct {
	csi.UnimplementedNodeServer
	d   *Driver
	api API
}

var nodeCan = []csi.NodeServiceCapability_RPC_Type{
	csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
	csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
	csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
}

// NodeGetCapabilities returns what the node can do.
func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range nodeCan {
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{
			Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return answer, nil
}

// NodeGetInfo returns which node this is, where it is, and how many volumes it shows.
func (n *node) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	me, err := n.me(ctx)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetInfoResponse{NodeId: me.GetMeta().GetId(), MaxVolumesPerNode: n.d.o.VolumesPerNodeMax,
		AccessibleTopology: &csi.Topology{Segments: segments(me)}}, nil
}

func (n *node) me(ctx context.Context) (*holdfastv1.Node, error) {
	answer, err := n.api.Nodes.GetNode(ctx, &holdfastv1.GetNodeRequest{Node: n.d.o.Node})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// lock lets one call at a time work on a volume on this node. It is another lock than the
// controller's: that one may be waiting for this node to let go.
func (n *node) lock(ctx context.Context, volume string) (unlock func(), err error) {
	return n.d.locks.lock(ctx, "node/"+volume)
}

// NodeGetVolumeHealth says how a volume does.
func (n *node) NodeGetVolumeHealth(ctx context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if r.VolumeId == "" {
		return nil, missing("the volume's id")
	}
	answer, err := n.api.Volumes.GetVolume(ctx, &holdfastv1.GetVolumeRequest{Volume: r.VolumeId})
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: healthOf(answer)}, nil
}
