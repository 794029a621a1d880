package node

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/pool"
	"github.com/holdfast-io/holdfast/internal/state"
)

// reportEvery is how often a node looks at itself.
const reportEvery = 10 * time.Second

// report says what this node and its pools are, at the beginning and when it changes.
func (d *daemon) report(ctx context.Context) {
	said := map[string]proto.Message{}
	for tick := time.NewTicker(reportEvery); ; {
		d.reportNode(ctx, said)
		for _, p := range d.open() {
			d.reportPool(ctx, said, p)
			d.revive(ctx, p)
		}
		d.tryShut(ctx, said)
		d.node.do(d.node.expel)
		select {
		case <-tick.C:
		case <-d.node.troubled:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

// reportNode writes the node's status.
func (d *daemon) reportNode(ctx context.Context, said map[string]proto.Message) {
	now := &v1.NodeStatus{ApiAddress: d.o.API, DataAddress: d.o.Advertise, Version: d.o.Version,
		Incarnation: d.node.incarnation, Boot: strconv.FormatUint(d.node.boot, 16)}
	if was := said["node"]; was != nil {
		now.Seen = was.(*v1.NodeStatus).Seen
		if proto.Equal(was, now) {
			return
		}
	}
	now.Seen = timestamppb.Now()
	if d.commit(ctx, state.NodeStatuses.Put(d.o.Node.String(), now)) {
		said["node"] = now
	}
}

// reportPool makes the pool known to the cluster, and writes its status.
func (d *daemon) reportPool(ctx context.Context, said map[string]proto.Message, p *ownPool) {
	now := d.poolStatus(p)
	if was := said[p.id]; was != nil && alike(was.(*v1.PoolStatus), now) {
		return
	}
	if said[p.id] == nil {
		name := d.o.Name + "-" + p.id[:8]
		_, err := d.o.Store.Commit(ctx, state.Create(state.NameKey(state.KindPool, name), []byte(p.id)), state.Pools.Create(p.id, &v1.Pool{
			Meta: &v1.Meta{Id: p.id, Name: name, Created: timestamppb.New(p.pool.Identity().Created)},
			Spec: &v1.PoolSpec{NodeId: d.o.Node.String()},
		}))
		if err != nil && !fault.Is(err, fault.Busy) { // it is known
			return
		}
	}
	if d.commit(ctx, state.PoolStatuses.Put(p.id, now)) {
		said[p.id] = now
	}
}

// alike reports whether two statuses differ by less than is worth writing.
func alike(was, now *v1.PoolStatus) bool {
	const worth = 64 << 20
	was = proto.CloneOf(was)
	if d := was.UsedBytes - now.UsedBytes; d > -worth && d < worth {
		was.UsedBytes = now.UsedBytes
	}
	return proto.Equal(was, now)
}

func (d *daemon) poolStatus(p *ownPool) *v1.PoolStatus {
	identity, health := p.pool.Identity(), p.pool.Health()
	s := &v1.PoolStatus{Path: p.pool.Path(), Class: string(identity.Class), Healthy: health.State == pool.Ready}
	if u, err := p.pool.Space().Usage(); err == nil {
		s.CapacityBytes, s.UsedBytes, s.ReserveBytes = u.Capacity, u.Used, u.Reserve
	}
	d.node.do(func() {
		for _, r := range d.node.residents {
			if r.pool == p {
				s.Replicas++
			}
		}
	})
	if !s.Healthy {
		s.Conditions = []*v1.Condition{{Type: string(health.State), Status: true, Reason: string(health.State),
			Message: health.Reason + "; " + health.Cure}}
	}
	return s
}

// commit writes, and reports whether that went well; if not it is tried again later.
func (d *daemon) commit(ctx context.Context, ops ...state.Op) bool {
	_, err := d.o.Store.Commit(ctx, ops...)
	if err != nil && ctx.Err() == nil {
		d.o.Log.Warn("the cluster's state can't be written now", "err", err)
	}
	return err == nil
}
