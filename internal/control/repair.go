package control

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/placement"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// count counts the replicas for which f holds.
func (h *holder) count(f func(*replica) bool) (n int) {
	for i := range h.replicas {
		if f(&h.replicas[i]) {
			n++
		}
	}
	return n
}

// stay takes the mark from a replica that is leaving, when it is needed after all.
func (h *holder) stay() {
	if h.count((*replica).good) >= h.want {
		return
	}
	i := slices.IndexFunc(h.replicas, func(r replica) bool { return r.Leaving && r.bad == "" && r.inSync && r.up })
	if i < 0 {
		return
	}
	next := proto.CloneOf(h.a.Value)
	next.Replicas[i].Leaving = false
	h.ops = []state.Op{state.Assignments.Replace(h.vol.ID, next, h.a.Revision), state.Records.Require(h.vol.ID, h.rec.Revision)}
}

// add adds a replica where one is missing.
func (h *holder) add() {
	if h.count((*replica).good) >= h.want || h.vol.Value.Spec.GetDeleted() != nil && !h.count1(func(r *replica) bool { return r.bad != "" && !r.repair }) {
		return
	}
	if at := h.attachments.value(h.vol.ID); at != nil && !h.up(at.Spec.GetNodeId()) {
		return // nobody could fill it
	}
	if !h.count1(func(r *replica) bool { return r.inSync && r.up }) {
		h.tell(Repaired, false, "NoSource", "no in-sync replica can be reached; bring back %s", h.placesText(h.inSyncs()))
		return
	}
	for _, lost := range h.victims() {
		if lost.repair && !h.mayRepair(lost) {
			continue
		}
		pool, ok := h.place(lost)
		if ok {
			h.addIn(pool, lost)
		}
		if ok || len(h.ops) > 0 {
			return
		}
	}
}

// addIn adds a replica in a pool, in the place of one that is lost, or of none.
func (h *holder) addIn(pool string, lost replica) {
	r := &statepb.AssignedReplica{ReplicaId: h.ids(), NodeId: h.pools.value(pool).Spec.NodeId, PoolId: pool}
	next := proto.CloneOf(h.a.Value)
	next.Replicas = append(next.Replicas, r)
	h.ops = []state.Op{state.Assignments.Replace(h.vol.ID, next, h.a.Revision), state.Volumes.Require(h.vol.ID, h.vol.Revision)}
	why := fmt.Sprintf("it is to have %d replicas", h.want)
	if lost.bad != "" {
		why = lost.bad
	}
	h.event = h.about(h.vol.Value, "info", "ReplicaAdded", "a replica is made on %s: %s", h.placeText(r), why)
}

func (h *holder) count1(f func(*replica) bool) bool { return h.count(f) > 0 }

// victims are the replicas whose place a new one takes, the most urgent first: what is
// lost, then what drains, then what moves because somebody wants it elsewhere. When the
// volume just wants more it is one zero replica.
func (h *holder) victims() (bad []replica) {
	for _, r := range h.replicas {
		if r.bad != "" && !r.Leaving {
			bad = append(bad, r)
		}
	}
	if len(bad) == 0 {
		return []replica{{AssignedReplica: &statepb.AssignedReplica{}}}
	}
	rank := func(r replica) int {
		switch {
		case r.repair:
			return 0
		case r.to == target{}:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(bad, func(a, b replica) int { return rank(a) - rank(b) })
	return bad
}

func (h *holder) inSyncs() (list []*statepb.AssignedReplica) {
	for _, r := range h.replicas {
		if r.inSync {
			list = append(list, r.AssignedReplica)
		}
	}
	return list
}

// mayRepair says whether lost replicas are rebuilt now.
func (h *holder) mayRepair(lost replica) bool {
	down, all := h.downNodes()
	switch {
	case h.vol.Value.Spec.GetRepairPaused():
		h.tell(Repaired, false, "Paused", "%s; nothing is rebuilt because repair of this volume is paused", lost.bad)
	case h.settings.rebuildsMax == 0 || h.settings.rebuildsPerNodeMax == 0:
		h.tell(Repaired, false, "RebuildsOff", "%s; nothing is rebuilt because rebuilding is off (settings rebuilds_max)", lost.bad)
	case all > 3 && down*100 > all*h.settings.repairDownPercentMax:
		h.waiting = true
		h.tell(Repaired, false, "TooManyDown", "%s; nothing is rebuilt while more than %d %% of the nodes are down, which looks like a fault of the network or of power; "+
			"bring them back, or raise settings repair_down_percent_max", lost.bad, h.settings.repairDownPercentMax)
	default:
		return true
	}
	return false
}

// downNodes counts the nodes that are to be there, and those of them that are not.
func (d *decider) downNodes() (down, all int) {
	for id, n := range d.nodes.entries {
		if n.Value.Spec.GetMaintenance() || n.Value.Spec.GetRemoved() {
			continue
		}
		all++
		if !d.up(id) {
			down++
		}
	}
	return down, all
}

// place finds a pool for one more replica.
func (h *holder) place(lost replica) (pool string, ok bool) {
	r := placement.Request{Volume: h.placementVolume(h.vol.Value), Replicas: 1}
	for i := range h.replicas {
		if x := &h.replicas[i]; x.good() {
			r.Held = append(r.Held, x.PoolId)
		} else if x.ReplicaId == lost.ReplicaId && x.poolOnly {
			r.Leave = append(r.Leave, x.PoolId)
		} else {
			r.Avoid = append(r.Avoid, x.PoolId)
		}
	}
	avoid := len(r.Avoid)
	h.aim(&r, lost.to)
	if h.fillings >= h.settings.rebuildsMax {
		h.capped(lost, "%d replicas at once are filled in the cluster (settings rebuilds_max)", h.settings.rebuildsMax)
		return "", false
	}
	for node, n := range h.filling {
		if n >= h.settings.rebuildsPerNodeMax {
			r.Avoid = append(r.Avoid, h.poolsOf.of(node)...)
		}
	}
	slices.Sort(r.Avoid[avoid:])
	pools, err := h.room().Choose(r)
	if err == nil {
		return pools[0], true
	}
	r.Avoid = r.Avoid[:avoid] // as if nothing was being filled
	_, full := h.room().Choose(r)
	if full == nil {
		h.capped(lost, "%d replicas at once are filled on a node (settings rebuilds_per_node_max)", h.settings.rebuildsPerNodeMax)
		return "", false
	}
	if lost.forced && !h.others(lost.ReplicaId) {
		h.giveUp(slices.IndexFunc(h.replicas, func(r replica) bool { return r.ReplicaId == lost.ReplicaId }))
		return "", false
	}
	typ := Repaired
	switch {
	case lost.to != target{}:
		typ = Moved
	case lost.bad != "" && !lost.repair:
		typ = Drained
	}
	h.refused(h.step, typ, full)
	return "", false
}

// aim narrows a request to where a replica is to move, unless one is there by now.
func (h *holder) aim(r *placement.Request, to target) {
	node := to.node
	if p := h.pools.value(to.pool); p != nil {
		node = p.Spec.GetNodeId()
	}
	if h.count1(func(x *replica) bool { return x.good() && x.NodeId == node }) {
		return
	}
	switch {
	case to.pool != "":
		r.Only = []string{to.pool}
	case to.node != "":
		r.Only = append([]string{}, h.poolsOf.of(to.node)...)
	}
}

func (h *holder) capped(lost replica, format string, args ...any) {
	h.waiting = true
	h.due(h.now.Add(time.Minute))
	why := "it wants another replica"
	if lost.bad != "" {
		why = lost.bad
	}
	h.tell(Repaired, false, "Waits", "%s; it waits for its turn: %s", why, fmt.Sprintf(format, args...))
}

// release marks a replica as leaving, when there are more than are wished for and enough
// of the others are in sync.
func (h *holder) release() {
	staying := h.count(func(r *replica) bool { return !r.Leaving })
	if staying <= h.want && !h.count1(func(r *replica) bool { return r.forced && !r.Leaving }) {
		return
	}
	i := h.spare()
	if i < 0 {
		return
	}
	next := proto.CloneOf(h.a.Value)
	next.Replicas[i].Leaving = true
	h.ops = []state.Op{state.Assignments.Replace(h.vol.ID, next, h.a.Revision), state.Records.Require(h.vol.ID, h.rec.Revision),
		state.Volumes.Require(h.vol.ID, h.vol.Revision)}
}

// spare returns the replica that may go, or -1. As many as are wished for must be left
// that are sound, or else all that are.
func (h *holder) spare() int {
	sound := h.count((*replica).sound)
	near := h.attachments.value(h.vol.ID).GetSpec().GetNodeId()
	var may []int
	var held []placement.Held
	for i, r := range h.replicas {
		switch {
		case r.Leaving:
		case r.forced && (h.others(r.ReplicaId) || !r.inSync):
			return i
		case sound >= h.want && !r.sound(), sound > h.want:
			may = append(may, i)
			held = append(held, placement.Held{Replica: r.ReplicaId, Pool: r.PoolId, InSync: r.sound(), Near: r.NodeId == near})
		}
	}
	if h.count(func(r *replica) bool { return !r.Leaving }) <= h.want {
		return -1
	}
	if at := h.room().Drop(held); at >= 0 {
		return may[at]
	}
	return -1
}

// tend has the head of a volume that is not attached run where that is needed, and
// nowhere else.
func (h *holder) tend() {
	on := ""
	if _, attached := h.attachments.get(h.vol.ID); !attached && h.needsHead() {
		on = h.tender()
	}
	if on == h.a.Value.TendedOn {
		return
	}
	next := proto.CloneOf(h.a.Value)
	next.TendedOn = on
	h.ops = []state.Op{state.Assignments.Replace(h.vol.ID, next, h.a.Revision)}
}

// needsHead reports whether there is something that only the volume's head can do.
func (h *holder) needsHead() bool {
	for _, r := range h.replicas {
		switch {
		case r.Leaving && r.member != nil:
			return true
		case !r.Leaving && r.up && !r.inSync:
			return true // it is to be taken into the record, or filled
		}
	}
	for _, m := range h.rec.Value.Members {
		if !slices.ContainsFunc(h.replicas, func(r replica) bool { return r.ReplicaId == m.ReplicaId }) {
			return true // it was given up
		}
	}
	return h.rec.Value.SizeBytes < h.a.Value.SizeBytes || h.accepts() || h.snapshotsWait() || h.restores() || h.halfBorn()
}

// accepts reports whether somebody has accepted a loss.
func (h *holder) accepts() bool {
	l := h.vol.Value.Spec.GetAcceptedLoss()
	return l != nil && l.Epoch == h.rec.Value.Epoch
}

// snapshotsWait reports whether a snapshot is to be taken or deleted.
func (h *holder) snapshotsWait() bool {
	for id := range h.snaps[h.vol.ID] {
		snap, status := h.snapshots.value(id), h.snapStatuses.value(id)
		switch taken := status.GetReady() || status.GetProblem() != ""; {
		case !taken && !snap.Spec.GetDeleted():
			return true
		case snap.Spec.GetDeleted() && status.GetGeneration() != 0 && slices.Contains(h.rec.Value.Snapshots, status.Generation):
			return true
		}
	}
	return false
}

// restores reports whether the volume is to have an earlier content.
func (h *holder) restores() bool {
	for id := range h.active {
		if op := h.operations.value(id); op.Kind == kindVolumeRestore && op.TargetId == h.vol.ID {
			return true
		}
	}
	return false
}

// tender returns the node on which the head is to run: where it runs, if it can stay
// there, else where it ran last, else the first that can.
func (h *holder) tender() string {
	var can []string
	for _, r := range h.replicas {
		accepted := h.accepts() && r.ReplicaId == h.vol.Value.Spec.AcceptedLoss.ReplicaId
		if r.up && (r.inSync || accepted) {
			can = append(can, r.NodeId)
		}
	}
	for _, node := range []string{h.a.Value.TendedOn, h.rec.Value.OwnerNodeId} {
		if slices.Contains(can, node) {
			return node
		}
	}
	if len(can) == 0 {
		return ""
	}
	return can[0]
}

// urgency says which volumes go first: those with the fewest good copies.
func (v *view) urgency(id string) int {
	n := 0
	rec := v.records.value(id)
	for _, m := range rec.GetMembers() {
		if m.State == uint32(spec.InSync) && v.up(m.NodeId) {
			n++
		}
	}
	if rec == nil {
		return 1 << 10 // somebody waits for it, and no data is in danger
	}
	return n
}

// about makes an event about a volume.
func (d *decider) about(vol *v1.Volume, severity, reason, format string, args ...any) *v1.Event {
	return &v1.Event{Object: "volume/" + vol.Meta.GetId(), ObjectName: vol.Meta.GetName(), Severity: severity, Reason: reason, Message: fmt.Sprintf(format, args...)}
}
