package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/placement"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// The kinds of operations that control brings to their end, and VolumeRestore, which the
// volume's head does.
const (
	kindVolumeMove    = "VolumeMove"
	kindVolumeRestore = "VolumeRestore"
	kindNodeDrain     = "NodeDrain"
	kindNodeRemove    = "NodeRemove"
	kindPoolDrain     = "PoolDrain"
	kindPoolRemove    = "PoolRemove"
	kindRebalance     = "Rebalance"
)

// The parameters of operations.
const (
	paramReplica   = "replica"
	paramToNode    = "to_node"
	paramToPool    = "to_pool"
	paramForce     = "force"
	paramDryRun    = "dry_run"
	paramTolerance = "tolerance_percent"
	paramMovesMax  = "moves_max"
)

// target is where a replica is to move, and who says so. Without node and pool it moves
// to where placement finds best.
type target struct {
	op   string
	node string
	pool string
}

// wishes reads the operations that are under way: which replicas are to move, and which
// nodes and pools go although data is lost.
func (d *decider) wishes() {
	d.moving, d.forced = map[string]target{}, map[string]bool{}
	busy := map[string]bool{} // volumes: one replica moves at a time
	for _, id := range slices.Sorted(maps.Keys(d.active)) {
		op := d.operations.value(id)
		if op.Canceled {
			continue
		}
		switch op.Kind {
		case kindVolumeMove:
			if !busy[op.TargetId] {
				busy[op.TargetId] = true
				d.moving[op.Parameters[paramReplica]] = target{op: id, node: op.Parameters[paramToNode], pool: op.Parameters[paramToPool]}
			}
		case kindNodeRemove, kindPoolRemove:
			if op.Parameters[paramForce] == "true" {
				d.forced[op.TargetId] = true
			}
		case kindRebalance:
			d.rebalanceWishes(op, busy)
		}
	}
}

// rebalanceWishes has the first of a plan's moves made, one at a time for a volume.
func (d *decider) rebalanceWishes(op *v1.Operation, busy map[string]bool) {
	n := 0
	for _, s := range op.Steps {
		if s.Done || busy[s.VolumeId] {
			continue
		}
		if n++; n > max(1, d.settings.rebuildsMax) {
			return
		}
		busy[s.VolumeId] = true
		if r := d.replicaIn(s.VolumeId, s.FromPoolId); r != "" {
			d.moving[r] = target{op: op.Id, pool: s.ToPoolId}
		}
	}
}

// replicaIn returns a volume's replica in a pool, or nothing.
func (v *view) replicaIn(volume, pool string) string {
	for _, r := range v.assignments.value(volume).GetReplicas() {
		if r.PoolId == pool {
			return r.ReplicaId
		}
	}
	return ""
}

// operation decides the next step of an operation.
func (d *decider) operation(id string) (s step) {
	op := d.operations.entries[id]
	next := proto.CloneOf(op.Value)
	if next.Canceled && next.Kind != kindVolumeRestore {
		end(d, next, "canceled")
	} else {
		switch next.Kind {
		case kindVolumeMove:
			d.volumeMove(next)
		case kindNodeDrain, kindPoolDrain:
			d.drain(next)
		case kindNodeRemove, kindPoolRemove:
			s = d.remove(op, next)
		case kindRebalance:
			d.rebalance(next)
		}
	}
	if len(s.ops) > 0 || proto.Equal(op.Value, next) {
		return s
	}
	s.ops = []state.Op{state.Operations.Replace(id, next, op.Revision)}
	if next.Done {
		s.event = &v1.Event{Object: "operation/" + id, ObjectName: next.Target, Severity: "info", Reason: next.Kind + "Done", Message: cmp.Or(next.Message, "it is done")}
		if next.Error != "" {
			s.event.Severity, s.event.Reason, s.event.Message = "warning", next.Kind+"Failed", next.Error
		}
	}
	return s
}

// end ends an operation, with what went wrong or nothing.
func end(d *decider, op *v1.Operation, wrong string) {
	op.Done, op.Error, op.Ended = true, wrong, timestamppb.New(d.now)
	if wrong == "" && op.Progress != nil {
		op.Progress.DoneBytes = op.Progress.TotalBytes
	}
}

// trouble is what the last look at a volume found to be in the way.
func (v *view) trouble(volume string, types ...string) string {
	for _, c := range v.verdicts.value(volume).GetConditions() {
		if !c.Status && slices.Contains(types, c.Type) {
			return c.Message
		}
	}
	return ""
}

// volumeMove looks how far the move of a replica has come.
func (d *decider) volumeMove(op *v1.Operation) {
	a := d.assignments.value(op.TargetId)
	at := slices.IndexFunc(a.GetReplicas(), func(r *assigned) bool { return r.ReplicaId == op.Parameters[paramReplica] })
	if at < 0 {
		for _, s := range op.Steps {
			s.Done = true
		}
		op.Message = "its replicas are on " + d.placesText(a.GetReplicas())
		end(d, op, "")
		return
	}
	if d.moving[op.Parameters[paramReplica]].op != op.Id {
		op.Message = "it waits until another replica of the volume has moved"
		return
	}
	if len(op.Steps) == 0 {
		if d.isThere(a.Replicas[at], op) {
			op.Message = "it is there already"
			end(d, op, "")
			return
		}
		if d.holdsAlready(a, a.Replicas[at], op) {
			end(d, op, "the volume has another replica there already; move it somewhere else")
			return
		}
		op.Steps = []*v1.Step{{VolumeId: op.TargetId, FromPoolId: a.Replicas[at].PoolId, ToPoolId: op.Parameters[paramToPool], Bytes: d.usedBytes(op.TargetId)}}
		op.Message = "it begins"
		return // what was in the way of an earlier wish does not count
	}
	for _, r := range a.Replicas {
		if d.isFilling(op.TargetId, r) && !r.Leaving && (d.isThere(r, op) || op.Parameters[paramToNode]+op.Parameters[paramToPool] == "") {
			op.Steps[0].ReplicaId, op.Steps[0].ToPoolId = r.ReplicaId, r.PoolId
		}
	}
	wrong := d.trouble(op.TargetId, Moved)
	if _, there := d.assignedReplica(op.TargetId, op.Steps[0].ReplicaId); !there {
		op.Steps[0].ReplicaId = "" // it was given up
	}
	if wrong != "" && op.Steps[0].ReplicaId == "" {
		end(d, op, wrong)
		return
	}
	op.Message = cmp.Or(d.trouble(op.TargetId, Moved, Repaired), "a replica is made on "+d.placesText(a.Replicas[len(a.Replicas)-1:]))
	if op.Steps[0].ReplicaId == "" {
		op.Message = cmp.Or(wrong, "it waits for its turn")
	}
	d.progress(op, op.Steps[0].Bytes-d.holdings.value(op.Steps[0].ReplicaId).GetUsedBytes(), op.Steps[0].Bytes)
}

// assignedReplica finds a replica of a volume.
func (v *view) assignedReplica(volume, id string) (*assigned, bool) {
	for _, r := range v.assignments.value(volume).GetReplicas() {
		if r.ReplicaId == id {
			return r, true
		}
	}
	return nil, false
}

// isThere reports whether a replica is where it is to go.
func (d *decider) isThere(r *assigned, op *v1.Operation) bool {
	if pool := op.Parameters[paramToPool]; pool != "" {
		return r.PoolId == pool
	}
	return r.NodeId == op.Parameters[paramToNode]
}

// holdsAlready reports whether the place that a replica is to go to holds another one.
func (d *decider) holdsAlready(a *statepb.Assignment, moving *assigned, op *v1.Operation) bool {
	to := op.Parameters[paramToNode]
	if p := d.pools.value(op.Parameters[paramToPool]); p != nil {
		to = p.Spec.GetNodeId()
	}
	return slices.ContainsFunc(a.Replicas, func(r *assigned) bool { return r.NodeId == to && r != moving })
}

// progress notes how much is left. What it says never goes backwards.
func (d *decider) progress(op *v1.Operation, left, total int64) {
	if op.Progress == nil {
		op.Progress = &v1.Progress{}
	}
	op.Progress.TotalBytes = max(op.Progress.TotalBytes, total)
	op.Progress.DoneBytes = max(op.Progress.DoneBytes, op.Progress.TotalBytes-max(0, left))
}

// drain looks how far a node or pool is emptied.
func (d *decider) drain(op *v1.Operation) {
	if !d.drains(op) {
		end(d, op, "draining was ended")
		return
	}
	if left := d.left(op); left == 0 {
		op.Message = "it holds no replicas any more"
		end(d, op, "")
	}
}

// drains reports whether what an operation drains is still to be drained.
func (d *decider) drains(op *v1.Operation) bool {
	if op.Kind == kindNodeDrain || op.Kind == kindNodeRemove {
		s := d.nodes.value(op.TargetId).GetSpec()
		return s.GetDraining() || s.GetRemoved()
	}
	s := d.pools.value(op.TargetId).GetSpec()
	return s.GetDraining() || s.GetRemoved()
}

// left counts the volumes with a replica at the operation's target, and has the operation
// say what they wait for.
func (d *decider) left(op *v1.Operation) int {
	volumes := d.at.of(op.TargetId)
	var bytes int64
	blocked, why := 0, ""
	for _, id := range volumes {
		bytes += d.usedBytes(id)
		if t := d.trouble(id, Drained, Moved, Repaired, Attached); t != "" {
			if blocked++; why == "" {
				why = d.volumeName(id) + ": " + t
			}
		}
	}
	op.Message = fmt.Sprintf("%d volumes still have a replica there", len(volumes))
	if blocked > 0 {
		op.Message += fmt.Sprintf("; %d wait, such as %s", blocked, why)
	}
	d.progress(op, bytes, bytes)
	return len(volumes)
}

// remove takes a node or pool out of the cluster once it holds nothing.
func (d *decider) remove(was state.Entry[*v1.Operation], op *v1.Operation) (s step) {
	node, pool := op.TargetId, ""
	if op.Kind == kindPoolRemove {
		node, pool = "", op.TargetId
	}
	if d.nodes.value(node) == nil && d.pools.value(pool) == nil {
		op.Message = "it is not a part of the cluster any more"
		end(d, op, "")
		return s
	}
	if !d.drains(op) {
		end(d, op, "the removal was ended")
		return s
	}
	if d.left(op) > 0 {
		return s
	}
	if node != "" {
		s.ops = d.forgetNode(node)
	} else {
		s.ops = d.forgetPool(pool)
	}
	if len(s.ops) > state.OpsMax-10 {
		s.ops = s.ops[:state.OpsMax-10] // the rest in the next commit; the object goes last
		return s
	}
	op.Message = "it is not a part of the cluster any more"
	end(d, op, "")
	s.ops = append(s.ops, state.Operations.Replace(was.ID, op, was.Revision))
	s.event = &v1.Event{Object: "operation/" + was.ID, ObjectName: op.Target, Severity: "info", Reason: op.Kind + "Done", Message: op.Message}
	return s
}

// forgetNode deletes all that is known of a node that holds nothing, itself last.
func (d *decider) forgetNode(id string) (ops []state.Op) {
	for _, p := range d.poolsOf.of(id) {
		ops = append(ops, d.forgetPool(p)...)
	}
	n := d.nodes.entries[id]
	ops = append(ops, state.NodeStatuses.Delete(id, 0), state.Absences.Delete(id, 0),
		state.Removed.Put(id, &statepb.Removed{NodeId: id, Name: n.Value.GetMeta().GetName(), At: timestamppb.New(d.now)}))
	ops = append(ops, d.freeName(state.KindNode, n.Value.Meta, id)...)
	return append(ops, state.Nodes.Delete(id, n.Revision))
}

// forgetPool deletes all that is known of a pool that holds nothing, itself last.
func (d *decider) forgetPool(id string) (ops []state.Op) {
	for _, r := range d.holdings.list() {
		if h := d.holdings.value(r); h.PoolId == id {
			ops = append(ops, state.Holdings.Delete(r, 0), state.Condemned.Delete(r, 0), state.Strays.Delete(r, 0))
		}
	}
	p := d.pools.entries[id]
	ops = append(ops, state.PoolStatuses.Delete(id, 0), state.Absences.Delete(id, 0))
	ops = append(ops, d.freeName(state.KindPool, p.Value.Meta, id)...)
	return append(ops, state.Pools.Delete(id, p.Revision))
}

// rebalance makes a plan, once, and looks how far it has come.
func (d *decider) rebalance(op *v1.Operation) {
	if op.Steps == nil && op.Progress == nil { // it has just been asked for
		d.planRebalance(op)
		if len(op.Steps) > 0 && op.Parameters[paramDryRun] != "true" {
			return // what was in the way of an earlier wish does not count
		}
	}
	var left, total int64
	for _, s := range op.Steps {
		s.Done = s.Done || d.stepDone(s)
		total += s.Bytes
		if !s.Done {
			left += s.Bytes
		}
	}
	d.progress(op, left, total)
	done := !slices.ContainsFunc(op.Steps, func(s *v1.Step) bool { return !s.Done })
	if op.Parameters[paramDryRun] == "true" || done {
		end(d, op, "")
	}
}

// planMax is how many moves one plan has: an operation is one value in the state.
const planMax = 1000

func (d *decider) planRebalance(op *v1.Operation) {
	o := placement.RebalanceOptions{MovesMax: planMax}
	if n, err := strconv.Atoi(op.Parameters[paramMovesMax]); err == nil && n > 0 {
		o.MovesMax = min(n, planMax)
	}
	if f, err := strconv.ParseFloat(op.Parameters[paramTolerance], 64); err == nil && f > 0 {
		o.TolerancePercent = f
	}
	plan := d.room().Rebalance(d.placed(), o)
	for _, m := range plan.Moves {
		op.Steps = append(op.Steps, &v1.Step{VolumeId: m.Volume, FromPoolId: m.From, ToPoolId: m.To, Bytes: m.Bytes})
	}
	op.Message = fmt.Sprintf("%d replicas move: the fullest pool goes from %.2f to %.2f of the mean", len(plan.Moves), plan.Before, plan.After)
	if len(plan.Moves) == 0 {
		op.Message = fmt.Sprintf("nothing is to be moved: the fullest pool has %.2f of the mean", plan.Before)
	}
}

// stepDone reports whether a move has been made, or can't be made any more.
func (d *decider) stepDone(s *v1.Step) bool {
	if d.replicaIn(s.VolumeId, s.FromPoolId) == "" {
		return true
	}
	return d.replicaIn(s.VolumeId, s.ToPoolId) == "" && d.trouble(s.VolumeId, Moved) != ""
}
