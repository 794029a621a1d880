package control

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// rig is a cluster whose nodes are played: they hold replicas, run heads, and change
// records as the real ones do, one change at a time. What replicas contain is a number,
// the count of writes that they have seen.
type rig struct {
	t      *testing.T
	ctx    context.Context
	store  *memory.Store
	now    time.Time
	last   state.Revision
	on     map[string]bool             // nodes that run
	data   map[string]int              // by replica that exists
	making map[string]*statepb.Holding // replicas that are about to exist
	where  map[string]string           // node of a replica
	writes map[string]int              // by volume: what was acknowledged
	given  map[string]bool             // volumes of which somebody gave up data
	random *rand.Rand

	seen    *view // what view has followed
	changes <-chan state.Batch
}

const gib = 1 << 30

// newRig makes a cluster of nodes n1 and so on, in zones by turns, with a pool of 100 GiB
// each.
func newRig(t *testing.T, s *memory.Store, nodes int) *rig {
	r := &rig{t: t, ctx: t.Context(), store: s, now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC), on: map[string]bool{}, data: map[string]int{}, where: map[string]string{}, making: map[string]*statepb.Holding{},
		writes: map[string]int{}, given: map[string]bool{}, random: rand.New(rand.NewPCG(1, 1))}
	for i := range nodes {
		r.join(fmt.Sprint("n", i+1), fmt.Sprint("z", i%3), 100*gib)
	}
	return r
}

func (r *rig) join(id, zone string, capacity int64) {
	pool := "p" + id
	r.do(state.Nodes.Create(id, &v1.Node{Meta: &v1.Meta{Id: id, Name: id}, Spec: &v1.NodeSpec{Zone: zone}}),
		state.Create(state.NameKey(state.KindNode, id), []byte(id)),
		state.Pools.Create(pool, &v1.Pool{Meta: &v1.Meta{Id: pool, Name: pool}, Spec: &v1.PoolSpec{NodeId: id}}),
		state.PoolStatuses.Put(pool, &v1.PoolStatus{Class: "ssd", CapacityBytes: capacity, Healthy: true}))
	if n := id[len(id)-1]; n%2 == 0 { // some have two pools
		r.do(state.Pools.Create(pool+"b", &v1.Pool{Meta: &v1.Meta{Id: pool + "b", Name: pool + "b"}, Spec: &v1.PoolSpec{NodeId: id}}),
			state.PoolStatuses.Put(pool+"b", &v1.PoolStatus{Class: "hdd", CapacityBytes: capacity, Healthy: true}))
	}
	r.start(id)
}

// do commits what must succeed.
func (r *rig) do(ops ...state.Op) {
	r.t.Helper()
	if !r.try(ops...) {
		r.t.Fatalf("the commit of %v failed", ops[0].Key)
	}
}

func (r *rig) try(ops ...state.Op) bool {
	at, err := r.store.Commit(r.ctx, ops...)
	if err != nil && !fault.Is(err, fault.Busy) {
		r.t.Fatal(err)
	}
	r.last = max(r.last, at)
	return err == nil
}

func (r *rig) start(node string) {
	r.on[node] = true
	r.do(state.Alive.Put(node, &emptypb.Empty{}))
}

func (r *rig) stop(node string) {
	r.on[node] = false
	r.do(state.Alive.Delete(node, 0))
}

// view returns what is there, by following the changes.
func (r *rig) view() *view {
	r.t.Helper()
	if r.seen == nil {
		r.seen = r.fresh()
		r.changes = r.store.Watch(r.ctx, state.Root, r.seen.revision)
	}
	for at := r.revision(); r.seen.revision < at; {
		b := patiently.From(r.t, r.changes)
		if b.Err != nil || r.seen.apply(b) != nil {
			r.t.Fatalf("the watch of the test ended: %v", b.Err)
		}
	}
	return r.seen
}

// fresh reads everything.
func (r *rig) fresh() *view {
	v, err := read(r.ctx, r.store)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *rig) volume(id string, change func(*v1.VolumeSpec)) {
	e, ok := r.view().volumes.get(id)
	if !ok {
		r.t.Fatalf("there is no volume %s", id)
	}
	next := proto.CloneOf(e.Value)
	change(next.Spec)
	r.do(state.Volumes.Replace(id, next, e.Revision))
}

func (r *rig) node(id string, change func(*v1.NodeSpec)) {
	e, ok := r.view().nodes.get(id)
	if !ok {
		r.t.Fatalf("there is no node %s", id)
	}
	next := proto.CloneOf(e.Value)
	change(next.Spec)
	r.do(state.Nodes.Replace(id, next, e.Revision))
}

func (r *rig) create(id string, s *v1.VolumeSpec) {
	ops := []state.Op{state.Volumes.Create(id, &v1.Volume{Meta: &v1.Meta{Id: id, Name: id}, Spec: s}), state.Create(state.NameKey(state.KindVolume, id), []byte(id))}
	if s.SourceSnapshotId != "" {
		ops = append(ops, state.Births.Create(state.BirthKey(s.SourceSnapshotId, id), &emptypb.Empty{}))
	}
	r.do(ops...)
}

func (r *rig) operation(id, kind, target string, parameters map[string]string) {
	r.do(state.Operations.Create(id, &v1.Operation{Id: id, Kind: kind, Target: target, TargetId: target, Parameters: parameters, Message: "waits to be taken up"}))
}

// leader returns a leader over a store, which may be mortal.
func (r *rig) leader(s state.Store) *leader {
	return &leader{store: s, still: state.Require("/holdfast/nobody else leads", 0), log: slog.New(slog.DiscardHandler), now: func() time.Time { return r.now },
		random: newCounter(r.random.Uint64()), node: "n1"}
}

// counter is randomness that repeats itself.
type counter struct{ *rand.ChaCha8 }

func newCounter(seed uint64) counter {
	return counter{rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})}
}

// play has the nodes do one thing each, and reports whether any did anything.
func (r *rig) play() (acted bool) {
	v := r.view()
	for _, id := range v.volumes.list() {
		acted = r.playHead(v, id) || acted
	}
	acted = r.made() || acted
	v = r.view()
	for _, id := range v.assignments.list() {
		for _, a := range v.assignments.value(id).Replicas {
			_, held := v.holdings.get(a.ReplicaId)
			_, doomed := v.condemned.get(a.ReplicaId)
			if held || doomed || !r.on[a.NodeId] || r.making[a.ReplicaId] != nil {
				continue
			}
			r.making[a.ReplicaId] = &statepb.Holding{ReplicaId: a.ReplicaId, VolumeId: id, NodeId: a.NodeId, PoolId: a.PoolId, Ready: true, UsedBytes: v.assignments.value(id).SizeBytes / 2}
			acted = true
		}
	}
	for id := range r.data { // machines that are not a part of the cluster any more
		if h := r.where[id]; h != "" && v.nodes.value(h) == nil {
			delete(r.data, id)
		}
	}
	for _, id := range v.condemned.list() {
		if h, held := v.holdings.get(id); held && r.on[h.Value.NodeId] {
			delete(r.data, id)
			r.do(state.Holdings.Delete(id, 0))
			acted = true
		}
	}
	if acted {
		r.usage()
	}
	return acted
}

// made ends the making of replicas, which takes a while in which much can change.
func (r *rig) made() (acted bool) {
	for _, id := range slices.Sorted(maps.Keys(r.making)) {
		h := r.making[id]
		delete(r.making, id)
		if r.on[h.NodeId] && r.view().nodes.value(h.NodeId) != nil {
			r.data[id], r.where[id] = 0, h.NodeId
			r.do(state.Holdings.Put(id, h))
			acted = true
		}
	}
	return acted
}

// usage has the pools say what they hold.
func (r *rig) usage() {
	v := r.view()
	used := map[string]int64{}
	for _, h := range v.holdings.entries {
		used[h.Value.PoolId] += h.Value.UsedBytes
	}
	for _, id := range v.pools.list() {
		if was := v.poolStatuses.value(id); was.UsedBytes != used[id] && r.on[v.pools.value(id).Spec.NodeId] {
			now := proto.CloneOf(was)
			now.UsedBytes = used[id]
			r.do(state.PoolStatuses.Put(id, now))
		}
	}
}

// playHead does one thing that a volume's head has to do, where it runs.
func (r *rig) playHead(v *view, id string) bool {
	a, rec := v.assignments.value(id), v.records.entries[id]
	if a == nil || rec.Value == nil {
		return false
	}
	on := a.TendedOn
	if at := v.attachments.value(id); at != nil {
		on = at.Spec.NodeId
	}
	if !r.on[on] {
		return false
	}
	next := proto.CloneOf(rec.Value)
	var more []state.Op
	if !r.headStep(v, a, next, on, &more) {
		return false
	}
	next.Version++
	done := r.try(append(more, state.Records.Replace(id, next, rec.Revision))...)
	if done && v.attachments.value(id) != nil {
		r.write(id, next)
	}
	return done
}

// write is acknowledged when every in-sync replica has it.
func (r *rig) write(id string, rec *statepb.Record) {
	for _, m := range rec.Members {
		if _, there := r.data[m.ReplicaId]; m.State == uint32(spec.InSync) && (!there || !r.on[m.NodeId]) {
			return // it waits
		}
	}
	r.writes[id]++
	for _, m := range rec.Members {
		if m.State == uint32(spec.InSync) {
			r.data[m.ReplicaId] = r.writes[id]
		}
	}
}

// fill writes to all volumes, as if they had been in use for a while.
func (r *rig) fill() {
	v := r.view()
	for id := range v.records.entries {
		r.write(id, v.records.value(id))
	}
}

func (r *rig) headStep(v *view, a *statepb.Assignment, rec *statepb.Record, on string, more *[]state.Op) bool {
	if rec.OwnerNodeId != on {
		rec.OwnerNodeId, rec.Epoch = on, rec.Epoch+1
		return true
	}
	good := func(but string) bool { // another in-sync member that is there
		return slices.ContainsFunc(rec.Members, func(m *statepb.Member) bool {
			_, there := r.data[m.ReplicaId]
			return m.ReplicaId != but && m.State == uint32(spec.InSync) && r.on[m.NodeId] && there
		})
	}
	for i, m := range rec.Members {
		at := slices.IndexFunc(a.Replicas, func(x *assigned) bool { return x.ReplicaId == m.ReplicaId })
		_, there := r.data[m.ReplicaId]
		switch {
		case m.State == uint32(spec.InSync) && (!r.on[m.NodeId] || !there) && good(m.ReplicaId):
			rec.Epoch++
			m.State, m.Since = uint32(spec.Outdated), rec.Epoch
			return true
		case (at < 0 || a.Replicas[at].Leaving) && good(m.ReplicaId):
			rec.Members = slices.Delete(rec.Members, i, i+1)
			rec.Epoch++
			return true
		case m.State != uint32(spec.InSync) && at >= 0 && !a.Replicas[at].Leaving && r.on[m.NodeId] && there && good(m.ReplicaId):
			rec.Epoch++
			m.State, m.Since = uint32(spec.InSync), 0
			r.data[m.ReplicaId] = r.writes[a.VolumeId]
			return true
		}
	}
	for _, x := range a.Replicas {
		if memberOf(rec, x.ReplicaId) == nil && !x.Leaving {
			rec.Members = append(rec.Members, &statepb.Member{ReplicaId: x.ReplicaId, NodeId: x.NodeId, State: uint32(spec.Outdated)})
			rec.Epoch++
			return true
		}
	}
	if rec.SizeBytes < a.SizeBytes && good("") {
		rec.SizeBytes = a.SizeBytes
		return true
	}
	return good("") && r.snapshotStep(v, a.VolumeId, rec, more)
}

// snapshotStep takes or deletes one snapshot.
func (r *rig) snapshotStep(v *view, volume string, rec *statepb.Record, more *[]state.Op) bool {
	_, attached := v.attachments.get(volume)
	for _, id := range v.snaps.of(volume) {
		snap, status := v.snapshots.value(id), v.snapStatuses.value(id)
		i := slices.Index(rec.Snapshots, status.GetGeneration())
		switch {
		case snap.Spec.Deleted && status != nil && i >= 0:
			rec.Snapshots = slices.Delete(rec.Snapshots, i, i+1)
			return true
		case !snap.Spec.Deleted && status == nil:
			rec.Snapshots = append(rec.Snapshots, rec.Generation)
			*more = append(*more, state.SnapshotStatuses.Create(id, &v1.SnapshotStatus{Ready: true, Generation: rec.Generation, Epoch: rec.Epoch, Idle: !attached}))
			rec.Generation++
			return true
		}
	}
	return false
}

// life is a leader with its watch.
type life struct {
	*leader
	changes <-chan state.Batch
}

func (r *rig) begin(s state.Store) (*life, error) {
	l := &life{leader: r.leader(s)}
	if err := l.load(r.ctx); err != nil {
		return l, err
	}
	l.changes = s.Watch(r.ctx, state.Root, l.revision)
	return l, nil
}

// turn has the leader hear of everything, and then do what it has to.
func (r *rig) turn(l *life) error {
	for l.revision < r.last {
		b, ok := patiently.Next(r.t, l.changes)
		if !ok || b.Err != nil {
			r.t.Fatalf("the watch ended: %v", b.Err)
		}
		if err := l.apply(b); err != nil {
			r.t.Fatal(err)
		}
	}
	_, err := l.leader.turn(r.ctx)
	return err
}

// settle lets leader and nodes go on until nobody has anything to do. It reports whether
// the leader lived.
func (r *rig) settle(l *life) bool {
	r.t.Helper()
	for range 2000 {
		before := r.revision()
		if err := r.turn(l); err != nil {
			return false
		}
		r.check()
		acted := r.play()
		r.check()
		if !acted && r.revision() == before {
			return true
		}
	}
	r.t.Fatal("it does not come to rest")
	return false
}

func (r *rig) revision() state.Revision {
	_, at, err := r.store.List(r.ctx, "/holdfast/cluster")
	if err != nil {
		r.t.Fatal(err)
	}
	return at
}

// check checks that of every volume a replica exists that has all that was acknowledged,
// and that the record counts none that has not.
func (r *rig) check() {
	r.t.Helper()
	v := r.view()
	for _, id := range v.records.list() {
		vol := v.volumes.value(id)
		if r.given[id] || r.writes[id] == 0 || vol == nil || vol.Spec.Deleting || v.assignments.value(id) == nil {
			continue
		}
		best := -1
		for _, m := range v.records.value(id).Members {
			if has, there := r.data[m.ReplicaId]; there {
				best = max(best, has)
				if m.State == uint32(spec.InSync) && has < r.writes[id] {
					r.t.Fatalf("volume %s: the record counts replica %s, which has %d of %d writes", id, m.ReplicaId, has, r.writes[id])
				}
			}
		}
		if best < r.writes[id] {
			r.t.Fatalf("volume %s: of %d writes, the best replica has %d: %v", id, r.writes[id], best, v.records.value(id))
		}
	}
}

// healthy checks that a volume has as many in-sync replicas as it wants, on different
// nodes that are there, and that nothing is left over.
func (r *rig) healthy(id string) {
	r.t.Helper()
	v := r.view()
	vol, a, rec := v.volumes.value(id), v.assignments.value(id), v.records.value(id)
	if vol == nil || a == nil || rec == nil {
		r.t.Errorf("volume %s is %v, with %v and %v", id, vol, a, rec)
		return
	}
	nodes := map[string]bool{}
	for _, x := range a.Replicas {
		nodes[x.NodeId] = true
		if m := memberOf(rec, x.ReplicaId); m == nil || m.State != uint32(spec.InSync) || x.Leaving || !r.on[x.NodeId] {
			r.t.Errorf("volume %s: replica %v is %v", id, x, m)
		}
	}
	if want := int(vol.Spec.Replicas); len(nodes) != want || len(a.Replicas) != want || len(rec.Members) != want {
		r.t.Errorf("volume %s wants %d replicas, and has %v and %v", id, want, a.Replicas, rec.Members)
	}
	if a.SizeBytes != vol.Spec.SizeBytes || rec.SizeBytes != vol.Spec.SizeBytes || a.TendedOn != "" {
		r.t.Errorf("volume %s: %v, %v, %v", id, vol.Spec, a, rec)
	}
}
