package csi

import (
	"context"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/spec/options"
)

// GetCapacity says how much more can be stored by volumes of some parameters, where a
// topology allows replicas. A single node's topology allows them everywhere: its pods use
// volumes that lie elsewhere.
func (c *controller) GetCapacity(ctx context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	said, _, err := parameters(r.Parameters)
	if err != nil {
		return nil, err
	}
	request, err := options.Parse(said)
	if err != nil {
		return nil, err
	}
	nodes, err := listNodes(ctx, c.api)
	if err != nil {
		return nil, err
	}
	pools, err := listPools(ctx, c.api)
	if err != nil {
		return nil, err
	}
	topology := &csi.Topology{Segments: map[string]string{}}
	for key, value := range r.GetAccessibleTopology().GetSegments() {
		if key != TopologyNode {
			topology.Segments[key] = value
		}
	}
	var sum, largest int64
	for _, p := range pools {
		if free := usable(p, nodes, topology, request.Spec); free > 0 {
			sum, largest = sum+free, max(largest, free)
		}
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: sum / int64(max(1, request.Spec.Replicas)),
		MaximumVolumeSize: wrapperspb.Int64(largest),
		MinimumVolumeSize: wrapperspb.Int64(1 << 20),
	}, nil
}

// usable returns how many bytes a pool has for new replicas of a volume.
func usable(p *holdfastv1.Pool, nodes []*holdfastv1.Node, t *csi.Topology, spec *holdfastv1.VolumeSpec) int64 {
	at := slices.IndexFunc(nodes, func(n *holdfastv1.Node) bool { return n.GetMeta().GetId() == p.GetSpec().GetNodeId() })
	if at < 0 {
		return 0
	}
	n, place, status := nodes[at], spec.GetPlacement(), p.GetStatus()
	named := func(names []string, any ...string) bool {
		return len(names) == 0 || slices.ContainsFunc(any, func(name string) bool { return slices.Contains(names, name) })
	}
	switch {
	case p.GetSpec().GetCordoned() || p.GetSpec().GetDraining() || !status.GetHealthy(),
		n.GetSpec().GetCordoned() || n.GetSpec().GetDraining() || n.GetSpec().GetMaintenance(),
		!within(n, t),
		spec.GetClass() != "" && spec.Class != status.GetClass(),
		!named(place.GetNodes(), n.GetMeta().GetName(), n.GetMeta().GetId()),
		!named(place.GetZones(), n.GetSpec().GetZone()),
		!named(place.GetRacks(), n.GetSpec().GetRack()):
		return 0
	}
	for key, value := range place.GetNodeLabels() {
		if n.GetMeta().GetLabels()[key] != value {
			return 0
		}
	}
	return max(0, status.GetCapacityBytes()-status.GetReserveBytes()-status.GetUsedBytes())
}

// listPools lists all pools.
func listPools(ctx context.Context, api API) (all []*holdfastv1.Pool, err error) {
	for token := ""; ; {
		got, err := api.Pools.ListPools(ctx, &holdfastv1.ListPoolsRequest{PageSize: pageMax, PageToken: token})
		if err != nil {
			return nil, err
		}
		all = append(all, got.Pools...)
		if token = got.NextPageToken; token == "" {
			return all, nil
		}
	}
}
