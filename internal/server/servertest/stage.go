package servertest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// Stage is where control, nodes and heads are played.
type Stage struct {
	c *Cluster

	mu       sync.Mutex
	refusals map[string]string // why a volume of that name gets no place
	still    bool
}

// id makes an id of a number.
func id(kind byte, n int) string {
	v := block.VolumeID{kind, byte(n >> 8), byte(n)}
	v[6], v[8] = 0x40, 0x80
	return v.String()
}

// NodeID and PoolID are the ids of the nodes and pools that Nodes makes, from 1 on.
func NodeID(n int) string { return id('n', n) }

// PoolID is the id of the pool of NodeID(n).
func PoolID(n int) string { return id('p', n) }

// Nodes brings nodes n1, n2, … up, in zones a, b and c in turn, each with a pool of 1 TiB.
// The API shows them when it returns.
func (s *Stage) Nodes(count int) {
	s.c.T.Helper()
	for n := 1; n <= count; n++ {
		name := fmt.Sprintf("n%d", n)
		node := &v1.Node{Meta: &v1.Meta{Id: NodeID(n), Name: name, Labels: map[string]string{"disk": []string{"ssd", "hdd"}[n%2]}, Created: timestamppb.New(Then)},
			Spec: &v1.NodeSpec{Zone: string(rune('a' + (n-1)%3))}}
		pool := &v1.Pool{Meta: &v1.Meta{Id: PoolID(n), Name: name + "-1", Created: timestamppb.New(Then)}, Spec: &v1.PoolSpec{NodeId: NodeID(n)}}
		s.c.Commit(
			state.Nodes.Create(NodeID(n), node), state.Create(state.NameKey(state.KindNode, name), []byte(NodeID(n))),
			state.NodeStatuses.Put(NodeID(n), &v1.NodeStatus{ApiAddress: fmt.Sprintf("10.0.0.%d:7700", n), DataAddress: fmt.Sprintf("10.0.0.%d:7701", n), Version: "test", Seen: timestamppb.New(Then)}),
			state.Alive.Put(NodeID(n), &emptypb.Empty{}),
			state.Pools.Create(PoolID(n), pool), state.Create(state.NameKey(state.KindPool, pool.Meta.Name), []byte(PoolID(n))),
			state.PoolStatuses.Put(PoolID(n), &v1.PoolStatus{Path: "/pool", Class: "high", CapacityBytes: 1 << 40, UsedBytes: int64(n) << 30, ReserveBytes: 10 << 30, Healthy: true}))
	}
	// Each kind of object reaches the API's view by itself.
	patiently.Until(s.c.T, func() error {
		st, err := s.c.Client.Cluster.GetStatus(s.c.Ctx, &v1.GetStatusRequest{})
		if err == nil && (int(st.GetNodes().GetUp()) < count || int(st.GetPools().GetHealthy()) < count) {
			err = fmt.Errorf("%d nodes are not all in view: %v, %v", count, st.GetNodes(), st.GetPools())
		}
		return err
	})
}

// Down ends a node's lease; Up begins one.
func (s *Stage) Down(n int) { s.c.Commit(state.Alive.Delete(NodeID(n), 0)) }

// Up begins a node's lease.
func (s *Stage) Up(n int) { s.c.Commit(state.Alive.Put(NodeID(n), &emptypb.Empty{})) }

// Refuse has control find no place for volumes of a name, for a reason; "" ends that.
func (s *Stage) Refuse(name, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals[name] = why
}

// Still ends the play: things stay as they are.
func (s *Stage) Still() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.still = true
}

// Outdate has a head leave a volume's replica on a node behind.
func (s *Stage) Outdate(volume string, n int) {
	s.c.T.Helper()
	s.Record(volume, func(r *statepb.Record) {
		r.Epoch++
		for _, m := range r.Members {
			if m.NodeId == NodeID(n) {
				m.State, m.Since = uint32(spec.Outdated), r.Epoch
			}
		}
	})
}

// Record changes a volume's record.
func (s *Stage) Record(volume string, do func(*statepb.Record)) {
	s.c.T.Helper()
	e, err := state.Records.Get(s.c.Ctx, s.c.Store, volume)
	s.c.Must(err)
	do(e.Value)
	s.c.Commit(state.Records.Put(volume, e.Value))
}

// play makes come true what specs ask for, until ctx ends.
func (s *Stage) play(ctx context.Context) {
	_, at, err := s.c.Store.List(ctx, state.Root)
	if err != nil {
		return
	}
	s.act(ctx)
	for range s.c.Store.Watch(ctx, state.Root, at) {
		s.act(ctx)
	}
}

// act looks at everything once. What it can't write now, because somebody else was
// faster, it writes the next time.
func (s *Stage) act(ctx context.Context) {
	volumes, _, err := state.Volumes.List(ctx, s.c.Store)
	if err != nil {
		return
	}
	for _, e := range volumes {
		if e.Value.GetSpec().GetDeleting() {
			s.destroy(ctx, e)
			continue
		}
		s.place(ctx, e)
		s.head(ctx, e)
	}
	s.snapshots(ctx)
}

// commit writes, unless somebody was faster or the test is over.
func (s *Stage) commit(ctx context.Context, ops ...state.Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.still {
		return
	}
	_, _ = s.c.Store.Commit(ctx, ops...) // looks again anyway
}

// place plays control and nodes for a new volume: replicas on nodes that are up.
func (s *Stage) place(ctx context.Context, e state.Entry[*v1.Volume]) {
	s.mu.Lock()
	why := s.refusals[e.Value.GetMeta().GetName()]
	s.mu.Unlock()
	r, err := state.Records.Get(ctx, s.c.Store, e.ID)
	if err == nil {
		if r.Value.SizeBytes != e.Value.Spec.SizeBytes && why == "" {
			r.Value.SizeBytes = e.Value.Spec.SizeBytes
			s.commit(ctx, state.Records.Replace(e.ID, r.Value, r.Revision))
			return
		}
		s.grow(ctx, e.ID, r.Value)
		return
	}
	if why != "" {
		verdict := &statepb.Verdict{VolumeId: e.ID, Conditions: []*v1.Condition{{Type: "Placed", Status: false, Reason: "NoPlace", Message: why}}}
		if v, err := state.Verdicts.Get(ctx, s.c.Store, e.ID); err != nil || !proto.Equal(v.Value, verdict) {
			s.commit(ctx, state.Verdicts.Put(e.ID, verdict))
		}
		return
	}
	up, _, err := state.Alive.List(ctx, s.c.Store)
	if err != nil || len(up) < int(e.Value.Spec.Replicas) {
		return
	}
	a := &statepb.Assignment{VolumeId: e.ID, SizeBytes: e.Value.Spec.SizeBytes}
	record := &statepb.Record{VolumeId: e.ID, Version: 1, SizeBytes: e.Value.Spec.SizeBytes, Epoch: 1, Generation: 1}
	ops := []state.Op{state.Verdicts.Delete(e.ID, 0)}
	for i := range e.Value.Spec.Replicas {
		node := up[i].ID
		pool := PoolID(1)
		for n := 2; NodeID(n-1) != node && n < 100; n++ {
			pool = PoolID(n)
		}
		replica := "r" + e.ID[1:len(e.ID)-1] + fmt.Sprint(i)
		a.Replicas = append(a.Replicas, &statepb.AssignedReplica{ReplicaId: replica, NodeId: node, PoolId: pool})
		record.Members = append(record.Members, &statepb.Member{ReplicaId: replica, NodeId: node, State: uint32(spec.InSync)})
		ops = append(ops, state.Holdings.Create(replica, &statepb.Holding{ReplicaId: replica, VolumeId: e.ID, NodeId: node, PoolId: pool, Ready: true, SizeBytes: e.Value.Spec.SizeBytes, UsedBytes: 4096, Generation: 1}))
	}
	s.commit(ctx, append(ops, state.Assignments.Create(e.ID, a), state.Records.Create(e.ID, record))...)
}

// grow plays the nodes whose replicas follow the record's size, one after the other.
func (s *Stage) grow(ctx context.Context, id string, r *statepb.Record) {
	for _, m := range r.Members {
		h, err := state.Holdings.Get(ctx, s.c.Store, m.ReplicaId)
		if err == nil && h.Value.SizeBytes < r.SizeBytes {
			h.Value.SizeBytes = r.SizeBytes
			s.commit(ctx, state.Holdings.Replace(h.ID, h.Value, h.Revision))
			return
		}
	}
}

// destroy plays control and nodes for a volume that is deleted for good.
func (s *Stage) destroy(ctx context.Context, e state.Entry[*v1.Volume]) {
	ops := []state.Op{state.Volumes.Delete(e.ID, e.Revision), state.Records.Delete(e.ID, 0), state.Assignments.Delete(e.ID, 0), state.Verdicts.Delete(e.ID, 0)}
	a, err := state.Assignments.Get(ctx, s.c.Store, e.ID)
	if err == nil {
		for _, r := range a.Value.Replicas {
			ops = append(ops, state.Holdings.Delete(r.ReplicaId, 0))
		}
	}
	s.commit(ctx, ops...)
}

// head plays the node where a volume is attached, if it is up.
func (s *Stage) head(ctx context.Context, e state.Entry[*v1.Volume]) {
	have, err := state.AttachStatuses.Get(ctx, s.c.Store, e.ID)
	there := err == nil
	want, err := state.Attachments.Get(ctx, s.c.Store, e.ID)
	if err != nil {
		if there && s.alive(ctx, have.Value.NodeId) {
			s.commit(ctx, state.AttachStatuses.Delete(e.ID, have.Revision))
		}
		return
	}
	node := want.Value.Spec.NodeId
	r, err := state.Records.Get(ctx, s.c.Store, e.ID)
	if err != nil || !s.alive(ctx, node) {
		return
	}
	ops := []state.Op{}
	if !there || have.Value.NodeId != node {
		r.Value.Epoch++
		r.Value.OwnerNodeId = node
		ops = append(ops, state.Records.Replace(e.ID, r.Value, r.Revision))
	}
	st := &v1.AttachmentStatus{NodeId: node, State: v1.AttachmentState_ATTACHMENT_STATE_ATTACHED, Frontend: "fuse",
		SizeBytes: r.Value.SizeBytes, Device: "/dev/holdfast/" + e.Value.Meta.Name, MountPath: want.Value.Spec.MountPath, Epoch: r.Value.Epoch, Stats: &v1.IOStats{}, OfRevision: int64(want.Revision)}
	if there && proto.Equal(st, have.Value) {
		return
	}
	s.commit(ctx, append(ops, state.AttachStatuses.Put(e.ID, st))...)
}

func (s *Stage) alive(ctx context.Context, node string) bool {
	_, err := state.Alive.Get(ctx, s.c.Store, node)
	return err == nil
}

// snapshots plays the heads that take and delete snapshots.
func (s *Stage) snapshots(ctx context.Context) {
	all, _, err := state.Snapshots.List(ctx, s.c.Store)
	if err != nil {
		return
	}
	for _, e := range all {
		if e.Value.GetSpec().GetDeleted() {
			s.commit(ctx, state.Snapshots.Delete(e.ID, e.Revision), state.SnapshotStatuses.Delete(e.ID, 0))
			continue
		}
		if _, err := state.SnapshotStatuses.Get(ctx, s.c.Store, e.ID); err == nil {
			continue
		}
		r, err := state.Records.Get(ctx, s.c.Store, e.Value.Spec.VolumeId)
		if err != nil {
			continue
		}
		st := &v1.SnapshotStatus{Ready: true, Generation: r.Value.Generation, SizeBytes: r.Value.SizeBytes, Taken: e.Value.Meta.Created, ExclusiveBytes: 4096, Epoch: r.Value.Epoch}
		r.Value.Snapshots = append(slices.Clone(r.Value.Snapshots), r.Value.Generation)
		r.Value.Generation++
		s.commit(ctx, state.Records.Replace(r.ID, r.Value, r.Revision), state.SnapshotStatuses.Put(e.ID, st))
	}
}
