package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec/selector"
	"github.com/holdfast-io/holdfast/internal/state"
)

// volumes is the VolumeService.
type volumes struct{ *Server }

// GetVolume returns one volume.
func (s *volumes) GetVolume(ctx context.Context, r *v1.GetVolumeRequest) (*v1.Volume, error) {
	e, err := s.findVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	return s.view.volume(e), nil
}

// volumeFilter is what a list of volumes is limited to, with all names resolved.
type volumeFilter struct {
	r        *v1.ListVolumesRequest
	selector selector.Selector
	node     string
	pool     string
	source   string
}

func (s *volumes) filter(ctx context.Context, r *v1.ListVolumesRequest) (f volumeFilter, err error) {
	f.r = r
	if f.selector, err = parseSelector(r.Selector); err != nil {
		return f, err
	}
	if r.Node != "" {
		e, err := s.findNode(ctx, r.Node)
		if err != nil {
			return f, err
		}
		f.node = e.ID
	}
	if r.Pool != "" {
		e, err := s.findPool(ctx, r.Pool)
		if err != nil {
			return f, err
		}
		f.pool = e.ID
	}
	if r.SourceVolume != "" {
		e, err := s.findVolume(ctx, r.SourceVolume)
		if err != nil {
			return f, err
		}
		f.source = e.ID
	}
	return f, nil
}

// asked reports whether what was asked for matches; that needs no status.
func (f volumeFilter) asked(v *v1.Volume) bool {
	trashed := v.GetSpec().GetDeleted() != nil || v.GetSpec().GetDeleting()
	return trashed == f.r.Trashed && f.selector.Matches(v.GetMeta().GetLabels()) &&
		strings.HasPrefix(v.GetMeta().GetName(), f.r.NamePrefix) &&
		(f.r.Group == "" || f.r.Group == v.GetSpec().GetPlacement().GetGroup()) &&
		(f.source == "" || f.source == v.GetSpec().GetSourceVolumeId())
}

// became reports whether what became of it matches.
func (f volumeFilter) became(v *v1.Volume) bool {
	st := v.Status
	if f.r.Attached && st.Attachment == nil || f.r.Attention && !needsAttention(v) ||
		f.r.Health != v1.Health_HEALTH_UNSPECIFIED && f.r.Health != st.Health {
		return false
	}
	there := f.node == "" && f.pool == "" || f.pool == "" && f.node != "" && st.Attachment.GetNodeId() == f.node
	return there || slices.ContainsFunc(st.Replicas, func(r *v1.ReplicaStatus) bool {
		return (f.node == "" || r.NodeId == f.node) && (f.pool == "" || r.PoolId == f.pool)
	})
}

func needsAttention(v *v1.Volume) bool {
	switch v.GetStatus().GetHealth() {
	case v1.Health_HEALTH_HEALTHY, v1.Health_HEALTH_TRASHED, v1.Health_HEALTH_DELETING:
		return false
	case v1.Health_HEALTH_CREATING:
		return slices.ContainsFunc(v.Status.Conditions, isRefusal)
	}
	return true
}

// ListVolumes lists volumes, by name.
func (s *volumes) ListVolumes(ctx context.Context, r *v1.ListVolumesRequest) (*v1.ListVolumesResponse, error) {
	f, err := s.filter(ctx, r)
	if err != nil {
		return nil, err
	}
	var list []*v1.Volume
	for _, e := range s.view.volumes.List() {
		if !f.asked(e.Value) {
			continue
		}
		if v := s.view.volume(e); f.became(v) {
			list = append(list, v)
		}
	}
	list, next, err := page(sortedBy(list, nameKey), r.PageSize, r.PageToken, nameKey)
	return &v1.ListVolumesResponse{Volumes: list, NextPageToken: next}, err
}

// WatchVolumes tells of volumes.
func (s *volumes) WatchVolumes(ctx context.Context, r *v1.WatchVolumesRequest, out *connect.ServerStream[v1.WatchVolumesResponse]) error {
	sel, err := parseSelector(r.Selector)
	if err != nil {
		return err
	}
	var only string
	if r.Volume != "" {
		e, err := s.findVolume(ctx, r.Volume)
		if err != nil {
			return err
		}
		only = e.ID
	}
	return watch(ctx, s.Server, func() watched[*v1.Volume] {
		all := watched[*v1.Volume]{}
		for _, e := range s.view.volumes.List() {
			if (only == "" || only == e.ID) && sel.Matches(e.Value.GetMeta().GetLabels()) {
				all[e.ID] = s.view.volume(e)
			}
		}
		return all
	}, stream(out, func(c v1.Change, v *v1.Volume) *v1.WatchVolumesResponse {
		return &v1.WatchVolumesResponse{Change: c, Volume: v}
	}))
}

// GetVolumeUsage says what a volume takes on the disks.
func (s *volumes) GetVolumeUsage(ctx context.Context, r *v1.GetVolumeUsageRequest) (*v1.VolumeUsage, error) {
	e, err := s.findVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	u := &v1.VolumeUsage{VolumeId: e.ID, SizeBytes: e.Value.GetSpec().GetSizeBytes()}
	for _, h := range s.view.holdings.ByIndex(byVolume, e.ID) {
		u.UsedBytes = max(u.UsedBytes, h.Value.UsedBytes)
		u.Replicas = append(u.Replicas, &v1.ReplicaUsage{ReplicaId: h.ID, NodeId: h.Value.NodeId, PoolId: h.Value.PoolId, UsedBytes: h.Value.UsedBytes})
	}
	for _, e := range s.view.snapshots.ByIndex(byVolume, e.ID) {
		snap := s.view.snapshot(e)
		u.Snapshots = append(u.Snapshots, &v1.SnapshotUsage{SnapshotId: e.ID, Name: snap.GetMeta().GetName(),
			ExclusiveBytes: snap.Status.ExclusiveBytes, SharedBytes: snap.Status.SharedBytes})
	}
	return u, nil
}

// MoveReplica asks for a replica to be moved.
func (s *volumes) MoveReplica(ctx context.Context, r *v1.MoveReplicaRequest) (*v1.Operation, error) {
	e, err := s.usableVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	from, err := s.replicaOf(ctx, s.view.volume(e), r.From)
	if err != nil {
		return nil, err
	}
	parameters := map[string]string{"replica": from.Id}
	if r.To != "" {
		if err := s.moveTarget(ctx, r.To, parameters); err != nil {
			return nil, err
		}
	}
	for _, o := range s.view.operations.List() {
		if o.Value.Kind == "VolumeMove" && o.Value.TargetId == e.ID && !o.Value.Done && o.Value.Parameters["replica"] == from.Id {
			if sameMove(o.Value.Parameters, parameters) {
				return clone(o.Value), nil
			}
			return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "replica %s is being moved already", from.Id),
				"wait for operation "+o.ID+", or cancel it: holdfast operation cancel "+o.ID)
		}
	}
	o, create, err := s.operation(ctx, "VolumeMove", state.KindVolume, e.Value.Meta, parameters)
	if err != nil {
		return nil, err
	}
	at, err := s.commit(ctx, create, state.Volumes.Require(e.ID, e.Revision),
		s.event(ctx, state.KindVolume, e.Value.Meta, "MoveAsked", "replica %s is to move from node %s", from.Id, s.view.nodeName(from.NodeId)))
	if err != nil {
		return nil, err
	}
	return o, s.view.operations.Reach(ctx, at)
}

func sameMove(a, b map[string]string) bool {
	return a["to_node"] == b["to_node"] && a["to_pool"] == b["to_pool"]
}

// moveTarget resolves where a replica is to go: a node or a pool.
func (s *volumes) moveTarget(ctx context.Context, to string, parameters map[string]string) error {
	if n, err := s.findNode(ctx, to); err == nil {
		parameters["to_node"] = n.ID
		return nil
	}
	p, err := s.findPool(ctx, to)
	if err != nil {
		return fault.WithField(fault.WithCure(fault.Errorf("server", fault.NotFound, "to: there is no node and no pool %q", to),
			"see which there are: holdfast node list"), "to")
	}
	parameters["to_node"], parameters["to_pool"] = p.Value.GetSpec().GetNodeId(), p.ID
	return nil
}

// replicaOf returns the replica that is meant by its id, or by its node or pool.
func (s *volumes) replicaOf(ctx context.Context, v *v1.Volume, ref string) (*v1.ReplicaStatus, error) {
	all := v.Status.Replicas
	if ref == "" && len(all) == 1 {
		return all[0], nil
	}
	var where []string
	for _, r := range all {
		where = append(where, s.view.nodeName(r.NodeId))
	}
	cure := "name one by its node: " + cmp.Or(strings.Join(where, ", "), "it has none yet")
	if ref == "" {
		return nil, invalid("from", cure, "the volume has %d replicas", len(all))
	}
	node, pool := "", ""
	if n, err := s.findNode(ctx, ref); err == nil {
		node = n.ID
	} else if p, err := s.findPool(ctx, ref); err == nil {
		pool = p.ID
	}
	for _, r := range all {
		if r.Id == ref || node != "" && r.NodeId == node || pool != "" && r.PoolId == pool {
			return r, nil
		}
	}
	return nil, fault.WithField(fault.WithCure(fault.Errorf("server", fault.NotFound, "from: the volume has no replica %q", ref), cure), "from")
}

// AcceptDataLoss lets a volume go on from a copy that missed writes.
func (s *volumes) AcceptDataLoss(ctx context.Context, r *v1.AcceptDataLossRequest) (*v1.Volume, error) {
	e, err := s.usableVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	v := s.view.volume(e)
	if r.Epoch == 0 || r.Epoch != v.Status.Epoch {
		return nil, invalid("epoch", fmt.Sprintf("look at what the volume lacks, then give its epoch, %d", v.Status.Epoch), "%d is not the volume's epoch", r.Epoch)
	}
	if v.Status.Health != v1.Health_HEALTH_UNAVAILABLE || inSyncReachable(v) > 0 {
		return nil, fault.Errorf("server", fault.Precondition, "volume %s has an in-sync copy that can be reached: nothing has to be given up", v.Meta.Name)
	}
	chosen, err := s.survivor(v, r.Replica)
	if err != nil {
		return nil, err
	}
	name := s.view.nodeName(chosen.NodeId)
	e, err = update(ctx, s.Server, state.Volumes, s.view.volumes, e.ID, func(v *v1.Volume) ([]state.Op, error) {
		v.Spec.AcceptedLoss = &v1.AcceptedLoss{ReplicaId: chosen.Id, Epoch: r.Epoch, By: who(ctx).Subject, At: s.stamp()}
		return []state.Op{s.event(ctx, state.KindVolume, v.Meta, "DataLossAccepted",
			"the replica on node %s counts from epoch %d on, without what it missed since epoch %d", name, r.Epoch, chosen.OutdatedSince)}, nil
	})
	if err != nil {
		return nil, err
	}
	return s.view.volume(e), nil
}

func inSyncReachable(v *v1.Volume) (n int) {
	for _, r := range v.Status.Replicas {
		if r.State == v1.ReplicaState_REPLICA_STATE_IN_SYNC && r.Reachable {
			n++
		}
	}
	return n
}

// survivor returns the copy to go on from: the one that was named, or the reachable one
// that missed least.
func (s *volumes) survivor(v *v1.Volume, named string) (*v1.ReplicaStatus, error) {
	var best *v1.ReplicaStatus
	for _, r := range v.Status.Replicas {
		if r.Reachable && r.State != v1.ReplicaState_REPLICA_STATE_IN_SYNC && r.OutdatedSince > 0 && (named == "" || r.Id == named) &&
			(best == nil || r.OutdatedSince > best.OutdatedSince) {
			best = r
		}
	}
	if best == nil {
		return nil, fault.WithField(fault.WithCure(fault.Errorf("server", fault.Precondition, "replica: there is no such copy that can be reached and was in sync once"),
			"start a node that has one, and see holdfast volume get "+v.Meta.Name), "replica")
	}
	return best, nil
}
