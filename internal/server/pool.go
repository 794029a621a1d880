package server

import (
	"cmp"
	"context"
	"fmt"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/control"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// pools is the PoolService.
type pools struct{ *Server }

// GetPool returns one pool.
func (s *pools) GetPool(ctx context.Context, r *v1.GetPoolRequest) (*v1.Pool, error) {
	e, err := s.findPool(ctx, r.Pool)
	if err != nil {
		return nil, err
	}
	return s.view.poolOf(e), nil
}

// ListPools lists pools, by name.
func (s *pools) ListPools(ctx context.Context, r *v1.ListPoolsRequest) (*v1.ListPoolsResponse, error) {
	sel, err := parseSelector(r.Selector)
	if err != nil {
		return nil, err
	}
	node, err := s.nodeID(ctx, r.Node)
	if err != nil {
		return nil, err
	}
	var list []*v1.Pool
	for _, e := range s.view.pools.List() {
		p := s.view.poolOf(e)
		if sel.Matches(p.GetMeta().GetLabels()) && (node == "" || p.GetSpec().GetNodeId() == node) && (r.Class == "" || p.Status.Class == r.Class) {
			list = append(list, p)
		}
	}
	list, next, err := page(sortedBy(list, nameKey), r.PageSize, r.PageToken, nameKey)
	return &v1.ListPoolsResponse{Pools: list, NextPageToken: next}, err
}

// WatchPools tells of pools.
func (s *pools) WatchPools(ctx context.Context, r *v1.WatchPoolsRequest, out *connect.ServerStream[v1.WatchPoolsResponse]) error {
	sel, err := parseSelector(r.Selector)
	if err != nil {
		return err
	}
	node, err := s.nodeID(ctx, r.Node)
	if err != nil {
		return err
	}
	return watch(ctx, s.Server, func() watched[*v1.Pool] {
		all := watched[*v1.Pool]{}
		for _, e := range s.view.pools.List() {
			if (node == "" || e.Value.GetSpec().GetNodeId() == node) && sel.Matches(e.Value.GetMeta().GetLabels()) {
				all[e.ID] = s.view.poolOf(e)
			}
		}
		return all
	}, stream(out, func(c v1.Change, p *v1.Pool) *v1.WatchPoolsResponse {
		return &v1.WatchPoolsResponse{Change: c, Pool: p}
	}))
}

// RegisterPool makes a pool of a node known. Said again it changes nothing, but for the
// node: a disk that was put into another machine is the same pool, on that node.
func (s *pools) RegisterPool(ctx context.Context, r *v1.RegisterPoolRequest) (*v1.Pool, error) {
	if _, err := block.ParsePoolID(r.PoolId); err != nil {
		return nil, invalid("pool_id", "give the id that the pool carries", "%w", err)
	}
	node, err := s.findNode(ctx, r.NodeId)
	if err != nil {
		return nil, fault.WithField(err, "node_id")
	}
	if by := who(ctx); by.Role == v1.Role_ROLE_NODE && by.NodeID != node.ID {
		return nil, fault.Errorf("server", fault.Denied, "a node registers its own pools: %s is not node %s", by.Subject, node.Value.GetMeta().GetName())
	}
	if err := checkLabels("labels", r.Labels); err != nil {
		return nil, err
	}
	if err := checkClass("class", r.Class); err != nil {
		return nil, err
	}
	e, err := state.Pools.Get(ctx, s.store, r.PoolId)
	switch {
	case err == nil:
		e, err = s.settle(ctx, e, node)
	case fault.Is(err, fault.NotFound):
		e, err = s.newPool(ctx, r, node)
	}
	if err != nil {
		return nil, unreachableIf(err)
	}
	return s.view.poolOf(e), nil
}

// settle records that a pool is on a node now.
func (s *pools) settle(ctx context.Context, e state.Entry[*v1.Pool], node state.Entry[*v1.Node]) (state.Entry[*v1.Pool], error) {
	was := e.Value.GetSpec().GetNodeId()
	if was != node.ID && s.view.up(was) && value(s.view.poolStatuses, e.ID).GetHealthy() {
		return e, fault.WithCure(fault.Errorf("server", fault.Exists, "pool %s is there already, on node %s, which is up and has it", e.ID, s.view.nodeName(was)),
			"a disk can't be in two machines: one of the two is a copy; wipe that: holdfast pool wipe")
	}
	return update(ctx, s.Server, state.Pools, s.view.pools, e.ID, func(p *v1.Pool) ([]state.Op, error) {
		if p.Spec.NodeId == node.ID {
			return nil, nil
		}
		p.Spec.NodeId = node.ID
		return []state.Op{s.event(ctx, state.KindPool, p.Meta, "Moved", "it is on node %s now", node.Value.GetMeta().GetName())}, nil
	})
}

// newPool writes a pool that isn't known. Without a name it is called by its node and the
// beginning of its id, as the node itself does that finds nobody to register with.
func (s *pools) newPool(ctx context.Context, r *v1.RegisterPoolRequest, node state.Entry[*v1.Node]) (state.Entry[*v1.Pool], error) {
	name := cmp.Or(r.Name, fmt.Sprintf("%.120s-%.8s", node.Value.GetMeta().GetName(), r.PoolId))
	if err := checkName("name", name); err != nil {
		return state.Entry[*v1.Pool]{}, err
	}
	p := &v1.Pool{
		Meta: &v1.Meta{Id: r.PoolId, Name: name, Labels: r.Labels, Created: s.stamp()},
		Spec: &v1.PoolSpec{NodeId: node.ID},
	}
	at, err := s.commit(ctx, state.Pools.Create(r.PoolId, p), state.Create(state.NameKey(state.KindPool, name), []byte(r.PoolId)),
		s.event(ctx, state.KindPool, p.Meta, "Registered", "a pool of class %s on node %s", r.Class, node.Value.GetMeta().GetName()))
	if err == nil {
		restamp(p, at)
		return state.Entry[*v1.Pool]{ID: r.PoolId, Value: p, Revision: at}, s.view.pools.Reach(ctx, at)
	}
	if !fault.Is(err, fault.Busy) {
		return state.Entry[*v1.Pool]{}, err
	}
	if e, err := state.Pools.Get(ctx, s.store, r.PoolId); err == nil {
		return s.settle(ctx, e, node) // somebody registered it meanwhile
	}
	return state.Entry[*v1.Pool]{}, s.taken(ctx, state.KindPool, name, err)
}

// change changes a pool, and says so in an event when it did.
func (s *pools) change(ctx context.Context, ref, reason, text string, do func(*v1.Pool) (bool, []state.Op, error)) (*v1.Pool, error) {
	e, err := s.findPool(ctx, ref)
	if err != nil {
		return nil, err
	}
	e, err = update(ctx, s.Server, state.Pools, s.view.pools, e.ID, func(p *v1.Pool) ([]state.Op, error) {
		changed, ops, err := do(p)
		if err != nil || !changed {
			return nil, err
		}
		return append(ops, s.event(ctx, state.KindPool, p.Meta, reason, "%s", text)), nil
	})
	if err != nil {
		return nil, err
	}
	return s.view.poolOf(e), nil
}

// reserveMax is the most of a pool, in percent, that can be kept free.
const reserveMax = 90

// UpdatePool changes what is named.
func (s *pools) UpdatePool(ctx context.Context, r *v1.UpdatePoolRequest) (*v1.Pool, error) {
	if err := checkClass("class", r.GetClass()); err != nil {
		return nil, err
	}
	if n := r.GetReservePercent(); n < 0 || n > reserveMax {
		return nil, invalid("reserve_percent", "give a number up to 90, or 0 for the default", "%d can't be", n)
	}
	if r.Name != nil {
		if err := checkName("name", *r.Name); err != nil {
			return nil, err
		}
	}
	p, err := s.change(ctx, r.Pool, "Updated", "it was changed", func(p *v1.Pool) (_ bool, ops []state.Op, err error) {
		if err := checkRevision(r.Revision, p.Meta.Revision); err != nil {
			return false, nil, err
		}
		p.Meta.Labels = relabel(p.Meta.Labels, r.SetLabels, r.RemoveLabels)
		set(&p.Spec.Class, r.Class)
		set(&p.Spec.Cordoned, r.Cordoned)
		set(&p.Spec.ReservePercent, r.ReservePercent)
		if r.Name != nil && *r.Name != p.Meta.Name {
			ops = rename(state.KindPool, p.Meta, *r.Name)
		}
		return true, ops, checkLabels("set_labels", p.Meta.Labels)
	})
	if fault.Is(err, fault.Busy) && r.Name != nil {
		return nil, s.taken(ctx, state.KindPool, *r.Name, err)
	}
	return p, err
}

// DrainPool moves a pool's replicas away, or ends that.
func (s *pools) DrainPool(ctx context.Context, r *v1.DrainPoolRequest) (*v1.DrainPoolResponse, error) {
	reason, text := "DrainBegins", "its replicas are moved away"
	if !r.Draining {
		reason, text = "DrainEnds", "its replicas stay"
	}
	p, err := s.change(ctx, r.Pool, reason, text, func(p *v1.Pool) (bool, []state.Op, error) {
		changed := p.Spec.Draining != r.Draining
		p.Spec.Draining = r.Draining
		return changed, nil, nil
	})
	if err != nil {
		return nil, err
	}
	o, err := s.drainOperation(ctx, "PoolDrain", state.KindPool, p.Meta, r.Draining)
	return &v1.DrainPoolResponse{Pool: p, Operation: o}, err
}

// RemovePool makes the cluster forget a pool.
func (s *pools) RemovePool(ctx context.Context, r *v1.RemovePoolRequest) (*v1.RemovePoolResponse, error) {
	e, err := s.findPool(ctx, r.Pool)
	if err != nil {
		return nil, err
	}
	removal, err := control.PreviewRemoval(ctx, s.store, e.Value.GetSpec().GetNodeId(), e.ID)
	if err != nil {
		return nil, unreachableIf(err)
	}
	if r.Preview {
		return &v1.RemovePoolResponse{Removal: removal}, nil
	}
	name := e.Value.GetMeta().GetName()
	if err := mayRemove(removal, r.Force, "pool "+name, "drain it first: holdfast pool drain "+name); err != nil {
		return nil, err
	}
	p, err := s.change(ctx, e.ID, "RemoveAsked", "it leaves the cluster for good", func(p *v1.Pool) (bool, []state.Op, error) {
		changed := !p.Spec.Removed
		p.Spec.Removed, p.Spec.Draining = true, true
		return changed, nil, nil
	})
	if err != nil {
		return nil, err
	}
	o, err := s.removeOperation(ctx, "PoolRemove", state.KindPool, p.Meta, r.Force)
	return &v1.RemovePoolResponse{Removal: removal, Operation: o}, err
}

// Rebalance asks for replicas to be moved until pools are about equally full.
func (s *pools) Rebalance(ctx context.Context, r *v1.RebalanceRequest) (*v1.Operation, error) {
	parameters := map[string]string{"dry_run": fmt.Sprint(r.DryRun)}
	for _, e := range s.view.operations.List() {
		if e.Value.Kind == "Rebalance" && !e.Value.Done && e.Value.Parameters["dry_run"] == parameters["dry_run"] {
			return clone(e.Value), nil
		}
	}
	cluster := s.cluster(ctx)
	o, create, err := s.operation(ctx, "Rebalance", "cluster", cluster.Meta, parameters)
	if err != nil {
		return nil, err
	}
	at, err := s.commit(ctx, create, s.event(ctx, "cluster", cluster.Meta, "RebalanceAsked", "pools are to become about equally full"))
	if err != nil {
		return nil, err
	}
	restamp(o, at)
	return o, s.view.operations.Reach(ctx, at)
}
