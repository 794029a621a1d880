package control

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/placement"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// nodeChanged notes that a node is another one than before.
func (v *view) nodeChanged(id string) {
	v.pulses[id] = true
	for pool := range v.poolsOf[id] {
		v.pulses[pool] = true
	}
	for _, of := range []sets{v.at, v.attached} {
		for volume := range of[id] {
			v.fold(volume)
		}
	}
	v.stirred = true
	if v.cluster == nil {
		return
	}
	if v.nodes.value(id) == nil {
		v.cluster = nil
		return
	}
	v.cluster.SetNode(v.placementNode(id))
}

func (v *view) poolChanged(id string, was, now *v1.Pool) {
	v.pulses[id] = true
	v.touchAt(id)
	v.stirred = true
	if was != nil {
		v.poolsOf.drop(was.Spec.GetNodeId(), id)
	}
	if now != nil {
		v.poolsOf.add(now.Spec.GetNodeId(), id)
	}
	if was == nil || now == nil || was.Spec.GetNodeId() != now.Spec.GetNodeId() {
		v.cluster = nil
		return
	}
	v.nodeChanged(now.Spec.GetNodeId())
}

func (v *view) poolStatusChanged(id string, was, now *v1.PoolStatus) {
	onlyUse := was != nil && now != nil && was.Class == now.Class && was.CapacityBytes == now.CapacityBytes && was.Healthy == now.Healthy && was.ReserveBytes == now.ReserveBytes
	if onlyUse && v.cluster != nil {
		v.cluster.Use(id, now.UsedBytes+v.pending[id])
		v.stirred = v.stirred || now.UsedBytes < was.UsedBytes
		return
	}
	if p := v.pools.value(id); p != nil {
		v.pulses[id] = true
		v.touchAt(id)
		v.nodeChanged(p.Spec.GetNodeId())
	}
}

// up reports whether a node is there.
func (v *view) up(node string) bool {
	_, ok := v.alive.get(node)
	return ok && v.nodes.value(node) != nil
}

// placementNode is a node as placement sees it.
func (v *view) placementNode(id string) placement.Node {
	n := v.nodes.value(id)
	_, alive := v.alive.get(id)
	out := placement.Node{ID: id, Name: n.GetMeta().GetName(), Zone: n.Spec.GetZone(), Rack: n.Spec.GetRack(), Labels: n.GetMeta().GetLabels(),
		Down: !alive, Cordoned: n.Spec.GetCordoned(), Draining: n.Spec.GetDraining() || n.Spec.GetRemoved(), Maintenance: n.Spec.GetMaintenance()}
	for _, p := range v.poolsOf.of(id) {
		out.Pools = append(out.Pools, v.placementPool(p))
	}
	return out
}

func (v *view) placementPool(id string) placement.Pool {
	p, s := v.pools.value(id), v.poolStatuses.value(id)
	out := placement.Pool{ID: id, Name: p.GetMeta().GetName(), Class: cmp.Or(p.Spec.GetClass(), s.GetClass()), Capacity: s.GetCapacityBytes(),
		Reserve: max(s.GetReserveBytes(), s.GetCapacityBytes()*int64(p.Spec.GetReservePercent())/100), Used: s.GetUsedBytes() + v.pending[id],
		Cordoned: p.Spec.GetCordoned(), Draining: p.Spec.GetDraining() || p.Spec.GetRemoved(), Problem: poolProblem(s)}
	return out
}

// poolProblem says why a pool can't be used, or nothing.
func poolProblem(s *v1.PoolStatus) string {
	switch {
	case s == nil:
		return "it has not reported yet"
	case s.Healthy:
		return ""
	case len(s.Conditions) > 0:
		return s.Conditions[0].Message
	}
	return "it is not healthy"
}

// room returns the cluster as placement sees it.
func (v *view) room() *placement.Cluster {
	if v.cluster != nil {
		return v.cluster
	}
	v.cluster = placement.NewCluster(placement.Policy{OvercommitPercent: int64(v.settings.overcommitPercent)})
	for _, id := range v.nodes.list() {
		v.cluster.SetNode(v.placementNode(id))
	}
	for _, s := range v.shares {
		for _, p := range s.pools {
			v.cluster.Promise(p, s.group, s.size)
		}
	}
	return v.cluster
}

// fold has the sums follow a volume that changed, and has it looked at.
func (v *view) fold(id string) {
	v.touched[id] = true
	if v.loading {
		return
	}
	for replica := range v.holds[id] {
		v.suspects[replica] = true
	}
	was := v.shares[id]
	now := v.share(id)
	if len(now.pools) == 0 {
		delete(v.shares, id)
	} else {
		v.shares[id] = now
	}
	for _, x := range [][]string{was.pools, was.nodes} {
		for _, at := range x {
			v.at.drop(at, id)
		}
	}
	for _, x := range [][]string{now.pools, now.nodes} {
		for _, at := range x {
			v.at.add(at, id)
		}
	}
	for _, n := range was.filling {
		v.filling[n]--
	}
	for _, n := range now.filling {
		v.filling[n]++
	}
	v.fillings += len(now.filling) - len(was.filling)
	v.stirred = v.stirred || len(now.filling) < len(was.filling) || len(now.pools) < len(was.pools)
	v.foldRoom(was, now)
}

// foldRoom has placement follow.
func (v *view) foldRoom(was, now share) {
	if !maps.Equal(was.pending, now.pending) {
		for p, n := range was.pending {
			v.pending[p] -= n
		}
		for p, n := range now.pending {
			v.pending[p] += n
		}
		for _, m := range []map[string]int64{was.pending, now.pending} {
			for p := range m {
				if v.cluster != nil {
					v.cluster.Use(p, v.poolStatuses.value(p).GetUsedBytes()+v.pending[p])
				}
				if v.pending[p] == 0 {
					delete(v.pending, p)
				}
			}
		}
	}
	if v.cluster == nil {
		return
	}
	for _, p := range was.pools {
		v.cluster.Promise(p, was.group, -was.size)
	}
	for _, p := range now.pools {
		v.cluster.Promise(p, now.group, now.size)
	}
}

// share is what a volume adds to the sums.
func (v *view) share(id string) share {
	a := v.assignments.value(id)
	if a == nil {
		return share{}
	}
	vol := v.volumes.value(id)
	s := share{group: vol.GetSpec().GetPlacement().GetGroup(), size: a.SizeBytes}
	used, works := v.usedBytes(id), v.works(id)
	for _, r := range a.Replicas {
		s.pools, s.nodes = append(s.pools, r.PoolId), append(s.nodes, r.NodeId)
		if r.Leaving || !works || !v.isFilling(id, r) {
			continue
		}
		s.filling = append(s.filling, r.NodeId)
		if left := used - v.holdings.value(r.ReplicaId).GetUsedBytes(); left > 0 {
			if s.pending == nil {
				s.pending = map[string]int64{}
			}
			s.pending[r.PoolId] += left
		}
	}
	return s
}

// works reports whether a volume's head can run: one of its good copies is there, and so is
// the node that it is attached to.
func (v *view) works(id string) bool {
	if at := v.attachments.value(id); at != nil && !v.up(at.Spec.GetNodeId()) {
		return false
	}
	return slices.ContainsFunc(v.records.value(id).GetMembers(), func(m *statepb.Member) bool {
		return m.State == uint32(spec.InSync) && v.up(m.NodeId)
	})
}

// isFilling reports whether a replica is new, and is being filled from the others.
func (v *view) isFilling(volume string, r *statepb.AssignedReplica) bool {
	rec := v.records.value(volume)
	if rec == nil {
		return false
	}
	m := memberOf(rec, r.ReplicaId)
	return m == nil || m.State != uint32(spec.InSync) && m.Since == 0
}

// usedBytes is what the fullest replica of a volume takes.
func (v *view) usedBytes(volume string) (most int64) {
	for id := range v.holds[volume] {
		most = max(most, v.holdings.value(id).GetUsedBytes())
	}
	return most
}

// memberOf returns a replica as the record has it, or nil.
func memberOf(rec *statepb.Record, replica string) *statepb.Member {
	for _, m := range rec.GetMembers() {
		if m.ReplicaId == replica && m.State != 0 {
			return m
		}
	}
	return nil
}

// placementVolume is a volume as placement sees it.
func (v *view) placementVolume(vol *v1.Volume) placement.Volume {
	p := vol.Spec.GetPlacement()
	out := placement.Volume{ID: vol.Meta.GetId(), Size: vol.Spec.GetSizeBytes(), Used: v.usedBytes(vol.Meta.GetId()), Class: vol.Spec.GetClass(),
		Nodes: p.GetNodes(), Zones: p.GetZones(), Racks: p.GetRacks(), Labels: p.GetNodeLabels(), Group: p.GetGroup(), Prefer: p.GetPrefer()}
	switch strings.ToLower(p.GetSpread()) {
	case "rack":
		out.Spread = placement.Racks
	case "zone":
		out.Spread = placement.Zones
	}
	switch strings.ToLower(p.GetGroupPolicy()) {
	case "affinity":
		out.GroupPolicy = placement.Affinity
	case "anti-affinity":
		out.GroupPolicy = placement.AntiAffinity
	}
	return out
}
