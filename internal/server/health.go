package server

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/control"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// parts is all that is known of a volume, each by who knows it. What is not there is nil.
type parts struct {
	volume     *v1.Volume
	assignment *statepb.Assignment
	record     *statepb.Record
	holdings   map[string]*statepb.Holding // by replica
	attachment *v1.AttachmentSpec
	attached   *v1.AttachmentStatus
	verdict    *statepb.Verdict
	node       func(id string) nodeFacts
	pool       func(id string) poolFacts
	delay      time.Duration // after which a node that is down is given up
}

// nodeFacts is what matters of a node to the volumes on it.
type nodeFacts struct {
	name        string
	exists      bool
	up          bool
	maintenance bool
}

// poolFacts is what matters of a pool to the replicas in it.
type poolFacts struct {
	name    string
	problem string // in words, with the cure; empty when there is none
}

// status puts the parts together. It is healthy only if every copy that was asked for is
// known to be in sync, to be there, and to be reachable now: what isn't known doesn't count.
func (p parts) status() *v1.VolumeStatus {
	s := &v1.VolumeStatus{Epoch: p.record.GetEpoch(), Replicas: p.replicas()}
	for _, h := range p.holdings {
		s.UsedBytes = max(s.UsedBytes, h.UsedBytes)
	}
	s.Health = p.health(s)
	if s.Health == v1.Health_HEALTH_HEALTHY {
		p.notes(s)
	}
	for _, c := range p.verdict.GetConditions() {
		s.Conditions = append(s.Conditions, clone(c))
	}
	return s
}

// health decides, and gives its reasons as conditions.
func (p parts) health(s *v1.VolumeStatus) v1.Health {
	add := func(typ, reason, format string, args ...any) {
		s.Conditions = append(s.Conditions, &v1.Condition{Type: typ, Status: true, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	switch {
	case p.volume.GetSpec().GetDeleting():
		add("Deleting", "Deleting", "it is being deleted for good")
		return v1.Health_HEALTH_DELETING
	case p.volume.GetSpec().GetDeleted() != nil:
		add("Trashed", "InTrash", "it was deleted at %s; restore it with holdfast volume restore %s",
			p.volume.Spec.Deleted.AsTime().UTC().Format(time.RFC3339), p.volume.GetMeta().GetName())
		return v1.Health_HEALTH_TRASHED
	case p.record == nil:
		add("Creating", "NotPlaced", "the cluster has not yet decided where its replicas go")
		return v1.Health_HEALTH_CREATING
	case p.record.Epoch <= 1 && p.missing() != "":
		add("Creating", "ReplicasNotMade", "node %s has not made its replica yet", p.missing())
		return v1.Health_HEALTH_CREATING
	}
	want, good, usable := int(p.volume.GetSpec().GetReplicas()), 0, 0
	var problems []string
	for _, r := range s.Replicas {
		if r.State == v1.ReplicaState_REPLICA_STATE_IN_SYNC && r.Reachable {
			usable++
			if r.Problem == "" {
				good++
			}
		}
		if r.Problem != "" {
			problems = append(problems, r.Problem)
		}
	}
	why := strings.Join(problems, "; ")
	if usable == 0 {
		add("Unavailable", "NoReplica", "no in-sync replica can be reached: %s%s", cmp.Or(why, "none is known"), p.lossCure(s))
		return v1.Health_HEALTH_UNAVAILABLE
	}
	if reason, why := p.stalled(); reason != "" {
		add("Unavailable", reason, "%s", why)
		return v1.Health_HEALTH_UNAVAILABLE
	}
	if good < want {
		reason := "ReplicaMissing"
		if len(problems) > 0 {
			reason = "ReplicaNotInSync"
		}
		add("Degraded", reason, "%d of %d replicas are in sync and there: %s", good, want, cmp.Or(why, "the others have no place yet"))
		return v1.Health_HEALTH_DEGRADED
	}
	if reason, why := p.deviceProblem(); reason != "" {
		add("Degraded", reason, "%s", why)
		return v1.Health_HEALTH_DEGRADED
	}
	return v1.Health_HEALTH_HEALTHY
}

// missing returns the name of a node that has to make a replica before the volume can be
// used for the first time, or "".
func (p parts) missing() string {
	for _, m := range p.record.GetMembers() {
		if !p.holdings[m.ReplicaId].GetReady() {
			return p.node(m.NodeId).name
		}
	}
	return ""
}

// lossCure names the last resort, when a copy is there that missed writes.
func (p parts) lossCure(s *v1.VolumeStatus) string {
	for _, r := range s.Replicas {
		if r.State != v1.ReplicaState_REPLICA_STATE_IN_SYNC && p.node(r.NodeId).up && p.holdings[r.Id].GetReady() {
			return fmt.Sprintf("; if no in-sync copy will come back, go on with what replica %s has: holdfast volume accept-loss %s --replica %s --epoch %d",
				r.Id, p.volume.GetMeta().GetName(), r.Id, s.Epoch)
		}
	}
	return ""
}

// stalled returns why I/O on the device waits, or "".
func (p parts) stalled() (reason, why string) {
	if p.attachment == nil {
		return "", ""
	}
	n := p.node(p.attachment.NodeId)
	switch {
	case !n.up:
		return "AttachedNodeDown", fmt.Sprintf("it is attached to node %s, which is down: start that node, or attach it elsewhere with holdfast volume attach %s --node NODE",
			n.name, p.volume.GetMeta().GetName())
	case p.attached.GetState() == v1.AttachmentState_ATTACHMENT_STATE_STALLED:
		return "Stalled", fmt.Sprintf("I/O on node %s waits: %s", n.name, words(p.attached.Conditions, "its node does not say why"))
	}
	return "", ""
}

// deviceProblem returns what is wrong with the device, or "".
func (p parts) deviceProblem() (reason, why string) {
	if p.attachment != nil && p.attached.GetState() == v1.AttachmentState_ATTACHMENT_STATE_FAILED {
		return "AttachFailed", fmt.Sprintf("it can't be attached to node %s: %s", p.node(p.attachment.NodeId).name,
			words(p.attached.Conditions, "its node does not say why"))
	}
	return "", ""
}

// notes are conditions of a healthy volume on which work goes on.
func (p parts) notes(s *v1.VolumeStatus) {
	add := func(typ, reason, format string, args ...any) {
		s.Conditions = append(s.Conditions, &v1.Condition{Type: typ, Status: true, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	if have, want := p.record.GetSizeBytes(), p.volume.GetSpec().GetSizeBytes(); have < want {
		add("Resizing", "Growing", "it is being grown from %d to %d bytes", have, want)
	}
	for _, r := range p.assignment.GetReplicas() {
		if r.Leaving {
			add("Moving", "ReplicaMoves", "the replica on node %s is given up once another holds what it holds", p.node(r.NodeId).name)
		}
	}
}

// replicas says of each replica that is recorded or assigned what is known of it.
func (p parts) replicas() (all []*v1.ReplicaStatus) {
	heads := map[string]*v1.ReplicaStatus{}
	if p.attached.GetEpoch() == p.record.GetEpoch() { // what a head of another epoch says is old
		for _, r := range p.attached.GetReplicas() {
			heads[r.Id] = r
		}
	}
	known := map[string]bool{}
	for _, m := range p.record.GetMembers() {
		known[m.ReplicaId] = true
		all = append(all, p.member(m, heads[m.ReplicaId]))
	}
	for _, a := range p.assignment.GetReplicas() {
		if !known[a.ReplicaId] && !a.Leaving {
			r := &v1.ReplicaStatus{Id: a.ReplicaId, NodeId: a.NodeId, PoolId: a.PoolId, State: v1.ReplicaState_REPLICA_STATE_OUTDATED}
			r.Reachable, r.Problem = p.reach(r)
			r.Problem = cmp.Or(r.Problem, fmt.Sprintf("the replica on node %s is new, and has to be filled yet", p.node(a.NodeId).name))
			all = append(all, r)
		}
	}
	return all
}

// member says what is known of a replica in the record; head is what the volume's head
// says of it, or nil.
func (p parts) member(m *statepb.Member, head *v1.ReplicaStatus) *v1.ReplicaStatus {
	r := &v1.ReplicaStatus{Id: m.ReplicaId, NodeId: m.NodeId, State: v1.ReplicaState_REPLICA_STATE_IN_SYNC}
	r.PoolId = p.holdings[m.ReplicaId].GetPoolId()
	for _, a := range p.assignment.GetReplicas() {
		if a.ReplicaId == m.ReplicaId {
			r.PoolId = a.PoolId
		}
	}
	r.Reachable, r.Problem = p.reach(r)
	if spec.ReplicaState(m.State) != spec.InSync {
		r.State, r.OutdatedSince = v1.ReplicaState_REPLICA_STATE_OUTDATED, m.Since
		r.Progress = head.GetProgress()
		if head.GetState() == v1.ReplicaState_REPLICA_STATE_SYNCING {
			r.State = v1.ReplicaState_REPLICA_STATE_SYNCING
		}
		r.Problem = cmp.Or(r.Problem, head.GetProblem(), p.behind(r))
		return r
	}
	if head != nil && r.Reachable {
		r.Reachable, r.Problem = head.Reachable, cmp.Or(r.Problem, head.Problem)
		if !r.Reachable {
			r.Problem = cmp.Or(r.Problem, fmt.Sprintf("node %s can't be reached from where the volume is attached: check the network between them", p.node(r.NodeId).name))
		}
	}
	return r
}

// behind says why a replica that is there is not in sync.
func (p parts) behind(r *v1.ReplicaStatus) string {
	name := p.node(r.NodeId).name
	switch {
	case r.State == v1.ReplicaState_REPLICA_STATE_SYNCING:
		return fmt.Sprintf("the replica on node %s is catching up%s", name, left(r.Progress))
	case p.volume.GetSpec().GetRepairPaused():
		return fmt.Sprintf("the replica on node %s missed writes and repair is paused: holdfast volume update %s --repair-paused=false", name, p.volume.GetMeta().GetName())
	}
	return fmt.Sprintf("the replica on node %s missed writes since epoch %d; it catches up by itself", name, r.OutdatedSince)
}

// left says how long a rebuild takes yet.
func left(p *v1.Progress) string {
	if p.GetTotalBytes() <= 0 {
		return ""
	}
	text := fmt.Sprintf(", %d %% done", min(100, p.DoneBytes*100/p.TotalBytes))
	if d := remaining(p); d != nil {
		text += fmt.Sprintf(", about %s left", d.AsDuration().Round(time.Second))
	}
	return text
}

// remaining returns the time that is left, as said, or from the speed.
func remaining(p *v1.Progress) *durationpb.Duration {
	if p.GetLeft() != nil || p.GetBytesPerSecond() <= 0 {
		return p.GetLeft()
	}
	seconds := float64(p.TotalBytes-p.DoneBytes) / float64(p.BytesPerSecond)
	return durationpb.New(time.Duration(max(0, min(seconds, 1e9)) * float64(time.Second)))
}

// reach reports whether a replica is there and its node up, and if not, why.
func (p parts) reach(r *v1.ReplicaStatus) (ok bool, problem string) {
	n, h := p.node(r.NodeId), p.holdings[r.Id]
	pool := p.pool(r.PoolId)
	switch {
	case !n.exists:
		return false, fmt.Sprintf("node %s is not in the cluster any more; its replica is made anew elsewhere", n.name)
	case !n.up && n.maintenance:
		return false, fmt.Sprintf("node %s is down, in maintenance: end that when it is back: holdfast node maintenance %[1]s --off", n.name)
	case !n.up:
		return false, fmt.Sprintf("node %s is down: start it, or its replica is rebuilt elsewhere once it is gone for %s", n.name, p.delay)
	case h == nil || !h.Ready && h.Problem == "":
		return false, fmt.Sprintf("node %s has no replica of it yet: it is being made", n.name)
	case h.Problem != "":
		return h.Ready, fmt.Sprintf("the replica on node %s: %s", n.name, h.Problem)
	case pool.problem != "":
		return true, fmt.Sprintf("pool %s on node %s: %s", pool.name, n.name, pool.problem)
	}
	return true, ""
}

// goodWhenTrue are the types of conditions that say what is well; false is trouble. All
// others name a trouble.
var goodWhenTrue = []string{"Ready", "Healthy", "Reachable", "Mounted", "Writable", "Synced",
	control.Placed, control.Repaired, control.Grown, control.Attached, control.Deleted, control.Moved}

// isTrouble reports whether a condition says that something is not well.
func isTrouble(c *v1.Condition) bool { return c.Status != slices.Contains(goodWhenTrue, c.Type) }

// words joins what conditions say that are trouble.
func words(conditions []*v1.Condition, otherwise string) string {
	var all []string
	for _, c := range conditions {
		if isTrouble(c) && c.Message != "" && !slices.Contains(all, c.Message) {
			all = append(all, c.Message)
		}
	}
	return cmp.Or(strings.Join(all, "; "), otherwise)
}
