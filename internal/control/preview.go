package control

import (
	"context"
	"fmt"
	"iter"
	"slices"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/placement"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// assigned saves a long name.
type assigned = statepb.AssignedReplica

// placed returns all volumes as placement sees them.
func (v *view) placed() iter.Seq[placement.Placed] {
	return func(yield func(placement.Placed) bool) {
		for _, id := range v.assignments.list() {
			vol, a, rec := v.volumes.value(id), v.assignments.value(id), v.records.value(id)
			if vol == nil || rec == nil {
				continue
			}
			p := placement.Placed{Volume: v.placementVolume(vol)}
			for _, r := range a.Replicas {
				m := memberOf(rec, r.ReplicaId)
				p.Replicas = append(p.Replicas, placement.Held{Replica: r.ReplicaId, Pool: r.PoolId, InSync: m != nil && m.State == uint32(spec.InSync), Leaving: r.Leaving})
			}
			if !yield(p) {
				return
			}
		}
	}
}

// read returns a view of all that the state holds now.
func read(ctx context.Context, s state.Store) (*view, error) {
	items, revision, err := s.List(ctx, state.Root)
	if err != nil {
		return nil, err
	}
	v := newView()
	v.loading = true
	for _, item := range items {
		if err := v.put(item); err != nil {
			return nil, err
		}
	}
	v.loading, v.revision = false, revision
	for id := range v.assignments.entries {
		v.fold(id)
	}
	return v, nil
}

// PreviewRemoval says what it would mean to take a node out of the cluster, or, when pool
// is not empty, that pool alone. The ids must exist, else it is fault.NotFound. It reads
// the whole state, for it is not asked often.
func PreviewRemoval(ctx context.Context, s state.Store, node, pool string) (*v1.Removal, error) {
	v, err := read(ctx, s)
	if err != nil {
		return nil, fault.Wrap("control.PreviewRemoval", err)
	}
	at := node
	if pool != "" {
		at = pool
	}
	if v.nodes.value(at) == nil && v.pools.value(at) == nil {
		return nil, fault.Errorf("control.PreviewRemoval", fault.NotFound, "there is no node or pool %s", at)
	}
	return v.removal(at, pool == ""), nil
}

// removal says what the loss of a node or pool means.
func (v *view) removal(at string, isNode bool) *v1.Removal {
	out := &v1.Removal{}
	touched := map[string]bool{}
	for id := range v.at[at] {
		touched[id] = true
	}
	if isNode {
		for id := range v.attached[at] {
			touched[id] = true
		}
	}
	homeless := v.homeless(at, isNode, out)
	for id := range touched {
		if e := v.effect(id, at, homeless[id], out); e != nil {
			out.Effects = append(out.Effects, e)
		}
	}
	slices.SortFunc(out.Effects, func(a, b *v1.RemovalEffect) int {
		if a.Lost != b.Lost {
			return map[bool]int{true: -1, false: 1}[a.Lost]
		}
		if a.InSyncLeft != b.InSyncLeft {
			return int(a.InSyncLeft - b.InSyncLeft)
		}
		return slices.Compare([]string{a.VolumeName, a.VolumeId}, []string{b.VolumeName, b.VolumeId})
	})
	return out
}

// homeless says why volumes could not be rebuilt.
func (v *view) homeless(at string, isNode bool, out *v1.Removal) map[string]string {
	c := v.room()
	node := at
	if !isNode { // as if the node had that pool alone
		node = "-"
		c = c.Clone()
		n := v.placementNode(v.pools.value(at).Spec.GetNodeId())
		gone := slices.IndexFunc(n.Pools, func(p placement.Pool) bool { return p.ID == at })
		lost := placement.Node{ID: node, Name: n.Name, Pools: []placement.Pool{n.Pools[gone]}}
		n.Pools = slices.Delete(n.Pools, gone, gone+1)
		c.SetNode(n)
		c.SetNode(lost)
	}
	loss := c.Lose(v.placed(), node)
	out.BytesToCopy = loss.Bytes
	why := map[string]string{}
	for _, h := range loss.Homeless {
		why[h.Volume] = h.Refusal.Error() + "; " + h.Refusal.Cure
	}
	return why
}

// effect says what the loss means for one volume; nil when it means nothing.
func (v *view) effect(id, at, homeless string, out *v1.Removal) *v1.RemovalEffect {
	vol, rec := v.volumes.value(id), v.records.value(id)
	if vol == nil {
		return nil
	}
	e := &v1.RemovalEffect{VolumeId: id, VolumeName: vol.Meta.GetName(), ReplicasWanted: vol.Spec.GetReplicas(), Attached: v.attachments.value(id).GetSpec().GetNodeId() == at}
	has, down := false, 0
	for _, r := range v.assignments.value(id).GetReplicas() {
		m := memberOf(rec, r.ReplicaId)
		good := m != nil && m.State == uint32(spec.InSync)
		switch {
		case r.NodeId == at || r.PoolId == at:
			has = has || good
		case good:
			e.InSyncLeft++
			if !v.up(r.NodeId) {
				down++
			}
		}
	}
	e.Lost = has && e.InSyncLeft == 0
	switch {
	case e.Lost:
		out.VolumesLost++
		e.Message = "its only good copy is there; raise its replicas or move it first"
	case e.InSyncLeft < e.ReplicasWanted:
		out.VolumesDegraded++
		e.Message = fmt.Sprintf("%d of %d copies are left until it is rebuilt", e.InSyncLeft, e.ReplicasWanted)
		if homeless != "" {
			e.Message = fmt.Sprintf("%d of %d copies are left, and no more can be made: %s", e.InSyncLeft, e.ReplicasWanted, homeless)
		}
	}
	if down > 0 {
		e.Message += fmt.Sprintf("; %d of those left are on nodes that are down now", down)
	}
	if e.Attached {
		out.VolumesDetached++
		e.Message += "; it is attached there"
	}
	return e
}

// PreviewRebalance says which replicas a rebalancing would move now, and what for. It
// reads the whole state.
func PreviewRebalance(ctx context.Context, s state.Store, parameters map[string]string) (*v1.Operation, error) {
	v, err := read(ctx, s)
	if err != nil {
		return nil, fault.Wrap("control.PreviewRebalance", err)
	}
	op := &v1.Operation{Kind: kindRebalance, Parameters: parameters}
	(&decider{view: v}).planRebalance(op)
	return op, nil
}

// PreviewPlacement says where a volume's replicas would be, by the ids of pools, without
// making it. A refusal is fault.NoSpace or fault.Precondition, with its cure.
func PreviewPlacement(ctx context.Context, s state.Store, vol *v1.Volume) ([]string, error) {
	v, err := read(ctx, s)
	if err != nil {
		return nil, fault.Wrap("control.PreviewPlacement", err)
	}
	pools, err := v.room().Choose(placement.Request{Volume: v.placementVolume(vol), Replicas: max(1, int(vol.Spec.GetReplicas()))})
	if refusal, ok := err.(*placement.Refusal); ok {
		return nil, refusal.Fault("control.PreviewPlacement")
	}
	return pools, err
}
