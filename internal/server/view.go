package server

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// view is the state in memory: what is read is read here, so that looking costs the store
// nothing, and goes on while the store is away. What is written is read from the store.
type view struct {
	nodes          *state.Mirror[*v1.Node]
	nodeStatuses   *state.Mirror[*v1.NodeStatus]
	alive          *state.Mirror[*emptypb.Empty]
	pools          *state.Mirror[*v1.Pool]
	poolStatuses   *state.Mirror[*v1.PoolStatus]
	volumes        *state.Mirror[*v1.Volume]
	assignments    *state.Mirror[*statepb.Assignment]
	records        *state.Mirror[*statepb.Record]
	holdings       *state.Mirror[*statepb.Holding]
	attachments    *state.Mirror[*v1.Attachment]
	attachStatuses *state.Mirror[*v1.AttachmentStatus]
	snapshots      *state.Mirror[*v1.Snapshot]
	snapStatuses   *state.Mirror[*v1.SnapshotStatus]
	policies       *state.Mirror[*v1.SnapshotPolicy]
	verdicts       *state.Mirror[*statepb.Verdict]
	settings       *state.Mirror[*v1.ClusterSettings]
	operations     *state.Mirror[*v1.Operation]
	absences       *state.Mirror[*statepb.Absence]
	events         *state.Mirror[*v1.Event]

	all []mirrored

	mu      sync.Mutex
	changed chan struct{}
}

// mirrored is what all mirrors have in common.
type mirrored interface {
	Ready() <-chan struct{}
	Changed() <-chan struct{}
	Err() error
}

// Names of indexes.
const (
	byName   = "name"
	byVolume = "volume"
	byGroup  = "group"
	byNode   = "node"
	byPool   = "pool"
)

// named is an object with a name.
type named interface {
	proto.Message
	GetMeta() *v1.Meta
}

func nameIndex[T named](e state.Entry[T]) []string { return []string{e.Value.GetMeta().GetName()} }

// poolsOf are the pools that a volume's replicas are promised to.
func poolsOf(e state.Entry[*statepb.Assignment]) (pools []string) {
	for _, r := range e.Value.GetReplicas() {
		pools = append(pools, r.PoolId)
	}
	return pools
}

func newView(ctx context.Context, s state.Store) *view {
	v := &view{changed: make(chan struct{})}
	v.nodes = mirror(ctx, v, s, state.Nodes, map[string]state.Index[*v1.Node]{byName: nameIndex[*v1.Node]})
	v.nodeStatuses = mirror(ctx, v, s, state.NodeStatuses, nil)
	v.alive = mirror(ctx, v, s, state.Alive, nil)
	v.pools = mirror(ctx, v, s, state.Pools, map[string]state.Index[*v1.Pool]{byName: nameIndex[*v1.Pool],
		byNode: func(e state.Entry[*v1.Pool]) []string { return []string{e.Value.GetSpec().GetNodeId()} }})
	v.poolStatuses = mirror(ctx, v, s, state.PoolStatuses, nil)
	v.volumes = mirror(ctx, v, s, state.Volumes, map[string]state.Index[*v1.Volume]{byName: nameIndex[*v1.Volume]})
	v.assignments = mirror(ctx, v, s, state.Assignments, map[string]state.Index[*statepb.Assignment]{byPool: poolsOf})
	v.records = mirror(ctx, v, s, state.Records, nil)
	v.holdings = mirror(ctx, v, s, state.Holdings, map[string]state.Index[*statepb.Holding]{
		byVolume: func(e state.Entry[*statepb.Holding]) []string { return []string{e.Value.VolumeId} }})
	v.attachments = mirror(ctx, v, s, state.Attachments, nil)
	v.attachStatuses = mirror(ctx, v, s, state.AttachStatuses, nil)
	v.snapshots = mirror(ctx, v, s, state.Snapshots, map[string]state.Index[*v1.Snapshot]{byName: nameIndex[*v1.Snapshot],
		byVolume: func(e state.Entry[*v1.Snapshot]) []string { return []string{e.Value.GetSpec().GetVolumeId()} },
		byGroup:  func(e state.Entry[*v1.Snapshot]) []string { return []string{e.Value.GetSpec().GetGroupId()} }})
	v.snapStatuses = mirror(ctx, v, s, state.SnapshotStatuses, nil)
	v.policies = mirror(ctx, v, s, state.Policies, map[string]state.Index[*v1.SnapshotPolicy]{byName: nameIndex[*v1.SnapshotPolicy]})
	v.verdicts = mirror(ctx, v, s, state.Verdicts, nil)
	v.settings = mirror(ctx, v, s, state.Settings, nil)
	v.operations = mirror(ctx, v, s, state.Operations, nil)
	v.absences = mirror(ctx, v, s, state.Absences, nil)
	v.events = mirror(ctx, v, s, state.Events, nil)
	return v
}

// mirror makes a mirror whose changes are the view's.
func mirror[T proto.Message](ctx context.Context, v *view, s state.Store, t state.Table[T], indexes map[string]state.Index[T]) *state.Mirror[T] {
	m := state.NewMirror(ctx, s, t, indexes)
	v.all = append(v.all, m)
	go func() {
		for {
			changed := m.Changed()
			v.wake()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return m
}

func (v *view) wake() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.changed)
	v.changed = make(chan struct{})
}

// Changed returns a channel that is closed when something changes. Take it before you
// look.
func (v *view) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// ready waits until everything has been read once.
func (v *view) ready(ctx context.Context) error {
	for _, m := range v.all {
		select {
		case <-m.Ready():
			continue
		default:
		}
		select {
		case <-m.Ready():
		case <-ctx.Done():
			if err := m.Err(); err != nil {
				return unreachable(err)
			}
			return state.Ended("server", ctx)
		}
	}
	return nil
}

// stale returns why the view may be behind, or nil.
func (v *view) stale() error {
	for _, m := range v.all {
		if err := m.Err(); err != nil {
			return err
		}
	}
	return nil
}

// value returns what a mirror has under an id, or nil.
func value[T proto.Message](m *state.Mirror[T], id string) T {
	e, _ := m.Get(id)
	return e.Value
}

// up reports whether a node's lease runs.
func (v *view) up(node string) bool {
	_, ok := v.alive.Get(node)
	return ok
}

// nodeName returns a node's name, or its id when nothing better is known.
func (v *view) nodeName(id string) string {
	if name := value(v.nodes, id).GetMeta().GetName(); name != "" {
		return name
	}
	return id
}

// volumeName returns a volume's name, or its id when nothing better is known.
func (v *view) volumeName(id string) string {
	if name := value(v.volumes, id).GetMeta().GetName(); name != "" {
		return name
	}
	return id
}

// clone returns a copy of what a mirror shares, to be changed.
func clone[T proto.Message](m T) T { return proto.Clone(m).(T) }
