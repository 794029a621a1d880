package csi

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/spec/options"
)

// Sizes in bytes.
const (
	sizeDefault = 1 << 30
	sizeUnit    = 4096
)

// CreateVolume makes a volume: of nothing, of a snapshot, or of another volume.
func (c *controller) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.Name == "" {
		return nil, missing("the volume's name")
	}
	if err := checkAll(r.VolumeCapabilities); err != nil {
		return nil, err
	}
	request, err := c.wanted(ctx, r)
	if err != nil {
		return nil, err
	}
	unlock, err := c.d.locks.lock(ctx, "name/"+r.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.size(ctx, request, r.CapacityRange); err != nil {
		return nil, err
	}
	request.Wait = wait(ctx)
	answer, err := c.api.Volumes.CreateVolume(ctx, request)
	if err != nil {
		return nil, tooLarge(err)
	}
	v := answer
	if v.GetStatus().GetHealth() == holdfastv1.Health_HEALTH_CREATING {
		return nil, refuse(codes.DeadlineExceeded, "volume %s is still being made%s", v.GetMeta().GetName(), because(v))
	}
	out := show(v)
	out.ContentSource = r.VolumeContentSource
	return &csi.CreateVolumeResponse{Volume: out}, nil
}

// because returns, in words, what a volume's conditions complain of.
func because(v *holdfastv1.Volume) string {
	for _, condition := range v.GetStatus().GetConditions() {
		if condition.GetMessage() != "" {
			return ": " + condition.Message
		}
	}
	return ""
}

// tooLarge gives a size that the cluster refuses the code that the specification has for it.
func tooLarge(err error) error {
	if is(err, fault.Invalid) && strings.HasSuffix(rpc.Detail(err).GetField(), "size_bytes") {
		what, _ := fault.Describe(rpc.Fault("csi", err))
		return refuse(codes.OutOfRange, "%s", what)
	}
	return err
}

// wanted makes the request for the API, but for the size.
func (c *controller) wanted(ctx context.Context, r *csi.CreateVolumeRequest) (*holdfastv1.CreateVolumeRequest, error) {
	params, labels, err := parameters(r.Parameters)
	if err != nil {
		return nil, err
	}
	maps.Copy(params, r.MutableParameters) // a class of attributes says more than the class of storage
	request, err := options.Parse(params)
	if err != nil {
		return nil, err
	}
	switch {
	case request.Name != "":
		return nil, refuse(codes.InvalidArgument, "parameter name: the orchestrator names volumes")
	case request.Spec.SizeBytes != 0:
		return nil, refuse(codes.InvalidArgument, "parameter size: the claim says the size")
	}
	request.Name = nameFor(r.Name)
	request.Labels = merge(labels, request.Labels)
	if err := filesystem(request.Spec, r.VolumeCapabilities); err != nil {
		return nil, err
	}
	if err := source(request, r.VolumeContentSource); err != nil {
		return nil, err
	}
	return request, c.place(ctx, request.Spec, r.AccessibilityRequirements)
}

// reserved is the prefix of what the orchestrator adds to parameters.
const reserved = "csi.storage.k8s.io/"

// told are the reserved parameters that become labels.
var told = map[string]string{
	"csi.storage.k8s.io/pvc/name":      "pvc",
	"csi.storage.k8s.io/pvc/namespace": "namespace",
	"csi.storage.k8s.io/pv/name":       "pv",
}

// parameters separates what the user said from what the orchestrator tells, which becomes
// labels: for whom a volume is.
func parameters(all map[string]string) (said, labels map[string]string, err error) {
	said, labels = map[string]string{}, map[string]string{}
	for key, value := range all {
		switch {
		case told[key] != "":
			labels[told[key]] = value
		case strings.HasPrefix(key, reserved):
			return nil, nil, refuse(codes.InvalidArgument, "parameter %s is not one of the driver's", key)
		default:
			said[key] = value
		}
	}
	return said, labels, nil
}

func merge(under, over map[string]string) map[string]string {
	maps.Copy(under, over)
	if len(under) == 0 {
		return nil
	}
	return under
}

// filesystem settles what filesystem a volume gets, from what it is to be used for.
func filesystem(spec *holdfastv1.VolumeSpec, uses []*csi.VolumeCapability) error {
	mounted := false
	for _, use := range uses {
		fs := use.GetMount().GetFsType()
		mounted = mounted || use.GetMount() != nil
		switch {
		case fs == "" || fs == spec.Filesystem:
		case spec.Filesystem != "":
			return refuse(codes.InvalidArgument, "filesystem %s and filesystem %s are both asked for", spec.Filesystem, fs)
		default:
			spec.Filesystem = fs
		}
	}
	if !mounted {
		spec.Filesystem = "none" // whatever the class says for volumes that are mounted
	}
	return nil
}

// source settles what a volume begins with.
func source(request *holdfastv1.CreateVolumeRequest, s *csi.VolumeContentSource) error {
	if s == nil {
		return nil
	}
	if request.SourceSnapshot != "" || request.SourceVolume != "" {
		return refuse(codes.InvalidArgument, "both the class and the claim say what the volume begins with")
	}
	request.SourceSnapshot, request.SourceVolume = s.GetSnapshot().GetSnapshotId(), s.GetVolume().GetVolumeId()
	if request.SourceSnapshot == "" && request.SourceVolume == "" {
		return missing("what the volume begins with")
	}
	return nil
}

// size settles a volume's size. One of the name that is there already keeps its own, if
// that is in the range that is asked for.
func (c *controller) size(ctx context.Context, request *holdfastv1.CreateVolumeRequest, r *csi.CapacityRange) error {
	required, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	if required < 0 || limit < 0 || limit > 0 && required > limit {
		return refuse(codes.InvalidArgument, "from %d to %d bytes is no range", required, limit)
	}
	there, err := c.api.Volumes.GetVolume(ctx, &holdfastv1.GetVolumeRequest{Volume: request.Name})
	if err == nil && !gone(there) && there.GetMeta().GetName() == request.Name {
		has := there.GetSpec().GetSizeBytes()
		if has < required || limit > 0 && has > limit {
			return refuse(codes.AlreadyExists, "volume %s is there already, with %d bytes", request.Name, has)
		}
		request.Spec.SizeBytes = has
		return nil
	}
	if err != nil && !is(err, fault.NotFound) {
		return err
	}
	size := (required + sizeUnit - 1) / sizeUnit * sizeUnit
	if size == 0 && request.SourceSnapshot == "" && request.SourceVolume == "" {
		size = sizeDefault
		if limit > 0 {
			size = min(size, limit/sizeUnit*sizeUnit)
		}
	}
	if limit > 0 && size > limit || size == 0 && limit > 0 && limit < sizeUnit {
		return refuse(codes.OutOfRange, "no multiple of %d is between %d and %d", sizeUnit, required, limit)
	}
	request.Spec.SizeBytes = size
	return nil
}

// place narrows where replicas may be to the topology that is required, when that is less
// than the whole cluster. What is preferred narrows nothing, as the volume can be used on
// any node, but the first copy goes to the node that comes first, which is where the
// scheduler puts the pod.
func (c *controller) place(ctx context.Context, spec *holdfastv1.VolumeSpec, t *csi.TopologyRequirement) error {
	if len(t.GetRequisite()) == 0 && len(t.GetPreferred()) == 0 {
		return nil
	}
	nodes, err := listNodes(ctx, c.api)
	if err != nil {
		return err
	}
	prefer(spec, nodes, t.GetPreferred())
	if len(t.GetRequisite()) == 0 {
		return nil
	}
	var inside []string
	for _, n := range nodes {
		if slices.ContainsFunc(t.Requisite, func(t *csi.Topology) bool { return within(n, t) }) {
			inside = append(inside, n.GetMeta().GetId())
		}
	}
	if len(inside) == 0 {
		return refuse(codes.ResourceExhausted, "no node of the cluster is in the topology that is required")
	}
	if len(inside) == len(nodes) || len(spec.GetPlacement().GetNodes()) > 0 {
		return nil // what the class says about nodes is more exact
	}
	if spec.Placement == nil {
		spec.Placement = &holdfastv1.Placement{}
	}
	if zones := whole(nodes, inside); zones != nil {
		if len(spec.Placement.Zones) == 0 {
			spec.Placement.Zones = zones
		}
		return nil
	}
	// Where a pod runs says which node its volume is used on, not that all copies lie there:
	// a requirement of single nodes that come from a pod's place would make copies impossible.
	return nil
}

// prefer notes the one node that the first of the preferred topologies names, unless the
// class says one.
func prefer(spec *holdfastv1.VolumeSpec, nodes []*holdfastv1.Node, preferred []*csi.Topology) {
	if len(preferred) == 0 || preferred[0].GetSegments()[TopologyNode] == "" || spec.GetPlacement().GetPrefer() != "" {
		return
	}
	i := slices.IndexFunc(nodes, func(n *holdfastv1.Node) bool { return within(n, preferred[0]) })
	if i < 0 {
		return
	}
	if spec.Placement == nil {
		spec.Placement = &holdfastv1.Placement{}
	}
	spec.Placement.Prefer = nodes[i].GetMeta().GetId()
}

// whole returns the zones whose nodes are exactly those that are inside, or nil when they
// are none.
func whole(nodes []*holdfastv1.Node, inside []string) (zones []string) {
	for _, n := range nodes {
		zone, in := n.GetSpec().GetZone(), slices.Contains(inside, n.GetMeta().GetId())
		if zone == "" && in {
			return nil
		}
		if in && !slices.Contains(zones, zone) {
			zones = append(zones, zone)
		}
	}
	for _, n := range nodes {
		if slices.Contains(zones, n.GetSpec().GetZone()) && !slices.Contains(inside, n.GetMeta().GetId()) {
			return nil
		}
	}
	slices.Sort(zones)
	return zones
}

// within reports whether a node is in a topology.
func within(n *holdfastv1.Node, t *csi.Topology) bool {
	for key, value := range t.GetSegments() {
		if segments(n)[key] != value {
			return false
		}
	}
	return true
}

// segments returns a node's place.
func segments(n *holdfastv1.Node) map[string]string {
	s := map[string]string{TopologyNode: n.GetMeta().GetName()}
	if zone := n.GetSpec().GetZone(); zone != "" {
		s[TopologyZone] = zone
	}
	if region := n.GetSpec().GetRegion(); region != "" {
		s[TopologyRegion] = region
	}
	return s
}

// listNodes lists all nodes.
func listNodes(ctx context.Context, api API) (all []*holdfastv1.Node, err error) {
	for token := ""; ; {
		got, err := api.Nodes.ListNodes(ctx, &holdfastv1.ListNodesRequest{PageSize: pageMax, PageToken: token})
		if err != nil {
			return nil, err
		}
		all = append(all, got.Nodes...)
		if token = got.NextPageToken; token == "" {
			return all, nil
		}
	}
}
