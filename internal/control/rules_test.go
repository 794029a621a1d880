package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// stage is a rig with a leader that lives.
type stage struct {
	*rig
	l *life
}

func newStage(t *testing.T, nodes int) *stage {
	s := memory.New()
	t.Cleanup(func() { s.Close() })
	r := newRig(t, s, nodes)
	l, err := r.begin(s)
	if err != nil {
		t.Fatal(err)
	}
	return &stage{r, l}
}

func (s *stage) rest() { s.t.Helper(); s.settle(s.l) }

func (s *stage) later(d time.Duration) { s.now = s.now.Add(d); s.rest() }

func (r *rig) set(settings *v1.ClusterSettings) {
	r.do(state.Settings.Put(state.SettingsID, settings))
}

// reason is that of a volume's condition of the type.
func (s *stage) reason(volume, typ string) string {
	for _, c := range s.view().verdicts.value(volume).GetConditions() {
		if c.Type == typ {
			return c.Reason
		}
	}
	return ""
}

// events returns the reasons of the events about an object.
func (s *stage) events(object string) (reasons []string) {
	v := s.view()
	for _, id := range v.events.list() {
		if e := v.events.value(id); e.Object == object {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

func TestALostNodeIsRepairedAfterTheDelayAndNotBefore(t *testing.T) {
	s := newStage(t, 4)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3})
	s.rest()
	lost := s.holders("v")[0]
	s.stop(lost)
	s.rest()
	s.later(9 * time.Minute)
	if got := s.reason("v", Repaired); got != "Away" || !slices.Contains(s.holders("v"), lost) {
		t.Errorf("after 9 minutes the reason is %q, and the replicas are on %v", got, s.holders("v"))
	}
	s.later(2 * time.Minute)
	if slices.Contains(s.holders("v"), lost) {
		t.Errorf("after 11 minutes a replica is still on %s", lost)
	}
	s.healthy("v")
	if got := s.events("node/" + lost); !slices.Equal(got, []string{"NodeDown"}) {
		t.Errorf("the events of the node are %v", got)
	}
	s.start(lost)
	s.rest()
	s.clean() // the old replica went when its node was back
	if got := s.events("node/" + lost); !slices.Equal(got, []string{"NodeDown", "NodeUp"}) {
		t.Errorf("the events of the node are %v", got)
	}
}

func TestTheDelayGoesOnUnderAnotherLeader(t *testing.T) {
	s := newStage(t, 4)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	s.rest()
	lost := s.holders("v")[0]
	s.stop(lost)
	s.rest()
	s.later(6 * time.Minute)
	var err error
	if s.l, err = s.begin(s.store); err != nil {
		t.Fatal(err)
	}
	s.later(5 * time.Minute)
	if slices.Contains(s.holders("v"), lost) {
		t.Error("the second leader began to count anew")
	}
}

func TestNothingIsRebuiltWhen(t *testing.T) {
	for _, tt := range []struct {
		reason string
		do     func(s *stage, lost string)
		nodes  int
	}{
		{"Maintenance", func(s *stage, lost string) { s.node(lost, func(n *v1.NodeSpec) { n.Maintenance = true }) }, 4},
		{"Paused", func(s *stage, _ string) { s.volume("v", func(v *v1.VolumeSpec) { v.RepairPaused = true }) }, 4},
		{"RebuildsOff", func(s *stage, _ string) { s.set(&v1.ClusterSettings{RebuildsMax: proto.Int32(0)}) }, 4},
		{"Away", func(s *stage, _ string) { s.set(&v1.ClusterSettings{RepairDelay: durationpb.New(time.Hour)}) }, 4},
		{"NoPlace", func(s *stage, _ string) {}, 3},
		{"TooManyDown", func(s *stage, lost string) {
			held := s.holders("v")
			for _, n := range []string{"n1", "n2", "n3", "n4", "n5", "n6"} {
				if !slices.Contains(held, n) {
					s.stop(n)
				}
			}
		}, 6},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			s := newStage(t, tt.nodes)
			s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3})
			s.rest()
			before := s.holders("v")
			tt.do(s, before[1])
			s.stop(before[1])
			s.rest()
			s.later(15 * time.Minute)
			if got := s.reason("v", Repaired); got != tt.reason {
				t.Errorf("the reason is %q, want %q: %v", got, tt.reason, s.view().verdicts.value("v"))
			}
			if after := s.holders("v"); !slices.Equal(after, before) {
				t.Errorf("the replicas went from %v to %v", before, after)
			}
			if tt.reason != "TooManyDown" {
				return
			}
			for _, n := range s.view().nodes.list() {
				if !s.on[n] && !slices.Contains(before, n) {
					s.start(n)
				}
			}
			s.rest()
			s.healthy("v")
		})
	}
}

func TestRebuildsKeepToTheirCaps(t *testing.T) {
	s := newStage(t, 8)
	for i := range 30 {
		s.create(fmt.Sprint("v", i), &v1.VolumeSpec{SizeBytes: gib, Replicas: 3})
	}
	s.rest()
	s.stop("n1")
	if err := s.turn(s.l); err != nil { // the absence begins
		t.Fatal(err)
	}
	s.now = s.now.Add(11 * time.Minute)
	most, perNode := 0, 0
	for range 400 {
		if err := s.turn(s.l); err != nil {
			t.Fatal(err)
		}
		v := s.fresh()
		most = max(most, v.fillings)
		for _, n := range v.filling {
			perNode = max(perNode, n)
		}
		s.play()
	}
	if most > 8 || most < 4 || perNode != 2 {
		t.Errorf("up to %d replicas were filled at once, %d on one node, want some of 8, and 2", most, perNode)
	}
	for i := range 30 {
		s.healthy(fmt.Sprint("v", i))
	}
}

func TestAVolumeWithOneCopyLeftIsRepairedFirst(t *testing.T) {
	s := newStage(t, 6)
	s.create("a", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3, Placement: &v1.Placement{Nodes: []string{"n1", "n2", "n3"}}})
	s.create("b", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2, Placement: &v1.Placement{Nodes: []string{"n1", "n2"}}})
	s.rest()
	for _, id := range []string{"a", "b"} {
		s.volume(id, func(v *v1.VolumeSpec) { v.Placement = nil })
	}
	s.set(&v1.ClusterSettings{RebuildsMax: proto.Int32(1)})
	s.stop("n1")
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(11 * time.Minute)
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	if len(s.holders("b")) != 3 || len(s.holders("a")) != 3 {
		t.Errorf("b has replicas on %v, a on %v: want that of b to be made first", s.holders("b"), s.holders("a"))
	}
	if got := s.reason("a", Repaired); got != "Waits" {
		t.Errorf("a %q, want that it waits", got)
	}
}

func TestAttachedToADeadNodeIsSaidAndNeverStolen(t *testing.T) {
	s := newStage(t, 4)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	s.rest()
	at := s.holders("v")[0]
	s.do(state.Attachments.Create("v", &v1.Attachment{VolumeId: "v", Spec: &v1.AttachmentSpec{NodeId: at}}))
	s.rest()
	s.stop(at)
	s.rest()
	s.later(time.Hour)
	if got := s.reason("v", Attached); got != "AttachedNodeDown" {
		t.Errorf("the reason is %q", got)
	}
	e, ok := s.view().attachments.get("v")
	if !ok {
		t.Fatal("the volume was taken away from its node")
	}
	next := proto.CloneOf(e.Value)
	next.Spec.ForceDetach = true
	s.do(state.Attachments.Replace("v", next, e.Revision))
	s.rest()
	if _, ok := s.view().attachments.get("v"); ok {
		t.Error("it is still attached")
	}
	s.healthy("v")
}

func TestStraysAreKeptUnlessTheirVolumeIsWell(t *testing.T) {
	s := newStage(t, 4)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	s.rest()
	stray := func(id, volume string) {
		s.data[id], s.where[id] = 0, "n1"
		s.do(state.Holdings.Put(id, &statepb.Holding{ReplicaId: id, VolumeId: volume, NodeId: "n1", PoolId: "pn1", Ready: true}))
	}
	stray("old", "v")
	stray("unknown", "a volume of before")
	s.rest()
	s.later(59 * time.Minute)
	if len(s.data) != 4 {
		t.Errorf("within the grace there are %v", s.data)
	}
	s.stop(s.holders("v")[0])
	s.later(2 * time.Minute)
	if len(s.data) != 4 {
		t.Errorf("while one of its good copies is away there are %v", s.data)
	}
	s.start(s.holders("v")[0])
	s.rest()
	s.later(2 * time.Minute)
	if _, there := s.data["old"]; there {
		t.Error("the stray of a volume that is well is still there")
	}
	if _, there := s.data["unknown"]; !there {
		t.Error("what may be the last copy of something was deleted")
	}
}

func TestRestoredFromTheTrashInTime(t *testing.T) {
	s := newStage(t, 3)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	s.rest()
	s.fill()
	s.volume("v", func(v *v1.VolumeSpec) { v.Deleted = timestamppb.New(s.now) })
	s.later(23 * time.Hour)
	s.volume("v", func(v *v1.VolumeSpec) { v.Deleted = nil })
	s.later(2 * time.Hour)
	s.healthy("v")
	s.volume("v", func(v *v1.VolumeSpec) { v.Deleted = timestamppb.New(s.now) })
	s.set(&v1.ClusterSettings{TrashKeep: durationpb.New(0)})
	s.rest()
	s.gone("v")
}

func TestNoTwoReplicasAreLostToTheEagerDrainOfTwoNodes(t *testing.T) {
	s := newStage(t, 5)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3})
	s.rest()
	s.fill()
	for _, n := range s.holders("v")[:2] {
		s.node(n, func(x *v1.NodeSpec) { x.Draining = true })
	}
	s.rest()
	s.healthy("v")
}

func TestARemovalThatWouldLoseDataWaitsUnlessForced(t *testing.T) {
	s := newStage(t, 3)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 1})
	s.rest()
	s.fill()
	n := s.holders("v")[0]
	removal, err := PreviewRemoval(t.Context(), s.store, n, "")
	if err != nil || removal.VolumesLost != 1 || len(removal.Effects) != 1 || !removal.Effects[0].Lost {
		t.Fatalf("the preview is %v, %v", removal, err)
	}
	s.stop(n)
	s.node(n, func(x *v1.NodeSpec) { x.Removed = true })
	s.operation("op", kindNodeRemove, n, nil)
	s.later(time.Hour)
	if op := s.view().operations.value("op"); op.Done || !strings.Contains(op.Message, "no in-sync replica can be reached") {
		t.Errorf("the operation is %v", op)
	}
	s.given["v"] = true
	s.operation("forced", kindNodeRemove, n, map[string]string{paramForce: "true"})
	s.later(time.Minute)
	s.ended("forced", "")
	s.ended("op", "")
	if v := s.view(); v.nodes.value(n) != nil || !slices.Contains(s.events("volume/v"), "CopyLost") {
		t.Errorf("node %v, events %v", v.nodes.value(n), s.events("volume/v"))
	}
	s.volume("v", func(v *v1.VolumeSpec) { v.Deleting = true })
	s.rest()
	s.gone("v")
}

func TestRebalanceSaysFirstAndThenMoves(t *testing.T) {
	s := newStage(t, 3)
	for i := range 12 {
		s.create(fmt.Sprint("v", i), &v1.VolumeSpec{SizeBytes: 4 * gib, Replicas: 1, Placement: &v1.Placement{Nodes: []string{"n1"}}})
	}
	s.rest()
	s.fill()
	for i := range 12 {
		s.volume(fmt.Sprint("v", i), func(v *v1.VolumeSpec) { v.Placement = nil })
	}
	s.operation("dry", kindRebalance, "cluster", map[string]string{paramDryRun: "true"})
	s.rest()
	s.ended("dry", "")
	steps := len(s.view().operations.value("dry").Steps)
	if steps < 5 || len(s.view().at["n1"]) != 12 {
		t.Fatalf("the dry run has %d steps, and left %d volumes on n1", steps, len(s.view().at["n1"]))
	}
	s.operation("op", kindRebalance, "cluster", nil)
	s.rest()
	s.ended("op", "")
	if left := len(s.view().at["n1"]); left != 12-steps {
		t.Errorf("%d volumes are left on n1, want %d", left, 12-steps)
	}
}

func TestAMoveThatCanNotBeEndsAndSaysWhy(t *testing.T) {
	s := newStage(t, 3)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	s.rest()
	a := s.view().assignments.value("v")
	s.operation("twice", kindVolumeMove, "v", map[string]string{paramReplica: a.Replicas[0].ReplicaId, paramToNode: a.Replicas[1].NodeId})
	s.rest()
	s.ended("twice", "the volume has another replica there already; move it somewhere else")
	third := map[bool]string{}
	for _, n := range []string{"n1", "n2", "n3"} {
		third[slices.Contains(s.holders("v"), n)] = n
	}
	s.node(third[false], func(n *v1.NodeSpec) { n.Cordoned = true })
	s.operation("cordoned", kindVolumeMove, "v", map[string]string{paramReplica: a.Replicas[0].ReplicaId, paramToNode: third[false]})
	s.rest()
	if op := s.view().operations.value("cordoned"); !op.Done || !strings.Contains(op.Error, "on cordoned nodes") {
		t.Errorf("the operation is %v", op)
	}
	s.healthy("v")
}

func TestScheduledSnapshots(t *testing.T) {
	s := newStage(t, 3)
	policy := &v1.SnapshotPolicy{Meta: &v1.Meta{Id: "p", Name: "often"}, Spec: &v1.SnapshotPolicySpec{
		Schedules: []*v1.SnapshotSchedule{{Kind: "interval", At: "15m", Keep: 3}, {Kind: "daily", At: "12:20", Keep: 1}}, Selector: map[string]string{"app": "db"}}}
	s.do(state.Policies.Create("p", policy))
	s.do(state.Volumes.Create("v", &v1.Volume{Meta: &v1.Meta{Id: "v", Name: "db", Labels: map[string]string{"app": "db"}}, Spec: &v1.VolumeSpec{SizeBytes: gib, Replicas: 2}}))
	s.create("other", &v1.VolumeSpec{SizeBytes: gib, Replicas: 1})
	s.rest()
	s.do(state.Attachments.Create("v", &v1.Attachment{VolumeId: "v", Spec: &v1.AttachmentSpec{NodeId: "n1"}}))
	s.rest()
	names := func() (list []string) {
		v := s.view()
		for _, id := range v.snaps.of("v") {
			list = append(list, v.snapshots.value(id).Meta.Name)
		}
		slices.Sort(list)
		return list
	}
	if got := names(); len(got) != 0 {
		t.Errorf("a new volume begins with %v", got)
	}
	for range 4 * 6 {
		s.later(5 * time.Minute)
	}
	want := []string{"db-often-daily-20261126-122000", "db-often-interval-20261126-133000", "db-often-interval-20261126-134500", "db-often-interval-20261126-140000"}
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("after two hours there are %v, want %v", got, want)
	}
	s.later(10 * 24 * time.Hour) // nobody led meanwhile, say
	want = []string{"db-often-daily-20261206-122000", "db-often-interval-20261126-134500", "db-often-interval-20261126-140000", "db-often-interval-20261206-140000"}
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("after ten days there are %v, want %v", got, want)
	}
	if len(s.view().snaps["other"]) > 0 {
		t.Error("a volume that the policy does not hold for has snapshots")
	}
	// Detached, it gets one more, and then no others: nothing changes.
	s.do(state.Attachments.Delete("v", 0))
	for range 10 {
		s.later(15 * time.Minute)
	}
	n := 0
	for id := range s.view().snapshots.entries {
		if s.view().snapStatuses.value(id).GetIdle() {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the detached volume has %d snapshots of when it was detached, want 1: %v", n, names())
	}
	if next := Next(policy.Spec, s.now); !next.After(s.now) || next.Sub(s.now) > 15*time.Minute {
		t.Errorf("at %v the next is said to come at %v", s.now, next)
	}
	s.do(state.Policies.Delete("p", 0))
	s.rest()
	if marks := s.view().marks.list(); len(marks) != 0 || len(names()) == 0 {
		t.Errorf("without the policy there are marks %v and snapshots %v", marks, names())
	}
}

func TestAPolicyTakesItsVolumesTogether(t *testing.T) {
	s := newStage(t, 3)
	s.do(state.Policies.Create("p", &v1.SnapshotPolicy{Meta: &v1.Meta{Id: "p", Name: "shop"}, Spec: &v1.SnapshotPolicySpec{Together: true,
		Schedules: []*v1.SnapshotSchedule{{Kind: "interval", At: "15m", Keep: 2}}, Selector: map[string]string{"app": "shop"}}}))
	for _, id := range []string{"a", "b", "c"} {
		s.do(state.Volumes.Create(id, &v1.Volume{Meta: &v1.Meta{Id: id, Name: id, Labels: map[string]string{"app": "shop"}}, Spec: &v1.VolumeSpec{SizeBytes: gib, Replicas: 2}}))
	}
	s.create("other", &v1.VolumeSpec{SizeBytes: gib, Replicas: 1})
	s.rest()
	for i, id := range []string{"a", "b"} { // c is not attached, and belongs to it all the same
		s.do(state.Attachments.Create(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: fmt.Sprint("n", i+1)}}))
	}
	s.rest()
	groups := func() map[string][]string {
		of := map[string][]string{}
		v := s.view()
		for _, id := range v.snapshots.list() {
			of[v.snapshots.value(id).Spec.GroupId] = append(of[v.snapshots.value(id).Spec.GroupId], v.snapshots.value(id).Spec.VolumeId)
		}
		return of
	}
	whole := func(want int) {
		t.Helper()
		got := groups()
		for id, members := range got {
			if slices.Sort(members); !slices.Equal(members, []string{"a", "b", "c"}) || id == "" {
				t.Errorf("a snapshot of the group %q is of %v", id, members)
			}
		}
		if len(got) != want {
			t.Errorf("there are %d groups, want %d", len(got), want)
		}
	}
	for range 8 {
		s.later(15 * time.Minute)
	}
	whole(2)
	s.later(30 * 24 * time.Hour) // nobody led meanwhile
	whole(2)

	// One that failed on a volume does not count, and does not stay.
	for range 2 {
		var last string
		for id, snap := range s.view().snapshots.entries {
			if was := s.view().snapshots.entries[last].Value; was == nil || snap.Value.Spec.Due.AsTime().After(was.Spec.Due.AsTime()) {
				last = id
			}
		}
		s.do(state.SnapshotStatuses.Put(last, &v1.SnapshotStatus{Generation: s.view().snapStatuses.value(last).Generation, Problem: "its moment was missed"}))
		s.later(15 * time.Minute)
	}
	s.later(15 * time.Minute)
	whole(2)
	for id := range s.view().snapshots.entries {
		if p := s.view().snapStatuses.value(id).GetProblem(); p != "" {
			t.Errorf("a failed one stays: %s", p)
		}
	}

	// Detached, all of them, they get one more, and then no others.
	s.do(state.Attachments.Delete("a", 0), state.Attachments.Delete("b", 0))
	s.later(15 * time.Minute)
	before := slices.Sorted(maps.Keys(groups()))
	for range 3 {
		s.later(15 * time.Minute)
	}
	if now := slices.Sorted(maps.Keys(groups())); !slices.Equal(now, before) {
		t.Errorf("nothing changes, and there are the groups %v after %v", now, before)
	}
	s.do(state.Policies.Delete("p", 0))
	s.rest()
	if marks := s.view().marks.list(); len(marks) != 0 {
		t.Errorf("without the policy there are marks %v", marks)
	}
}

func TestEventsAndOperationsExpire(t *testing.T) {
	s := newStage(t, 3)
	s.set(&v1.ClusterSettings{EventsMax: proto.Int32(3), OperationsKeep: durationpb.New(time.Hour)})
	for i := range 6 {
		s.create(fmt.Sprint("v", i), &v1.VolumeSpec{SizeBytes: gib, Replicas: 1})
	}
	s.operation("op", kindRebalance, "cluster", map[string]string{paramDryRun: "true"})
	s.rest()
	s.ended("op", "")
	s.later(2 * time.Minute)
	if n := len(s.view().events.entries); n != 3 {
		t.Errorf("there are %d events, want the last 3", n)
	}
	s.later(2 * time.Hour)
	if s.view().operations.value("op") != nil {
		t.Error("an operation that ended long ago is still there")
	}
	s.later(8 * 24 * time.Hour)
	if n := len(s.view().events.entries); n != 0 {
		t.Errorf("there are %d events of last week", n)
	}
}

func TestCloneGoesWhereItsSnapshotIs(t *testing.T) {
	s := newStage(t, 5)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	s.rest()
	s.do(state.Snapshots.Create("s", &v1.Snapshot{Meta: &v1.Meta{Id: "s", Name: "s"}, Spec: &v1.SnapshotSpec{VolumeId: "v"}}))
	s.create("c", &v1.VolumeSpec{SizeBytes: 2 * gib, Replicas: 3, SourceSnapshotId: "s"})
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	if got := s.reason("c", Placed); got != "SourceNotReady" {
		t.Errorf("before the snapshot is taken the reason is %q", got)
	}
	s.rest()
	s.healthy("c")
	a := s.view().assignments.value("c")
	for _, x := range s.view().assignments.value("v").Replicas {
		if !slices.ContainsFunc(a.Replicas, func(y *assigned) bool { return y.PoolId == x.PoolId }) {
			t.Errorf("the clone is in %v, and not in %v, where its snapshot is", a.Replicas, x)
		}
	}
	if a.SourceVolumeId != "v" || a.SourceGeneration != 1 {
		t.Errorf("it begins with generation %d of %q", a.SourceGeneration, a.SourceVolumeId)
	}
}

// cloned makes a volume v with a snapshot s, and a clone c of it that is placed and not made.
func (s *stage) cloned(replicas int32) {
	s.t.Helper()
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: replicas})
	s.do(state.Snapshots.Create("s", &v1.Snapshot{Meta: &v1.Meta{Id: "s", Name: "s"}, Spec: &v1.SnapshotSpec{VolumeId: "v"}}))
	s.rest()
	s.create("c", &v1.VolumeSpec{SizeBytes: gib, Replicas: replicas, SourceSnapshotId: "s"})
	if err := s.turn(s.l); err != nil {
		s.t.Fatal(err)
	}
	if s.view().assignments.value("c") == nil || len(s.view().births.entries) != 1 {
		s.t.Fatalf("the clone is %v, its birth %v", s.view().assignments.value("c"), s.view().births.list())
	}
}

func TestACloneIsUsableAlthoughANodeDiedBeforeItMadeItsReplica(t *testing.T) {
	s := newStage(t, 3)
	s.cloned(3)
	s.stop("n2")
	s.rest()
	rec := s.view().records.value("c")
	if rec.Epoch < 2 || slices.ContainsFunc(rec.Members, func(m *statepb.Member) bool { return m.NodeId == "n2" && m.State == uint32(spec.InSync) }) {
		t.Errorf("the record counts on a replica that was not made: %v", rec)
	}
	if got := s.view().births.list(); len(got) != 0 {
		t.Errorf("it is still being born: %v", got)
	}
	s.start("n2")
	s.rest()
	s.healthy("c")
}

func TestAVolumeIsMadeElsewhereWhenItsNodeDiesBeforeItIsMade(t *testing.T) {
	for _, x := range []struct {
		nodes    int
		replicas int32
		whole    bool // while the node is away
	}{{4, 3, true}, {3, 3, false}, {3, 1, true}, {2, 2, false}} {
		s := newStage(t, x.nodes)
		s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: x.replicas})
		if err := s.turn(s.l); err != nil {
			t.Fatal(err)
		}
		dead := s.view().assignments.value("v").Replicas[0]
		s.stop(dead.NodeId)
		s.rest()
		v := s.view()
		good := 0
		for _, m := range v.records.value("v").Members {
			if m.State == uint32(spec.InSync) && v.holdings.value(m.ReplicaId).GetReady() {
				good++
			}
			if x.whole && m.NodeId == dead.NodeId {
				t.Errorf("%+v: it is still to be on the dead node", x)
			}
		}
		if want := int(x.replicas); x.whole && good != want || !x.whole && good != want-1 {
			t.Errorf("%+v: %d replicas were made", x, good)
		}
		s.start(dead.NodeId)
		s.rest()
		s.healthy("v")
		s.later(time.Hour) // nothing is left of the one that was not made
		s.rest()
		if x.whole && (s.view().holdings.value(dead.ReplicaId) != nil || len(s.view().condemned.list()) != 0) {
			t.Errorf("%+v: the old one is there: %v, condemned %v", x, s.view().holdings.value(dead.ReplicaId), s.view().condemned.list())
		}
	}
}

func TestAVolumeWhoseOnlyNodeDiedBeforeItWasMadeSaysSo(t *testing.T) {
	s := newStage(t, 1)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 1})
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	s.stop("n1")
	s.rest()
	if got := s.reason("v", Placed); got != "NoPlace" {
		t.Errorf("the reason is %q", got)
	}
	s.start("n1")
	s.rest()
	s.healthy("v")
}

func TestWhatACloneBeginsWithStaysUntilItIsMade(t *testing.T) {
	s := newStage(t, 3)
	s.cloned(2)
	s.volume("v", func(v *v1.VolumeSpec) { v.Deleting = true })
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	if s.view().assignments.value("v") == nil {
		t.Fatal("the source's replicas are being deleted, and the clone has not been made")
	}
	if got := s.reason("v", Deleted); got != "Cloning" {
		t.Errorf("the source says %q", got)
	}
	s.rest()
	s.healthy("c")
	if s.view().volumes.value("v") != nil {
		t.Error("the source is there for ever")
	}
}

func TestACloneThatIsNotPlacedYetKeepsWhatItBeginsWith(t *testing.T) {
	s := newStage(t, 3)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	s.do(state.Snapshots.Create("s", &v1.Snapshot{Meta: &v1.Meta{Id: "s", Name: "s"}, Spec: &v1.SnapshotSpec{VolumeId: "v"}}))
	s.rest()
	s.create("c", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2, SourceSnapshotId: "s"})
	s.create("d", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2, SourceSnapshotId: "s"})
	s.volume("d", func(d *v1.VolumeSpec) { d.Deleting = true }) // which nobody has to wait for
	snap := s.view().snapshots.entries["s"]
	gone := proto.CloneOf(snap.Value)
	gone.Spec.Deleted = true
	s.do(state.Snapshots.Replace("s", gone, snap.Revision))
	s.volume("v", func(v *v1.VolumeSpec) { v.Deleting = true })
	s.rest()
	s.healthy("c")
	if v := s.view(); v.volumes.value("v") != nil || v.snapshots.value("s") != nil || len(v.births.list()) != 0 {
		t.Errorf("something is there for ever: volume %v, snapshot %v, births %v", v.volumes.value("v"), v.snapshots.value("s"), v.births.list())
	}
}

func TestPreviewsChangeNothing(t *testing.T) {
	s := newStage(t, 4)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3})
	s.create("w", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2, Placement: &v1.Placement{Nodes: []string{"n1", "n2"}}})
	s.rest()
	before := s.revision()
	removal, err := PreviewRemoval(t.Context(), s.store, "n1", "")
	if err != nil || removal.VolumesLost != 0 || removal.VolumesDegraded < 1 {
		t.Errorf("PreviewRemoval = %v, %v", removal, err)
	}
	i := slices.IndexFunc(removal.GetEffects(), func(e *v1.RemovalEffect) bool { return e.VolumeName == "w" })
	if i < 0 || !strings.Contains(removal.Effects[i].Message, "no more can be made") {
		t.Errorf("the effects are %v, want that w can't be rebuilt", removal.GetEffects())
	}
	if pool, err := PreviewRemoval(t.Context(), s.store, "n2", "pn2"); err != nil || len(pool.Effects) == 0 {
		t.Errorf("PreviewRemoval of a pool = %v, %v", pool, err)
	}
	if _, err := PreviewRemoval(t.Context(), s.store, "nobody", ""); err == nil {
		t.Error("an unknown node has a preview")
	}
	pools, err := PreviewPlacement(t.Context(), s.store, &v1.Volume{Meta: &v1.Meta{Id: "x"}, Spec: &v1.VolumeSpec{SizeBytes: gib, Replicas: 3}})
	if err != nil || len(pools) != 3 {
		t.Errorf("PreviewPlacement = %v, %v", pools, err)
	}
	if _, err := PreviewPlacement(t.Context(), s.store, &v1.Volume{Meta: &v1.Meta{Id: "x"}, Spec: &v1.VolumeSpec{SizeBytes: 1000 * gib, Replicas: 1}}); err == nil {
		t.Error("a volume that is too big has a place")
	}
	if s.revision() != before {
		t.Error("a preview changed something")
	}
}

func TestAPoolThatFailsIsLeft(t *testing.T) {
	s := newStage(t, 4)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	s.rest()
	s.fill()
	bad := s.view().assignments.value("v").Replicas[0].PoolId
	s.do(state.PoolStatuses.Put(bad, &v1.PoolStatus{CapacityBytes: 100 * gib, Conditions: []*v1.Condition{{Message: "its disk fails; replace it"}}}))
	s.rest()
	s.later(11 * time.Minute)
	s.healthy("v")
	for _, x := range s.view().assignments.value("v").Replicas {
		if x.PoolId == bad {
			t.Errorf("a replica is still in %s", bad)
		}
	}
	if got := s.events("pool/" + bad); !slices.Equal(got, []string{"PoolTrouble"}) {
		t.Errorf("the events of the pool are %v", got)
	}
}

func TestDetachedVolumesAreTendedOnlyWhileNeeded(t *testing.T) {
	s := newStage(t, 3)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 3})
	s.rest()
	rec := s.view().records.entries["v"]
	next := proto.CloneOf(rec.Value)
	next.Members[1].State, next.Members[1].Since = uint32(spec.Outdated), 1
	s.do(state.Records.Replace("v", next, rec.Revision))
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	if on := s.view().assignments.value("v").TendedOn; on == "" || on == next.Members[1].NodeId {
		t.Errorf("it is tended on %q, want a node with a good copy", on)
	}
	s.rest()
	s.healthy("v")
}

func TestANodeThatHasJustJoinedIsNotCalledDown(t *testing.T) {
	s := newStage(t, 3)
	s.rest()
	s.do(state.Nodes.Create("n9", &v1.Node{Meta: &v1.Meta{Id: "n9", Name: "n9", Created: timestamppb.New(s.now)}, Spec: &v1.NodeSpec{}}))
	s.rest()
	s.later(3 * time.Second)
	s.start("n9")
	s.rest()
	if got := s.events("node/n9"); len(got) != 0 {
		t.Errorf("the events of the new node are %v", got)
	}
	s.do(state.Nodes.Create("n8", &v1.Node{Meta: &v1.Meta{Id: "n8", Name: "n8", Created: timestamppb.New(s.now)}, Spec: &v1.NodeSpec{}}))
	s.rest()
	s.later(20 * time.Second)
	if got := s.events("node/n8"); !slices.Equal(got, []string{"NodeDown"}) {
		t.Errorf("the events of a node that never came are %v", got)
	}
}

func TestACloneBeginsWhereThereIsRoom(t *testing.T) {
	s := newStage(t, 4)
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2, Placement: &v1.Placement{Nodes: []string{"n1", "n3"}}})
	s.do(state.Snapshots.Create("s", &v1.Snapshot{Meta: &v1.Meta{Id: "s", Name: "s"}, Spec: &v1.SnapshotSpec{VolumeId: "v"}}))
	s.rest()
	status := proto.CloneOf(s.view().poolStatuses.value("pn1"))
	status.CapacityBytes = gib / 2
	s.do(state.PoolStatuses.Put("pn1", status))
	s.create("c", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2, SourceSnapshotId: "s"})
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	if got := s.holders("c"); !slices.Equal(got, []string{"n3"}) && (len(got) != 2 || got[0] != "n3") {
		t.Errorf("the clone begins on %v, want n3", got)
	}
	s.rest()
	s.healthy("c")
}
