package node

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
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
}

func newHolder(d *daemon) *holder {
	return &holder{d: d, node: d.o.Node.String(), said: map[string]*statepb.Holding{}}
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
	assigned := v.assignments.Feed()
	defer assigned.Close()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-assigned.Some():
			for _, id := range assigned.Take() {
				h.bring(ctx, id)
			}
		case <-look.C:
			for _, e := range v.assignments.List() {
				h.bring(ctx, e.ID)
			}
		case <-ctx.Done():
			return
		}
	}
}

// bring makes what a volume's assignment wants here, and deletes what it no longer does.
func (h *holder) bring(ctx context.Context, volume string) {
	e, ok := h.d.view.assignments.Get(volume)
	wanted := map[string]bool{}
	if ok {
		for _, r := range e.Value.Replicas {
			if r.NodeId == h.node {
				wanted[r.ReplicaId] = true
				h.say(ctx, h.make(ctx, e.Value, r))
			}
		}
	}
	for id, said := range h.said {
		if said.VolumeId == volume && !wanted[id] {
			h.give(ctx, said)
		}
	}
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
		err = h.ensure(ctx, p, s)
	}
	if err != nil {
		said.Problem = err.Error()
		return said
	}
	h.d.node.do(func() {
		if r := h.d.node.residents[s.Replica]; r != nil {
			m := r.store.Manifest()
			said.Ready, said.SizeBytes, said.Generation = true, m.Size, uint32(m.Generation)
			if err := r.store.Err(); err != nil {
				said.Ready, said.Problem = false, err.Error()
			}
		}
	})
	said.UsedBytes = p.usedBytes(s.Volume)
	return said
}

// ensure makes the replica if it is not there. One of the same volume that was given up
// is in its way, and goes.
func (h *holder) ensure(ctx context.Context, p *ownPool, s store.Spec) error {
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
		if err := p.remove(ctx, other); err != nil {
			return err
		}
	}
	h.d.o.Log.Info("making a replica", "volume", s.Volume, "replica", s.Replica, "pool", p.pool.Path())
	return p.create(ctx, s)
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

// give deletes a replica that no assignment names any more, and says so. It does that
// only to what the state knows that it is here: a state that was restored from an old
// dump knows less, and must not cost data.
func (h *holder) give(ctx context.Context, said *statepb.Holding) {
	id, err := block.ParseReplicaID(said.ReplicaId)
	if err != nil {
		h.d.o.Log.Error("a holding that is none", "holding", said.ReplicaId, "err", err)
		return
	}
	var r *resident
	h.d.node.do(func() { r = h.d.node.residents[id] })
	if r != nil {
		h.d.o.Log.Info("deleting a replica", "volume", said.VolumeId, "replica", said.ReplicaId)
		if err := r.pool.remove(ctx, r); err != nil && !fault.Is(err, fault.Busy) {
			h.d.o.Log.Error("a replica can't be deleted", "replica", said.ReplicaId, "err", err)
			return
		}
	}
	if _, err := h.d.o.Store.Commit(ctx, state.Holdings.Delete(said.ReplicaId, 0)); err != nil {
		return // the next look tries again
	}
	delete(h.said, said.ReplicaId)
}

// poolOf returns the open pool of that id, or nil.
func (d *daemon) poolOf(id string) *ownPool {
	for _, p := range d.pools {
		if p.id == id {
			return p
		}
	}
	return nil
}
