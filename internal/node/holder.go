package node

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
	"github.com/holdfast-io/holdfast/internal/store"
)

// holder makes and deletes the replicas that are assigned to this node, and says what it
// holds. It is one goroutine.
type holder struct {
	d    *daemon
	node string
	said map[string]*statepb.Holding // by replica; what the state has, as far as is known

	poolBack chan struct{} // has a value when a pool was opened that could not be before
}

func newHolder(d *daemon) *holder {
	return &holder{d: d, node: d.o.Node.String(), said: map[string]*statepb.Holding{}, poolBack: make(chan struct{}, 1)}
}

// again has the holder look at everything soon.
func (h *holder) again() {
	select {
	case h.poolBack <- struct{}{}:
	default: // it is about to
	}
}

// lookEvery is how often usage is looked at, and what failed is tried again.
const lookEvery = 30 * time.Second

// run brings replicas toward assignments until ctx ends.
func (h *holder) run(ctx context.Context) {
	v := h.d.view
	if v.ready(ctx) != nil {
		return
	}
	for _, e := range v.holdings.List() {
		if e.Value.NodeId == h.node {
			h.said[e.ID] = e.Value
		}
	}
	assigned, condemned := v.assignments.Feed(), v.condemned.Feed()
	defer assigned.Close()
	defer condemned.Close()
	h.sayAll(ctx)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-assigned.Some():
			for _, id := range assigned.Take() {
				h.bring(ctx, id)
			}
		case <-condemned.Some():
			for _, id := range condemned.Take() {
				if e, ok := v.condemned.Get(id); ok && e.Value.NodeId == h.node {
					h.give(ctx, e.Value)
				}
			}
		case <-look.C:
			h.lookAgain(ctx)
		case <-h.poolBack:
			h.lookAgain(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// lookAgain brings all replicas toward what is assigned, and says what is new of them.
func (h *holder) lookAgain(ctx context.Context) {
	v := h.d.view
	for _, e := range v.condemned.List() {
		if e.Value.NodeId == h.node {
			h.give(ctx, e.Value)
		}
	}
	for _, e := range v.assignments.List() {
		h.bring(ctx, e.ID)
	}
	h.sayAll(ctx)
}

// bring makes what a volume's assignment wants here.
func (h *holder) bring(ctx context.Context, volume string) {
	e, ok := h.d.view.assignments.Get(volume)
	if !ok {
		return
	}
	for _, r := range e.Value.Replicas {
		_, doomed := h.d.view.condemned.Get(r.ReplicaId)
		if r.NodeId == h.node && !doomed {
			h.say(ctx, h.make(ctx, e.Value, r))
		}
	}
}

// sayAll says what lies here whether or not anybody expects it.
func (h *holder) sayAll(ctx context.Context) {
	var all []*statepb.Holding
	h.d.node.do(func() {
		for _, r := range h.d.node.residents {
			all = append(all, r.holding(h.node))
		}
	})
	for _, now := range all {
		if v, err := block.ParseVolumeID(now.VolumeId); err == nil {
			if p := h.d.poolOf(now.PoolId); p != nil {
				now.UsedBytes = p.usedBytes(v)
			}
		}
		h.say(ctx, now)
	}
}

// holding returns what can be said of a replica. The loop's.
func (r *resident) holding(node string) *statepb.Holding {
	m := r.store.Manifest()
	said := &statepb.Holding{ReplicaId: r.id.String(), VolumeId: r.volume.String(), NodeId: node, PoolId: r.pool.id,
		Ready: true, SizeBytes: m.Size, Generation: uint32(m.Generation)}
	if err := r.store.Err(); err != nil {
		said.Ready, said.Problem = false, err.Error()
	}
	return said
}

// make makes sure of a replica, and returns what can be said of it.
func (h *holder) make(ctx context.Context, a *statepb.Assignment, want *statepb.AssignedReplica) *statepb.Holding {
	said := &statepb.Holding{ReplicaId: want.ReplicaId, VolumeId: a.VolumeId, NodeId: h.node, PoolId: want.PoolId}
	p := h.d.poolOf(want.PoolId)
	if p == nil {
		said.Problem = fmt.Sprintf("pool %s is not open on this node; see its status, and restart the node when its disk is there", want.PoolId)
		return said
	}
	s := store.Spec{Size: a.SizeBytes}
	err := s.Volume.UnmarshalText([]byte(a.VolumeId))
	if err == nil {
		err = s.Replica.UnmarshalText([]byte(want.ReplicaId))
	}
	if err == nil {
		err = h.ensure(ctx, p, s, a)
	}
	if err != nil {
		if ctx.Err() == nil {
			h.d.o.Log.Warn("a replica can't be made", "volume", a.VolumeId, "replica", want.ReplicaId, "err", err)
		}
		said.Problem = err.Error()
		return said
	}
	h.d.node.do(func() {
		if r := h.d.node.residents[s.Replica]; r != nil {
			said = r.holding(h.node)
		}
	})
	said.UsedBytes = p.usedBytes(s.Volume)
	return said
}

// ensure makes the replica if it is not there.
func (h *holder) ensure(ctx context.Context, p *ownPool, s store.Spec, a *statepb.Assignment) error {
	var there bool
	var other *resident
	h.d.node.do(func() {
		there = h.d.node.residents[s.Replica] != nil
		for _, r := range h.d.node.residents {
			if r.volume == s.Volume && r.pool == p && r.id != s.Replica {
				other = r
			}
		}
	})
	if there {
		return nil
	}
	if other != nil {
		return fault.E("node.hold", fault.Busy, s.Volume, fmt.Errorf("replica %v of the same volume is in this pool, and not deleted yet", other.id))
	}
	h.d.o.Log.Info("making a replica", "volume", s.Volume, "replica", s.Replica, "pool", p.pool.Path())
	if a.SourceVolumeId == "" {
		return p.create(ctx, s)
	}
	rec, _, err := stateRecords{h.d.o.Store}.get(ctx, a.VolumeId)
	if err != nil {
		return err
	}
	if m := rec.Find(s.Replica); m < 0 || rec.Members[m].State != spec.InSync {
		return p.create(ctx, s) // it is filled from the others
	}
	source, err := block.ParseVolumeID(a.SourceVolumeId)
	if err != nil {
		return err
	}
	return p.clone(ctx, source, block.Generation(a.SourceGeneration), s)
}

// say writes a holding if it differs from what was written.
func (h *holder) say(ctx context.Context, now *statepb.Holding) {
	if was := h.said[now.ReplicaId]; was != nil && proto.Equal(was, now) {
		return
	}
	if _, err := h.d.o.Store.Commit(ctx, state.Holdings.Put(now.ReplicaId, now)); err != nil {
		if ctx.Err() == nil {
			h.d.o.Log.Warn("what this node holds can't be said now", "replica", now.ReplicaId, "err", err)
		}
		return // the next look tries again
	}
	h.said[now.ReplicaId] = now
}

// give deletes a replica that was condemned, and says so. Nothing else deletes one: a
// state that was restored from an old dump knows less, and must not cost data.
func (h *holder) give(ctx context.Context, c *statepb.Condemned) {
	id, err := block.ParseReplicaID(c.ReplicaId)
	if err != nil {
		h.d.o.Log.Error("a condemned replica that is none", "replica", c.ReplicaId, "err", err)
		return
	}
	var r *resident
	h.d.node.do(func() { r = h.d.node.residents[id] })
	if r == nil && h.d.maybeShut(c.PoolId) {
		return // it may be there, and is deleted when its pool is open
	}
	if r != nil {
		h.d.o.Log.Info("deleting a replica", "volume", c.VolumeId, "replica", c.ReplicaId, "why", c.Reason)
		if err := r.pool.remove(ctx, r); err != nil {
			h.d.o.Log.Error("a replica can't be deleted", "replica", c.ReplicaId, "err", err)
			return
		}
	}
	if _, err := h.d.o.Store.Commit(ctx, state.Holdings.Delete(c.ReplicaId, 0)); err != nil {
		return // the next look tries again
	}
	delete(h.said, c.ReplicaId)
}

// poolOf returns the open pool of that id, or nil.
func (d *daemon) poolOf(id string) *ownPool {
	for _, p := range d.open() {
		if p.id == id {
			return p
		}
	}
	return nil
}
