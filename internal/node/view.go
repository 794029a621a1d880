package node

import (
	"context"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// view is what a node follows of the cluster's state.
type view struct {
	store        state.Store
	nodes        *state.Mirror[*v1.NodeStatus]
	volumes      *state.Mirror[*v1.Volume]
	assignments  *state.Mirror[*statepb.Assignment]
	holdings     *state.Mirror[*statepb.Holding]
	condemned    *state.Mirror[*statepb.Condemned]
	attachments  *state.Mirror[*v1.Attachment]
	snapshots    *state.Mirror[*v1.Snapshot]
	snapStatuses *state.Mirror[*v1.SnapshotStatus]
	operations   *state.Mirror[*v1.Operation]
	settings     *state.Mirror[*v1.ClusterSettings]
}

func newView(ctx context.Context, s state.Store) *view {
	return &view{
		store:        s,
		nodes:        state.NewMirror(ctx, s, state.NodeStatuses, nil),
		volumes:      state.NewMirror(ctx, s, state.Volumes, nil),
		assignments:  state.NewMirror(ctx, s, state.Assignments, nil),
		holdings:     state.NewMirror(ctx, s, state.Holdings, nil),
		condemned:    state.NewMirror(ctx, s, state.Condemned, nil),
		attachments:  state.NewMirror(ctx, s, state.Attachments, nil),
		snapshots:    state.NewMirror(ctx, s, state.Snapshots, snapshotIndexes()),
		snapStatuses: state.NewMirror(ctx, s, state.SnapshotStatuses, nil),
		operations:   state.NewMirror(ctx, s, state.Operations, operationIndexes()),
		settings:     state.NewMirror(ctx, s, state.Settings, nil),
	}
}

// ready waits until everything was read once.
func (v *view) ready(ctx context.Context) error {
	for _, ready := range []<-chan struct{}{v.nodes.Ready(), v.volumes.Ready(), v.assignments.Ready(), v.holdings.Ready(), v.condemned.Ready(),
		v.attachments.Ready(), v.snapshots.Ready(), v.snapStatuses.Ready(), v.operations.Ready()} {
		select {
		case <-ready:
		case <-ctx.Done():
			return state.Ended("node.view", ctx)
		}
	}
	return nil
}

// locate is Config.Locate.
func (v *view) locate(ctx context.Context, node block.NodeID) (string, error) {
	select {
	case <-v.nodes.Ready():
	case <-ctx.Done():
		return "", state.Ended("node.locate", ctx)
	}
	e, ok := v.nodes.Get(node.String())
	if !ok || e.Value.DataAddress == "" {
		return "", fault.Errorf("node.locate", fault.NotFound, "node %v has not said where it is", node)
	}
	return e.Value.DataAddress, nil
}

// stateRecords are the Records that the cluster's state keeps.
type stateRecords struct{ store state.Store }

// Swap is Records.Swap.
func (r stateRecords) Swap(ctx context.Context, next spec.Record) (bool, spec.Record, error) {
	id := next.Volume.String()
	now, revision, err := r.get(ctx, id)
	if err != nil || now.Version+1 != next.Version {
		return false, now, err
	}
	ops := []state.Op{state.Records.Replace(id, state.RecordMessage(next), revision)}
	if next.Owner != (block.NodeID{}) && (now.Owner != next.Owner || now.Incarnation != next.Incarnation) {
		mayClaim, err := r.mayClaim(ctx, id, next.Owner.String())
		if err != nil {
			return false, spec.Record{}, err
		}
		ops = append(ops, mayClaim)
	}
	if _, err = r.store.Commit(ctx, ops...); err == nil {
		return true, next, nil
	}
	if !fault.Is(err, fault.Busy) {
		return false, spec.Record{}, err
	}
	now, _, err = r.get(ctx, id)
	return false, now, err
}

// mayClaim returns the condition that a node may own a volume: no other has it attached.
// Without it a node that has not yet heard that its volume was moved would take it back
// from who has it now.
func (r stateRecords) mayClaim(ctx context.Context, id, node string) (state.Op, error) {
	at, err := state.Attachments.Get(ctx, r.store, id)
	switch {
	case fault.Is(err, fault.NotFound):
		return state.Attachments.Require(id, 0), nil
	case err != nil:
		return state.Op{}, err
	case at.Value.Spec.GetNodeId() != node:
		return state.Op{}, fault.Errorf("node.claim", fault.Precondition, "the volume is attached to node %s", at.Value.Spec.GetNodeId())
	}
	return state.Attachments.Require(id, at.Revision), nil
}

func (r stateRecords) get(ctx context.Context, id string) (spec.Record, state.Revision, error) {
	e, err := state.Records.Get(ctx, r.store, id)
	if err != nil {
		return spec.Record{}, 0, err
	}
	rec, err := state.RecordOf(e.Value)
	return rec, e.Revision, err
}
