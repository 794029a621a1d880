package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
	"github.com/holdfast-io/holdfast/internal/state/statetest"
)

// story is something that a leader has to bring to its end, however often it dies.
type story struct {
	name  string
	nodes int
	begin func(r *rig) // what is so before, without a leader in the way
	then  func(r *rig) // what is asked, once that has settled
	check func(r *rig)
}

var stories = []story{
	{"create", 3, func(*rig) {}, func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3}) }, func(r *rig) { r.healthy("v") }},
	{"grow and more replicas", 3,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 1}) },
		func(r *rig) { r.volume("v", func(s *v1.VolumeSpec) { s.SizeBytes, s.Replicas = 2*gib, 3 }) },
		func(r *rig) { r.healthy("v") }},
	{"fewer replicas", 3,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3}) },
		func(r *rig) { r.volume("v", func(s *v1.VolumeSpec) { s.Replicas = 1 }) },
		func(r *rig) { r.healthy("v"); r.clean() }},
	{"delete", 3,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2}) },
		func(r *rig) { r.volume("v", func(s *v1.VolumeSpec) { s.Deleting = true }) },
		func(r *rig) { r.gone("v"); r.clean() }},
	{"the trash is emptied in time", 3,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2}) },
		func(r *rig) {
			r.volume("v", func(s *v1.VolumeSpec) { s.Deleted = timestamppb.New(r.now.Add(-25 * time.Hour)) })
		},
		func(r *rig) { r.gone("v"); r.clean() }},
	{"a node stays away", 4,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3}) },
		func(r *rig) { r.stop(r.holders("v")[1]); r.now = r.now.Add(time.Second) },
		func(r *rig) { r.healthy("v") }},
	{"a node is drained", 4,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3}) },
		func(r *rig) {
			n := r.holders("v")[0]
			r.node(n, func(s *v1.NodeSpec) { s.Draining = true })
			r.operation("op", kindNodeDrain, n, nil)
		},
		func(r *rig) { r.healthy("v"); r.ended("op", ""); r.clean() }},
	{"a node is removed", 4,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3}) },
		func(r *rig) {
			n := r.holders("v")[0]
			r.node(n, func(s *v1.NodeSpec) { s.Removed = true })
			r.operation("op", kindNodeRemove, n, nil)
		},
		func(r *rig) {
			r.healthy("v")
			r.ended("op", "")
			if v := r.view(); len(v.nodes.entries) != 3 || len(v.pools.entries) != len(v.poolStatuses.entries) || len(v.poolsOf) != 3 {
				r.t.Errorf("nodes %v, pools %v", v.nodes.list(), v.pools.list())
			}
		}},
	{"a replica moves", 3,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 1}) },
		func(r *rig) {
			a := r.view().assignments.value("v").Replicas[0]
			to := map[string]string{"n1": "n2", "n2": "n3", "n3": "n1"}[a.NodeId]
			r.operation("op", kindVolumeMove, "v", map[string]string{paramReplica: a.ReplicaId, paramToNode: to})
		},
		func(r *rig) { r.healthy("v"); r.ended("op", ""); r.clean() }},
	{"a pool is drained", 4,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3}) },
		func(r *rig) {
			pool := r.view().assignments.value("v").Replicas[2].PoolId
			e := r.view().pools.entries[pool]
			next := proto.CloneOf(e.Value)
			next.Spec.Draining = true
			r.do(state.Pools.Replace(pool, next, e.Revision))
			r.operation("op", kindPoolDrain, pool, nil)
		},
		func(r *rig) { r.healthy("v"); r.ended("op", ""); r.clean() }},
	{"a node is removed by force with the only copy", 3,
		func(r *rig) {
			r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 1})
			r.create("w", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
		},
		func(r *rig) {
			n := r.holders("v")[0]
			r.given["v"] = true
			r.stop(n)
			r.node(n, func(s *v1.NodeSpec) { s.Removed = true })
			r.operation("op", kindNodeRemove, n, map[string]string{paramForce: "true"})
		},
		func(r *rig) { r.healthy("w"); r.ended("op", "") }},
	{"pools are made even", 3,
		func(r *rig) {
			for i := range 8 {
				r.create(fmt.Sprint("v", i), &v1.VolumeSpec{SizeBytes: 4 * gib, Replicas: 1, Placement: &v1.Placement{Nodes: []string{"n1"}}})
			}
		},
		func(r *rig) {
			for i := range 8 {
				r.volume(fmt.Sprint("v", i), func(s *v1.VolumeSpec) { s.Placement = nil })
			}
			r.operation("op", kindRebalance, "cluster", nil)
		},
		func(r *rig) {
			for i := range 8 {
				r.healthy(fmt.Sprint("v", i))
			}
			r.ended("op", "")
			r.clean()
			if n := len(r.view().at["n1"]); n > 4 {
				r.t.Errorf("%d of 8 volumes are still on n1", n)
			}
		}},
	{"a snapshot is cloned and deleted", 4,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2}) },
		func(r *rig) {
			r.do(state.Snapshots.Create("s", &v1.Snapshot{Meta: &v1.Meta{Id: "s", Name: "s"}, Spec: &v1.SnapshotSpec{VolumeId: "v"}}),
				state.Create(state.NameKey(state.KindSnapshot, "s"), []byte("s")))
			r.create("c", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2, SourceSnapshotId: "s"})
		},
		func(r *rig) {
			r.healthy("c")
			e := r.view().snapshots.entries["s"]
			next := proto.CloneOf(e.Value)
			next.Spec.Deleted = true
			r.do(state.Snapshots.Replace("s", next, e.Revision))
			l, err := r.begin(r.store)
			if err != nil {
				r.t.Fatal(err)
			}
			r.settle(l)
			if v := r.view(); len(v.snapshots.entries)+len(v.snapStatuses.entries) > 0 || v.names[state.NameKey(state.KindSnapshot, "s")] != "" || len(v.records.value("v").Snapshots) > 0 {
				r.t.Errorf("the snapshot is still there: %v", v.snapshots.entries)
			}
			r.healthy("v")
			r.healthy("c")
		}},
	{"snapshots by the clock", 3,
		func(r *rig) {
			r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2, SnapshotPolicies: []string{"p"}})
			r.do(state.Policies.Create("p", &v1.SnapshotPolicy{Meta: &v1.Meta{Id: "p", Name: "p"}, Spec: &v1.SnapshotPolicySpec{
				Schedules: []*v1.SnapshotSchedule{{Kind: "interval", At: "11m", Keep: 2}}}}))
			r.do(state.Attachments.Create("v", &v1.Attachment{VolumeId: "v", Spec: &v1.AttachmentSpec{NodeId: "n1"}}))
		},
		func(r *rig) { r.now = r.now.Add(11 * time.Minute) },
		func(r *rig) {
			v := r.view()
			if n := len(v.snapshots.entries); n != 2 || len(v.records.value("v").Snapshots) != 2 || len(v.marks.entries) != 1 {
				r.t.Errorf("there are %v, marks %v, record %v", v.snapshots.list(), v.marks.list(), v.records.value("v"))
			}
		}},
	{"a stray is deleted in time", 3,
		func(r *rig) { r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2}) },
		func(r *rig) {
			r.set(&v1.ClusterSettings{OrphanGrace: durationpb.New(10 * time.Minute)})
			r.data["old"], r.where["old"] = 0, "n1"
			r.do(state.Holdings.Put("old", &statepb.Holding{ReplicaId: "old", VolumeId: "v", NodeId: "n1", PoolId: "pn1", Ready: true}))
		},
		func(r *rig) { r.healthy("v"); r.clean() }},
}

// clean checks that no replica is condemned, a stray, or there for nothing.
func (r *rig) clean() {
	r.t.Helper()
	v := r.view()
	want := 0
	for id := range v.assignments.entries {
		want += len(v.assignments.value(id).Replicas)
	}
	for _, id := range v.condemned.list() {
		if h := v.holdings.value(id); h != nil {
			r.t.Errorf("%v is condemned, and still there", h)
		}
	}
	if len(v.strays.entries) > 0 || len(r.data) != want || len(v.holdings.entries) != want {
		r.t.Errorf("condemned %v, strays %v, %d replicas, %d holdings; want %d", v.condemned.list(), v.strays.list(), len(r.data), len(v.holdings.entries), want)
		for _, id := range v.holdings.list() {
			if h := v.holdings.value(id); !slices.ContainsFunc(v.assignments.value(h.VolumeId).GetReplicas(), func(x *assigned) bool { return x.ReplicaId == id }) {
				r.t.Errorf("nobody expects %v, of volume %v, record %v", h, v.volumes.value(h.VolumeId), v.records.value(h.VolumeId))
			}
		}
	}
}

// gone checks that nothing is known of a volume.
func (r *rig) gone(id string) {
	r.t.Helper()
	v := r.view()
	_, a := v.volumes.get(id)
	_, b := v.assignments.get(id)
	_, c := v.records.get(id)
	if a || b || c || len(v.snaps[id]) > 0 || len(v.verdicts.entries) > 0 || v.names["/holdfast/names/volume/"+id] != "" {
		r.t.Errorf("volume %s is not gone: %v %v %v %v", id, a, b, c, v.names)
	}
}

func (r *rig) ended(op, wrong string) {
	r.t.Helper()
	if o := r.view().operations.value(op); !o.Done || o.Error != wrong {
		r.t.Errorf("operation %s is %v, want it done with error %q", op, o, wrong)
	}
}

// holders returns the nodes of a volume's replicas.
func (r *rig) holders(id string) (nodes []string) {
	for _, x := range r.view().assignments.value(id).GetReplicas() {
		nodes = append(nodes, x.NodeId)
	}
	return nodes
}

// run lets a leader live until it has nothing to do even later.
func (r *rig) run(l *life) bool {
	for range 3 {
		if !r.settle(l) {
			return false
		}
		r.now = r.now.Add(11 * time.Minute)
	}
	return r.settle(l)
}

func TestEveryStoryEndsWellWhereverTheLeaderDies(t *testing.T) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			statetest.KillAtEveryCommit(t, func(t *testing.T, k statetest.Killed) {
				r := newRig(t, k.Store, s.nodes)
				s.begin(r)
				first, err := r.begin(k.Store)
				if err != nil {
					t.Fatal(err)
				}
				r.settle(first)
				r.fill()
				s.then(r)
				if l, err := r.begin(k.Mortal); err == nil && r.run(l) {
					s.check(r)
					return
				}
				next, err := r.begin(k.Store)
				if err != nil {
					t.Fatal(err)
				}
				r.run(next)
				s.check(r)
			})
		})
	}
}

func TestCreateSaysWhyThereIsNoPlace(t *testing.T) {
	r := newRig(t, memory.New(), 3)
	l, _ := r.begin(r.store)
	r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 4})
	r.settle(l)
	v := r.view().verdicts.value("v")
	if len(v.GetConditions()) != 1 || v.Conditions[0].Type != Placed || v.Conditions[0].Status {
		t.Fatalf("the verdict is %v", v)
	}
	want := "needs 4 nodes, the cluster has 3: 4 pools are on nodes that hold a replica already (n1, n2, n3); add nodes, or ask for fewer replicas"
	if got := v.Conditions[0].Message; got != want {
		t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
	r.join("n4", "z0", 100*gib)
	r.settle(l)
	r.healthy("v")
	if v := r.view().verdicts.value("v"); v != nil {
		t.Errorf("the verdict is still %v", v)
	}
}
