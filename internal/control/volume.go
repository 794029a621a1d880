package control

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/placement"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// step is what a decision comes to: one commit, or nothing to do, with what there is to
// say about it.
type step struct {
	ops     []state.Op
	event   *v1.Event       // of the same commit
	say     []*v1.Condition // about the volume, as it is before the step
	again   time.Time       // look again then, if nothing happens earlier; zero for never
	waiting bool            // look again when there may be more room
}

// due has the step looked at again at a time, or earlier.
func (s *step) due(t time.Time) {
	if s.again.IsZero() || t.Before(s.again) {
		s.again = t
	}
}

// tell says something about the volume. When ok is false it is a trouble.
func (s *step) tell(typ string, ok bool, reason, format string, args ...any) {
	s.say = append(s.say, &v1.Condition{Type: typ, Status: ok, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// The types of conditions that control gives a volume.
const (
	Placed   = "Placed"   // false: its replicas have no place
	Repaired = "Repaired" // false: it has fewer good replicas than it wants
	Grown    = "Grown"    // false: it can't have the size that is wished for
	Attached = "Attached" // false: it is attached to a node that is down
	Deleted  = "Deleted"  // false: it is to be deleted, and waits
	Moved    = "Moved"    // false: a replica that somebody wants elsewhere can't go there
	Drained  = "Drained"  // false: a replica on what is drained or removed can't be moved away
)

// decider decides at one time, about what is known.
type decider struct {
	*view
	now    time.Time
	ids    func() string // makes ids of replicas, events and snapshots
	moving map[string]target
	forced map[string]bool // nodes and pools that go although data is lost
}

// volume decides the next step for a volume.
func (d *decider) volume(id string) step {
	var s step
	vol, ok := d.volumes.get(id)
	if !ok {
		d.deleteSnapshots(id, &s) // made while it was being deleted
		return s
	}
	if d.detach(vol, &s); len(s.ops) > 0 {
		return s
	}
	if d.isDeleting(vol.Value) {
		return d.delete(vol)
	}
	if t := vol.Value.Spec.GetDeleted(); t != nil {
		s.due(t.AsTime().Add(d.settings.trashKeep))
	}
	a, ok := d.assignments.get(id)
	if !ok {
		if d.create(vol, &s); len(s.ops) == 0 {
			d.neverTaken(id, &s)
		}
		return s
	}
	d.keep(vol, a, &s)
	if len(s.ops) == 0 {
		d.schedules(vol.Value, &s)
	}
	return s
}

// create gives a volume its first replicas.
func (d *decider) create(vol state.Entry[*v1.Volume], s *step) {
	if _, ok := d.records.get(vol.ID); ok {
		s.tell(Placed, false, "NoAssignment", "it has a record and no assignment: the state was changed by hand or restored in part; restore a whole dump")
		return
	}
	if vol.Value.Spec.GetDeleted() != nil {
		return // a place would be for nothing
	}
	size, replicas := vol.Value.Spec.GetSizeBytes(), max(1, int(vol.Value.Spec.GetReplicas()))
	r := placement.Request{Volume: d.placementVolume(vol.Value), Replicas: replicas}
	a := &statepb.Assignment{VolumeId: vol.ID, SizeBytes: size}
	rec := &statepb.Record{VolumeId: vol.ID, Version: 1, SizeBytes: size, Epoch: 1, Generation: 1}
	var needs []state.Op
	if source := vol.Value.Spec.GetSourceSnapshotId(); source != "" {
		o, ok := d.origin(source, vol.ID, s)
		if !ok {
			return
		}
		r.Only, r.Replicas, needs = o.pools, min(replicas, len(o.pools)), o.needs
		a.SourceVolumeId, a.SourceGeneration, rec.Generation = o.volume, o.generation, o.generation+1
	}
	pools, err := d.room().Choose(r)
	for r.Only != nil && err != nil && r.Replicas > 1 { // others are filled from the first ones later
		r.Replicas--
		pools, err = d.room().Choose(r)
	}
	if err != nil {
		d.refused(s, Placed, err)
		return
	}
	for _, pool := range pools {
		node := d.pools.value(pool).Spec.NodeId
		replica := d.ids()
		a.Replicas = append(a.Replicas, &statepb.AssignedReplica{ReplicaId: replica, NodeId: node, PoolId: pool})
		rec.Members = append(rec.Members, &statepb.Member{ReplicaId: replica, NodeId: node, State: uint32(spec.InSync)})
	}
	s.ops = append(needs, state.Volumes.Require(vol.ID, vol.Revision), state.Assignments.Create(vol.ID, a), state.Records.Create(vol.ID, rec))
	s.event = d.about(vol.Value, "info", "Placed", "its replicas are on %s", d.placesText(a.Replicas))
}

// refused says why there is no place, and has the volume wait for one.
func (d *decider) refused(s *step, typ string, err error) {
	s.waiting = true
	s.due(d.now.Add(time.Minute))
	message := err.Error()
	if r, ok := err.(*placement.Refusal); ok {
		message += "; " + r.Cure
	}
	s.tell(typ, false, "NoPlace", "%s", message)
}

// origin is a snapshot that a volume begins with.
type origin struct {
	volume     string
	generation uint32
	pools      []string // that hold it
	needs      []state.Op
}

// origin looks for the snapshot that a clone begins with. One that is to be deleted stays
// for the clones whose birth began before.
func (d *decider) origin(snapshot, clone string, s *step) (o origin, ok bool) {
	snap, there := d.snapshots.get(snapshot)
	birth, waits := d.births.get(state.BirthKey(snapshot, clone))
	if !there || !waits && snap.Value.Spec.GetDeleted() {
		s.tell(Placed, false, "SourceGone", "the snapshot that it begins with, %s, does not exist any more; delete the volume", snapshot)
		return o, false
	}
	status := d.snapStatuses.value(snapshot)
	if !status.GetReady() {
		why := cmp.Or(status.GetProblem(), "it is not taken yet")
		s.tell(Placed, false, "SourceNotReady", "the snapshot that it begins with, %s, can't be used: %s", snap.Value.Meta.GetName(), why)
		return o, false
	}
	o.volume, o.generation = snap.Value.Spec.VolumeId, status.Generation
	a, rec := d.assignments.value(o.volume), d.records.entries[o.volume]
	for _, r := range a.GetReplicas() {
		if m := memberOf(rec.Value, r.ReplicaId); m != nil && m.State == uint32(spec.InSync) && !r.Leaving {
			o.pools = append(o.pools, r.PoolId)
		}
	}
	if len(o.pools) == 0 {
		s.tell(Placed, false, "SourceUnavailable", "no in-sync replica of volume %s, whose snapshot it begins with, can be reached; bring its nodes back", d.volumeName(o.volume))
		return o, false
	}
	o.needs = []state.Op{state.Snapshots.Require(snapshot, snap.Revision), state.Records.Require(o.volume, rec.Revision)}
	if !waits { // it was in the trash meanwhile
		o.needs = append(o.needs, state.Births.Create(state.BirthKey(snapshot, clone), &emptypb.Empty{}))
	} else {
		o.needs = append(o.needs, state.Births.Require(state.BirthKey(snapshot, clone), birth.Revision))
	}
	return o, true
}

// replica is an assigned replica with all that is known of it.
type replica struct {
	*statepb.AssignedReplica
	member   *statepb.Member // nil when the head has not taken it into the record
	inSync   bool
	up       bool
	bad      string // why another one is to take its place; empty when it is to stay
	repair   bool   // bad because it is lost, not because somebody wants it elsewhere
	poolOnly bool   // another pool on its node would do
	forced   bool   // it goes even when it is the last
	to       target // where it is to move, when somebody said so
}

// good reports whether a replica counts for now and for later.
func (r *replica) good() bool { return !r.Leaving && r.bad == "" }

// sound reports whether a replica can be relied on at this moment.
func (r *replica) sound() bool { return r.good() && r.inSync && r.up }

// holder is a volume that has replicas.
type holder struct {
	*decider
	*step
	vol      state.Entry[*v1.Volume]
	a        state.Entry[*statepb.Assignment]
	rec      state.Entry[*statepb.Record]
	replicas []replica
	want     int
}

// keep keeps a volume's replicas as they are wished for.
func (d *decider) keep(vol state.Entry[*v1.Volume], a state.Entry[*statepb.Assignment], s *step) {
	rec, ok := d.records.get(vol.ID)
	if !ok {
		s.tell(Repaired, false, "NoRecord", "it has an assignment and no record: the state was changed by hand or restored in part; restore a whole dump")
		return
	}
	h := &holder{decider: d, step: s, vol: vol, a: a, rec: rec, want: max(1, int(vol.Value.Spec.GetReplicas()))}
	for _, r := range a.Value.Replicas {
		h.replicas = append(h.replicas, h.look(r))
	}
	h.partTwins()
	h.attachedNode()
	for _, next := range []func(){h.dropLeft, h.giveUpForced, h.makeElsewhere, h.grow, h.stay, h.add, h.release, h.snapshotsGone, h.tend} {
		if next(); len(s.ops) > 0 {
			return
		}
	}
}

// look finds out what there is to know of a replica.
func (h *holder) look(r *statepb.AssignedReplica) replica {
	x := replica{AssignedReplica: r, member: memberOf(h.rec.Value, r.ReplicaId), up: h.up(r.NodeId)}
	x.inSync = x.member != nil && x.member.State == uint32(spec.InSync)
	x.forced = h.forced[r.NodeId] || h.forced[r.PoolId]
	h.judge(&x)
	return x
}

// partTwins has one of two replicas on the same node replaced. They come about when a
// pool is drained into another one of its node, and then is not drained after all.
func (h *holder) partTwins() {
	for i := range h.replicas {
		for j := range h.replicas[:i] {
			a, b := &h.replicas[j], &h.replicas[i]
			if a.NodeId != b.NodeId || !a.good() || !b.good() {
				continue
			}
			if b.inSync && !a.inSync {
				a, b = b, a
			}
			b.bad = "it shares node " + h.nodeName(b.NodeId) + " with another replica of the volume"
		}
	}
}

// judge says why a replica is to be replaced, if it is.
func (h *holder) judge(x *replica) {
	node, pool := h.nodes.value(x.NodeId), h.pools.value(x.PoolId)
	name := cmp.Or(node.GetMeta().GetName(), x.NodeId)
	switch to, moving := h.moving[x.ReplicaId]; {
	case node == nil:
		x.bad, x.repair = "node "+name+" was removed", true
	case pool == nil:
		x.bad, x.repair = "its pool on node "+name+" was removed", true
	case node.Spec.GetRemoved():
		x.bad = "node " + name + " is being removed"
	case node.Spec.GetDraining():
		x.bad = "node " + name + " is draining"
	case pool.Spec.GetRemoved() || pool.Spec.GetDraining():
		x.bad, x.poolOnly = "pool "+pool.Meta.GetName()+" is draining", true
	case moving:
		x.bad, x.to, x.poolOnly = "it is to move", to, to.pool != ""
	default:
		h.judgeAbsence(x, node, pool)
	}
}

// judgeAbsence says whether a replica has been away for too long.
func (h *holder) judgeAbsence(x *replica, node *v1.Node, pool *v1.Pool) {
	what, away := "node "+node.Meta.GetName()+" is down", h.absences.value(x.NodeId)
	if away == nil {
		x.poolOnly = true
		what, away = "pool "+pool.Meta.GetName()+" can't be used", h.absences.value(x.PoolId)
	}
	if away == nil || x.Leaving {
		return
	}
	due := away.Since.AsTime().Add(h.settings.repairDelay)
	switch {
	case node.Spec.GetMaintenance():
		h.tell(Repaired, false, "Maintenance", "%s, in maintenance: nothing is rebuilt until that ends", what)
	case h.now.Before(due):
		h.due(due)
		h.tell(Repaired, false, "Away", "%s since %s; if it is not back by %s its replica is rebuilt elsewhere", what, clock(away.Since.AsTime()), clock(due))
	default:
		x.bad, x.repair = what+" since "+clock(away.Since.AsTime()), true
	}
}

// attachedNode says when the volume is attached to a node that is down: nobody else can
// use or repair it until it is detached.
func (h *holder) attachedNode() {
	at := h.attachments.value(h.vol.ID)
	if at == nil || h.up(at.Spec.GetNodeId()) {
		return
	}
	name := cmp.Or(h.nodes.value(at.Spec.GetNodeId()).GetMeta().GetName(), at.Spec.GetNodeId())
	h.tell(Attached, false, "AttachedNodeDown", "it is attached to node %s, which is down; bring the node back, or attach the volume to another node", name)
}

// dropLeft takes out of the assignment what left, and what the record does not count.
func (h *holder) dropLeft() {
	next := proto.CloneOf(h.a.Value)
	next.Replicas = nil
	var left []replica
	for i, r := range h.replicas {
		if r.Leaving && r.member == nil && h.beginsWith(h.vol.ID, r.PoolId) == "" {
			left = append(left, r)
		} else {
			next.Replicas = append(next.Replicas, h.a.Value.Replicas[i])
		}
	}
	if len(left) == 0 || len(next.Replicas) == 0 {
		return
	}
	h.ops = []state.Op{state.Assignments.Replace(h.vol.ID, next, h.a.Revision), state.Records.Require(h.vol.ID, h.rec.Revision)}
	for _, r := range left {
		h.ops = append(h.ops, h.condemn(r.AssignedReplica, h.vol.ID, "the volume has given it up"))
	}
	h.event = h.about(h.vol.Value, "info", "ReplicaGivenUp", "it has given up its replica on %s; its replicas are on %s", h.placeText(left[0].AssignedReplica), h.placesText(next.Replicas))
}

// giveUpForced takes replicas out that go although data is lost: those for which there is
// neither another copy nor a way to make one.
func (h *holder) giveUpForced() {
	i := slices.IndexFunc(h.replicas, func(r replica) bool { return r.forced && !r.up && !h.others(r.ReplicaId) })
	if i < 0 {
		return
	}
	h.giveUp(i)
}

// giveUp takes a replica out whatever is lost with it.
func (h *holder) giveUp(i int) {
	r := h.replicas[i]
	next := proto.CloneOf(h.a.Value)
	next.Replicas = slices.Delete(next.Replicas, i, i+1)
	h.ops = []state.Op{state.Assignments.Replace(h.vol.ID, next, h.a.Revision), state.Records.Require(h.vol.ID, h.rec.Revision)}
	what := "a copy that missed writes"
	if r.inSync {
		what = "its last good copy"
	}
	h.event = h.about(h.vol.Value, "error", "CopyLost", "%s, on %s, was given up by force", what, h.placeText(r.AssignedReplica))
}

// others reports whether another replica is in sync.
func (h *holder) others(replicaID string) bool {
	return slices.ContainsFunc(h.replicas, func(r replica) bool { return r.ReplicaId != replicaID && r.inSync && !r.forced })
}

// grow gives a volume the size that is wished for.
func (h *holder) grow() {
	more := h.vol.Value.Spec.GetSizeBytes() - h.a.Value.SizeBytes
	if more <= 0 {
		return
	}
	for _, r := range h.a.Value.Replicas {
		if !h.room().Fits(r.PoolId, more) {
			h.waiting = true
			h.due(h.now.Add(time.Minute))
			h.tell(Grown, false, "NoSpace", "pool %s on %s can't be promised so much more; add space, purge what is in the trash (holdfast volume list --trash), move the replica, or raise the over-commit limit (settings overcommit_percent)",
				cmp.Or(h.pools.value(r.PoolId).GetMeta().GetName(), r.PoolId), h.nodeName(r.NodeId))
			return
		}
	}
	next := proto.CloneOf(h.a.Value)
	next.SizeBytes = h.vol.Value.Spec.SizeBytes
	h.ops = []state.Op{state.Assignments.Replace(h.vol.ID, next, h.a.Revision), state.Volumes.Require(h.vol.ID, h.vol.Revision)}
}
