package control

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/state/statetest"
)

// chaos does whatever people and machines do, in an order that a seed decides.
type chaos struct {
	*rig
	n    int // for names
	life *life
}

func (c *chaos) chance(percent int) bool { return c.random.IntN(100) < percent }

func (c *chaos) one(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[c.random.IntN(len(list))]
}

func (c *chaos) name(kind string) string { c.n++; return fmt.Sprint(kind, c.n) }

// step does one thing.
func (c *chaos) step() {
	v := c.view()
	vol, node := c.one(v.volumes.list()), c.one(v.nodes.list())
	switch c.random.IntN(26) {
	case 0, 1, 2:
		if len(v.volumes.entries) < 10 {
			s := &v1.VolumeSpec{SizeBytes: int64(1+c.random.IntN(5)) * gib, Replicas: int32(1 + c.random.IntN(3))}
			if c.chance(20) {
				s.Placement = &v1.Placement{Spread: "zone"}
			}
			if c.chance(20) {
				s.Placement = &v1.Placement{Group: "g", GroupPolicy: "affinity"}
			}
			if snap := c.one(v.snapshots.list()); snap != "" && c.chance(30) {
				s.SourceSnapshotId = snap
			}
			c.create(c.name("v"), s)
		}
	case 3:
		if vol != "" && c.chance(50) {
			c.volume(vol, func(s *v1.VolumeSpec) { s.Deleting = true })
		} else if vol != "" && !v.volumes.value(vol).Spec.Deleting {
			c.volume(vol, func(s *v1.VolumeSpec) { s.Deleted = timestamppb.New(c.now) })
		}
	case 4:
		if vol != "" && !v.volumes.value(vol).Spec.Deleting {
			c.volume(vol, func(s *v1.VolumeSpec) { s.Deleted = nil })
		}
	case 5, 6:
		if vol != "" {
			c.volume(vol, func(s *v1.VolumeSpec) { s.Replicas = int32(1 + c.random.IntN(3)) })
		}
	case 7:
		if vol != "" {
			c.volume(vol, func(s *v1.VolumeSpec) { s.SizeBytes += gib })
		}
	case 8, 9:
		if down := len(v.nodes.entries) - len(v.alive.entries); c.on[node] && down < 2 {
			c.stop(node)
		}
	case 10, 11, 12:
		for _, n := range v.nodes.list() {
			if !c.on[n] && c.chance(60) {
				c.start(n)
			}
		}
	case 13:
		c.node(node, func(s *v1.NodeSpec) { s.Draining = !s.Draining && c.chance(50) })
		if v := c.view(); v.nodes.value(node).Spec.Draining {
			c.operation(c.name("op"), kindNodeDrain, node, nil)
		}
	case 14:
		c.node(node, func(s *v1.NodeSpec) { s.Cordoned = !s.Cordoned && c.chance(50); s.Maintenance = c.chance(10) })
	case 15, 16, 17:
		c.attach(v, vol, node)
	case 18:
		if a := v.assignments.value(vol); a != nil {
			p := map[string]string{paramReplica: a.Replicas[c.random.IntN(len(a.Replicas))].ReplicaId}
			if c.chance(50) {
				p[paramToNode] = node
			}
			c.operation(c.name("op"), kindVolumeMove, vol, p)
		}
	case 19:
		if op := c.one(slices.Sorted(maps.Keys(v.active))); op != "" && c.chance(50) {
			next := proto.CloneOf(v.operations.value(op))
			next.Canceled = true
			c.do(state.Operations.Replace(op, next, v.operations.entries[op].Revision))
		} else {
			c.operation(c.name("op"), kindRebalance, "cluster", map[string]string{paramDryRun: fmt.Sprint(c.chance(30))})
		}
	case 20:
		if vol != "" && c.chance(60) {
			id := c.name("s")
			c.do(state.Snapshots.Create(id, &v1.Snapshot{Meta: &v1.Meta{Id: id, Name: id}, Spec: &v1.SnapshotSpec{VolumeId: vol}}), state.Create(state.NameKey(state.KindSnapshot, id), []byte(id)))
		} else if id := c.one(v.snapshots.list()); id != "" {
			next := proto.CloneOf(v.snapshots.value(id))
			next.Spec.Deleted = true
			c.do(state.Snapshots.Replace(id, next, v.snapshots.entries[id].Revision))
		}
	case 21:
		pool := c.one(v.pools.list())
		s := proto.CloneOf(v.poolStatuses.value(pool))
		s.Healthy, s.UsedBytes = !s.Healthy || c.chance(80), int64(c.random.IntN(50))*gib
		c.do(state.PoolStatuses.Put(pool, s))
	case 22:
		c.now = c.now.Add(time.Duration(1+c.random.IntN(1200)) * time.Second)
	case 24:
		e := v.pools.entries[c.one(v.pools.list())]
		next := proto.CloneOf(e.Value)
		if next.Spec.Draining = !next.Spec.Draining && c.chance(50); next.Spec.Draining {
			c.operation(c.name("op"), kindPoolDrain, e.ID, nil)
		}
		c.do(state.Pools.Replace(e.ID, next, e.Revision))
	case 25:
		if len(v.policies.entries) < 2 {
			id := c.name("policy")
			c.do(state.Policies.Create(id, &v1.SnapshotPolicy{Meta: &v1.Meta{Id: id, Name: id}, Spec: &v1.SnapshotPolicySpec{
				Schedules: []*v1.SnapshotSchedule{{Kind: "interval", At: "10m", Keep: 2}}}}))
		} else if vol != "" {
			c.volume(vol, func(s *v1.VolumeSpec) { s.SnapshotPolicies = []string{c.one(v.policies.list())} })
		}
	case 23:
		if len(v.nodes.entries) > 4 && c.chance(20) {
			c.node(node, func(s *v1.NodeSpec) { s.Removed = true })
			c.operation(c.name("op"), kindNodeRemove, node, nil)
			c.join(c.name("m"), fmt.Sprint("z", c.random.IntN(3)), 100*gib)
		}
	}
}

func (c *chaos) attach(v *view, vol, node string) {
	e, attached := v.attachments.get(vol)
	switch {
	case attached && c.chance(60):
		if c.on[e.Value.Spec.NodeId] {
			c.do(state.Attachments.Delete(vol, e.Revision))
		} else {
			next := proto.CloneOf(e.Value)
			next.Spec.ForceDetach = true
			c.do(state.Attachments.Replace(vol, next, e.Revision))
		}
	case !attached && vol != "" && c.on[node] && v.volumes.value(vol).Spec.Deleted == nil && !v.volumes.value(vol).Spec.Deleting:
		c.do(state.Attachments.Create(vol, &v1.Attachment{VolumeId: vol, Spec: &v1.AttachmentSpec{NodeId: node}}))
	}
}

// lead has the leader take a turn: sometimes it does not know the latest, sometimes it
// dies in it.
func (c *chaos) lead() {
	if c.life == nil || c.chance(3) {
		s := state.Store(c.store)
		if c.chance(50) {
			s = statetest.NewMortal(c.store, 1+c.random.IntN(30), statetest.Death(c.random.IntN(2)))
		}
		l, err := c.begin(s)
		if err != nil {
			c.t.Fatal(err)
		}
		c.life = l
	}
	err := error(nil)
	if c.chance(20) {
		_, err = c.life.leader.turn(c.ctx)
	} else {
		err = c.turn(c.life)
	}
	if err != nil {
		c.life = nil
	}
}

// heal ends all troubles.
func (c *chaos) heal() {
	v := c.view()
	for _, n := range v.nodes.list() {
		if !c.on[n] {
			c.start(n)
		}
		c.node(n, func(s *v1.NodeSpec) { s.Draining, s.Cordoned, s.Maintenance = false, false, false })
	}
	for _, p := range v.pools.list() {
		next := proto.CloneOf(v.pools.value(p))
		next.Spec.Draining = false
		c.do(state.Pools.Put(p, next))
		c.do(state.PoolStatuses.Put(p, &v1.PoolStatus{Class: "ssd", CapacityBytes: 200 * gib, Healthy: true}))
	}
	for _, id := range v.attachments.list() {
		c.do(state.Attachments.Delete(id, 0))
	}
	for _, id := range v.volumes.list() {
		if !v.volumes.value(id).Spec.Deleting {
			c.volume(id, func(s *v1.VolumeSpec) { s.Deleted, s.Placement, s.SnapshotPolicies = nil, nil, nil })
		}
	}
}

// same compares what a leader has kept by following changes with what is there.
func (c *chaos) same(l *life) {
	c.t.Helper()
	fresh := c.fresh()
	for name, pair := range map[string][2]any{"shares": {l.shares, fresh.shares}, "pending": {l.pending, fresh.pending}, "fillings": {l.fillings, fresh.fillings},
		"at": {l.at, fresh.at}, "holds": {l.holds, fresh.holds}, "snaps": {l.snaps, fresh.snaps}, "attached": {l.attached, fresh.attached}, "active": {l.active, fresh.active},
		"room": {l.room().Room(""), fresh.room().Room("")}} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			c.t.Fatalf("%s: the leader believes %v, and there is %v", name, pair[0], pair[1])
		}
	}
	for id, t := range fresh.tables {
		if was, now := l.tables[id].list(), t.list(); !slices.Equal(was, now) {
			c.t.Fatalf("%s: the leader believes %v, and there is %v", id, was, now)
		}
	}
}

func TestWhateverHappensAllVolumesAreWellInTheEnd(t *testing.T) {
	first, seeds := uint64(0), uint64(15)
	if testing.Short() {
		seeds = 3
	}
	if n, err := strconv.ParseUint(os.Getenv("CONTROL_SEEDS"), 10, 64); err == nil {
		seeds = n // many, or one alone with CONTROL_SEED
	}
	if n, err := strconv.ParseUint(os.Getenv("CONTROL_SEED"), 10, 64); err == nil {
		first, seeds = n, 1
	}
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := memory.New()
			defer s.Close()
			c := &chaos{rig: newRig(t, s, 5)}
			c.random = rand.New(rand.NewPCG(seed, 3))
			for range 300 {
				c.step()
				c.check()
				if c.chance(70) {
					c.lead()
					c.check()
				}
				if c.chance(70) {
					c.play()
					c.check()
				}
				if c.life != nil && c.life.revision == c.last && c.chance(10) {
					c.same(c.life)
				}
			}
			c.heal()
			l, err := c.begin(c.store)
			if err != nil {
				t.Fatal(err)
			}
			for range 8 {
				if !c.settle(l) {
					t.Fatal("the leader ended")
				}
				c.same(l)
				c.now = c.now.Add(31 * time.Minute)
			}
			c.settle(l)
			c.allWell()
		})
	}
}

// allWell checks that nothing is left to do.
func (c *chaos) allWell() {
	c.t.Helper()
	v := c.view()
	for _, id := range v.volumes.list() {
		if v.volumes.value(id).Spec.Deleting {
			c.t.Errorf("volume %s is still there: %v", id, v.verdicts.value(id))
			continue
		}
		if c.hopeless(v, id) {
			continue
		}
		c.healthy(id)
		if x := v.verdicts.value(id); x != nil {
			c.t.Errorf("volume %s is well, and the verdict is %v", id, x)
		}
	}
	for id := range v.active {
		c.t.Errorf("operation %v does not end", v.operations.value(id))
		for _, x := range v.operations.value(id).Steps {
			c.t.Logf("volume %s: %v %v %v", x.VolumeId, v.volumes.value(x.VolumeId), v.assignments.value(x.VolumeId), v.verdicts.value(x.VolumeId))
		}
	}
	for _, id := range v.snapshots.list() {
		if v.snapshots.value(id).Spec.Deleted {
			vol := v.snapshots.value(id).Spec.VolumeId
			c.t.Errorf("snapshot %s is still there: status %v of volume %v, record %v, assigned %v", id, v.snapStatuses.value(id), v.volumes.value(vol), v.records.value(vol), v.assignments.value(vol))
		}
	}
	for key, id := range v.names {
		if v.volumes.value(id) == nil && v.snapshots.value(id) == nil && v.nodes.value(id) == nil {
			c.t.Errorf("the name %s of %s is not free", key, id)
		}
	}
	c.clean()
}

// hopeless reports whether a volume begins with a snapshot that there is not, and will
// not be.
func (c *chaos) hopeless(v *view, id string) bool {
	source := v.volumes.value(id).Spec.SourceSnapshotId
	if source == "" || v.records.value(id) != nil {
		return false
	}
	of := v.snapshots.value(source).GetSpec().GetVolumeId()
	return v.volumes.value(of) == nil || c.hopeless(v, of)
}
