package server

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/control"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// nodes is the NodeService.
type nodes struct{ *Server }

// GetNode returns one node.
func (s *nodes) GetNode(ctx context.Context, r *v1.GetNodeRequest) (*v1.Node, error) {
	e, err := s.findNode(ctx, r.Node)
	if err != nil {
		return nil, err
	}
	return s.view.node(e), nil
}

// ListNodes lists nodes, by name.
func (s *nodes) ListNodes(_ context.Context, r *v1.ListNodesRequest) (*v1.ListNodesResponse, error) {
	sel, err := parseSelector(r.Selector)
	if err != nil {
		return nil, err
	}
	var list []*v1.Node
	for _, e := range s.view.nodes.List() {
		n := s.view.node(e)
		if sel.Matches(n.GetMeta().GetLabels()) && (r.State == 0 || n.Status.State == r.State) && (r.Zone == "" || n.GetSpec().GetZone() == r.Zone) {
			list = append(list, n)
		}
	}
	list, next, err := page(sortedBy(list, nameKey), r.PageSize, r.PageToken, nameKey)
	return &v1.ListNodesResponse{Nodes: list, NextPageToken: next}, err
}

// WatchNodes tells of nodes.
func (s *nodes) WatchNodes(ctx context.Context, r *v1.WatchNodesRequest, out *connect.ServerStream[v1.WatchNodesResponse]) error {
	sel, err := parseSelector(r.Selector)
	if err != nil {
		return err
	}
	only, err := s.nodeID(ctx, r.Node)
	if err != nil {
		return err
	}
	return watch(ctx, s.Server, func() watched[*v1.Node] {
		all := watched[*v1.Node]{}
		for _, e := range s.view.nodes.List() {
			if (only == "" || only == e.ID) && sel.Matches(e.Value.GetMeta().GetLabels()) {
				all[e.ID] = s.view.node(e)
			}
		}
		return all
	}, stream(out, func(c v1.Change, n *v1.Node) *v1.WatchNodesResponse {
		return &v1.WatchNodesResponse{Change: c, Node: n}
	}))
}

// change changes a node, and says so in an event when it did.
func (s *nodes) change(ctx context.Context, ref, reason, text string, do func(*v1.Node) (bool, error)) (*v1.Node, error) {
	e, err := s.findNode(ctx, ref)
	if err != nil {
		return nil, err
	}
	e, err = update(ctx, s.Server, state.Nodes, s.view.nodes, e.ID, func(n *v1.Node) ([]state.Op, error) {
		if n.Spec == nil {
			n.Spec = &v1.NodeSpec{}
		}
		changed, err := do(n)
		if err != nil || !changed {
			return nil, err
		}
		return []state.Op{s.event(ctx, state.KindNode, n.Meta, reason, "%s", text)}, nil
	})
	if err != nil {
		return nil, err
	}
	return s.view.node(e), nil
}

// UpdateNode changes labels and the place of a node.
func (s *nodes) UpdateNode(ctx context.Context, r *v1.UpdateNodeRequest) (*v1.Node, error) {
	for field, place := range map[string]*string{"region": r.Region, "zone": r.Zone, "rack": r.Rack} {
		if place != nil && *place != "" && !nameForm.MatchString(*place) {
			return nil, invalid(field, "use letters, digits, dots, dashes and underscores", "%q is no name", *place)
		}
	}
	return s.change(ctx, r.Node, "Updated", "its labels or its place were changed", func(n *v1.Node) (bool, error) {
		if err := checkRevision(r.Revision, n.Meta.Revision); err != nil {
			return false, err
		}
		n.Meta.Labels = relabel(n.Meta.Labels, r.SetLabels, r.RemoveLabels)
		set(&n.Spec.Region, r.Region)
		set(&n.Spec.Zone, r.Zone)
		set(&n.Spec.Rack, r.Rack)
		return true, checkLabels("set_labels", n.Meta.Labels)
	})
}

// CordonNode keeps new replicas away from a node, or ends that.
func (s *nodes) CordonNode(ctx context.Context, r *v1.CordonNodeRequest) (*v1.Node, error) {
	reason, text := "Cordoned", "it gets no new replicas"
	if !r.Cordoned {
		reason, text = "Uncordoned", "it gets new replicas again"
	}
	return s.change(ctx, r.Node, reason, text, func(n *v1.Node) (bool, error) {
		changed := n.Spec.Cordoned != r.Cordoned
		n.Spec.Cordoned = r.Cordoned
		return changed, nil
	})
}

// SetMaintenance says that a node may be away for long.
func (s *nodes) SetMaintenance(ctx context.Context, r *v1.SetMaintenanceRequest) (*v1.Node, error) {
	reason, text := "MaintenanceBegins", "nothing is rebuilt because of it"
	if !r.Maintenance {
		reason, text = "MaintenanceEnds", "if it is down for long, its replicas are rebuilt elsewhere"
	}
	return s.change(ctx, r.Node, reason, text, func(n *v1.Node) (bool, error) {
		changed := n.Spec.Maintenance != r.Maintenance
		n.Spec.Maintenance = r.Maintenance
		return changed, nil
	})
}

// DrainNode moves a node's replicas away, or ends that.
func (s *nodes) DrainNode(ctx context.Context, r *v1.DrainNodeRequest) (*v1.DrainNodeResponse, error) {
	reason, text := "DrainBegins", "its replicas are moved away"
	if !r.Draining {
		reason, text = "DrainEnds", "its replicas stay"
	}
	n, err := s.change(ctx, r.Node, reason, text, func(n *v1.Node) (bool, error) {
		changed := n.Spec.Draining != r.Draining
		n.Spec.Draining = r.Draining
		return changed, nil
	})
	if err != nil {
		return nil, err
	}
	o, err := s.drainOperation(ctx, "NodeDrain", state.KindNode, n.Meta, r.Draining)
	return &v1.DrainNodeResponse{Node: n, Operation: o}, err
}

// drainOperation returns the operation of a drain: the one that runs, or a new one. When
// draining ends, the one that runs is canceled.
func (s *Server) drainOperation(ctx context.Context, kind, targetKind string, target *v1.Meta, draining bool) (*v1.Operation, error) {
	for _, e := range s.view.operations.List() {
		if e.Value.Kind != kind || e.Value.TargetId != target.Id || e.Value.Done {
			continue
		}
		if draining {
			return clone(e.Value), nil
		}
		_, err := update(ctx, s, state.Operations, s.view.operations, e.ID, func(o *v1.Operation) ([]state.Op, error) {
			o.Canceled = o.Canceled || !o.Done
			return nil, nil
		})
		return nil, err
	}
	if !draining {
		return nil, nil
	}
	o, create, err := s.operation(ctx, kind, targetKind, target, nil)
	if err != nil {
		return nil, err
	}
	at, err := s.commit(ctx, create)
	if err != nil {
		return nil, err
	}
	restamp(o, at)
	return o, s.view.operations.Reach(ctx, at)
}

// RemoveNode takes a node out of the cluster for good.
func (s *nodes) RemoveNode(ctx context.Context, r *v1.RemoveNodeRequest) (*v1.RemoveNodeResponse, error) {
	e, err := s.findNode(ctx, r.Node)
	if err != nil {
		return nil, err
	}
	removal, err := control.PreviewRemoval(ctx, s.store, e.ID, "")
	if err != nil {
		return nil, unreachableIf(err)
	}
	if r.Preview {
		return &v1.RemoveNodeResponse{Removal: removal}, nil
	}
	name := e.Value.GetMeta().GetName()
	if err := mayRemove(removal, r.Force, "node "+name, "drain it first: holdfast node drain "+name); err != nil {
		return nil, err
	}
	if removal.VolumesDetached > 0 && s.view.up(e.ID) && !r.Force {
		return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "%s attached to node %s", many(removal.VolumesDetached, "volume is", "volumes are"), name),
			"detach them first: holdfast volume list --node "+name+" --attached; or add --force")
	}
	n, err := s.change(ctx, e.ID, "RemoveAsked", "it leaves the cluster for good", func(n *v1.Node) (bool, error) {
		changed := !n.Spec.Removed
		n.Spec.Removed, n.Spec.Draining = true, true
		return changed, nil
	})
	if err != nil {
		return nil, err
	}
	o, err := s.removeOperation(ctx, "NodeRemove", state.KindNode, n.Meta, r.Force)
	return &v1.RemoveNodeResponse{Removal: removal, Operation: o}, err
}

// removeOperation returns the operation of a removal: the one that runs, or a new one.
func (s *Server) removeOperation(ctx context.Context, kind, targetKind string, target *v1.Meta, force bool) (*v1.Operation, error) {
	for _, e := range s.view.operations.List() {
		if e.Value.Kind == kind && e.Value.TargetId == target.Id && !e.Value.Done {
			return clone(e.Value), nil
		}
	}
	var parameters map[string]string
	if force {
		parameters = map[string]string{"force": "true"}
	}
	o, create, err := s.operation(ctx, kind, targetKind, target, parameters)
	if err != nil {
		return nil, err
	}
	at, err := s.commit(ctx, create)
	if err != nil {
		return nil, err
	}
	restamp(o, at)
	return o, s.view.operations.Reach(ctx, at)
}

func mayRemove(removal *v1.Removal, force bool, what, cure string) error {
	if removal.VolumesLost == 0 || force {
		return nil
	}
	first := removal.Effects[0]
	return fault.WithCure(fault.Errorf("server", fault.Precondition, "the data of %s would be lost with %s, %s first", many(removal.VolumesLost, "volume", "volumes"), what, first.VolumeName),
		cure+"; or lose the data: add --force")
}

// many counts things.
func many[T int | int32](n T, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}
