package node

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// status returns what can be said of an attachment now.
func (a *attachment) status(w wish, problem error) *v1.AttachmentStatus {
	s := &v1.AttachmentStatus{NodeId: a.d.o.Node.String(), State: v1.AttachmentState_ATTACHMENT_STATE_ATTACHING,
		OfRevision: int64(a.answered)}
	serving := false
	if h := a.head; h != nil {
		a.d.node.do(func() {
			rec := h.coord.Record()
			serving = !h.over && h.coord.Serving(h.n.loop.Now())
			s.Epoch = uint64(rec.Epoch)
			s.Replicas = replicaStatuses(rec, h)
			s.Conditions = healthConditions(h)
			s.Stats = &v1.IOStats{RepairedBlocks: uint64(h.coord.Stats().Repaired)}
		})
	}
	if a.show != nil {
		s.Device, s.Address, s.Frontend, s.MountPath, s.SizeBytes = a.show.Device().Link, a.address(), string(a.kind), a.mounted, a.shown
		addStats(s.Stats, a.show.Stats())
	}
	if a.show != nil && w.attach.GetMountPath() != a.mounted && forPeople(problem) {
		s.MountRefused = w.attach.GetMountPath()
	}
	if w.attach == nil && !w.nothing() {
		s.Frontend = "none"
	}
	switch {
	case w.nothing():
		s.State = v1.AttachmentState_ATTACHMENT_STATE_DETACHING
	case w.attach != nil && w.attach.Aborted && a.show == nil && a.left == nil:
		s.State = v1.AttachmentState_ATTACHMENT_STATE_FAILED
		s.Conditions = append(s.Conditions, &v1.Condition{Type: "Ready", Reason: "Aborted",
			Message: "its I/O was made to fail, as was asked: end its users, and detach it: holdfast volume detach " + w.volume.Meta.GetName()})
	case a.show != nil && serving, w.attach == nil && serving:
		s.State = v1.AttachmentState_ATTACHMENT_STATE_ATTACHED
	case a.show != nil:
		s.State = v1.AttachmentState_ATTACHMENT_STATE_STALLED
	case complaint(problem) != "" && !fault.Is(problem, fault.Unavailable): // what was canceled begins anew
		s.State = v1.AttachmentState_ATTACHMENT_STATE_FAILED
	}
	if complaint(problem) != "" {
		s.Conditions = append(s.Conditions, &v1.Condition{Type: "Ready", Reason: "AttachFailed", Message: complaint(problem)})
	}
	if a.fixed != "" {
		s.Conditions = append(s.Conditions, &v1.Condition{Type: "Grown", Reason: reasonFixed, Message: a.fixed})
	}
	if a.unchanged != "" {
		s.Conditions = append(s.Conditions, &v1.Condition{Type: "Changed", Reason: "ChangeFailed", Message: a.unchanged})
	}
	return s
}

// reasonFixed is of the condition that a device can't grow while it is there. The server
// knows it by this.
const reasonFixed = "DeviceCantGrow"

// forPeople reports whether an error stays until somebody does something about it.
func forPeople(err error) bool {
	switch fault.KindOf(err) {
	case fault.Corrupt, fault.Precondition, fault.Exists, fault.Invalid, fault.Unsupported, fault.Denied:
		return err != nil
	}
	return false
}

// healthConditions returns what is wrong with the volume, as its head knows it, with
// causes and cures. The loop's.
func healthConditions(h *head) (list []*v1.Condition) {
	for _, c := range h.coord.Health(h.n.loop.Now()) {
		text := c.Cause
		if !c.Replica.IsZero() {
			text = "replica " + c.Replica.String() + ": " + text
		}
		list = append(list, &v1.Condition{Type: c.Kind.String(), Status: true, Reason: c.Kind.String(), Message: text + "; " + c.Cure})
	}
	return list
}

// replicaStatuses returns the members as the head sees them. The loop's.
func replicaStatuses(rec spec.Record, h *head) (list []*v1.ReplicaStatus) {
	reachable := map[block.ReplicaID]bool{}
	for m := range h.links { // by number, which is not the place in the record
		reachable[h.coord.Member(m).Replica] = true
	}
	progress := map[block.ReplicaID]*v1.Progress{}
	for _, s := range h.coord.Syncs() {
		progress[s.Replica] = progressOf(s, h.n.loop.Now())
	}
	for _, m := range rec.Members {
		if m.State == 0 { // it was removed
			continue
		}
		r := &v1.ReplicaStatus{Id: m.Replica.String(), NodeId: m.Node.String(), OutdatedSince: uint64(m.Since),
			State: v1.ReplicaState_REPLICA_STATE_IN_SYNC, Reachable: reachable[m.Replica]}
		if m.State == spec.Outdated {
			if r.State = v1.ReplicaState_REPLICA_STATE_OUTDATED; r.Reachable {
				r.State = v1.ReplicaState_REPLICA_STATE_SYNCING
			}
			r.Progress = progress[m.Replica]
		}
		list = append(list, r)
	}
	return list
}

// progressOf is how far a replica has come that catches up, in bytes of the volume that are
// looked at: of them only those move that differ.
func progressOf(s coordinator.Sync, now time.Duration) *v1.Progress {
	p := &v1.Progress{TotalBytes: int64(max(s.Regions, s.RegionsLeft)) * block.RegionSize}
	left := int64(s.RegionsLeft) * block.RegionSize
	p.DoneBytes = p.TotalBytes - left
	if took := now - s.Began; took > 0 && p.DoneBytes > 0 {
		p.BytesPerSecond = int64(float64(p.DoneBytes) / took.Seconds())
		p.Left = durationpb.New(time.Duration(float64(took) / float64(p.DoneBytes) * float64(left)).Round(time.Second))
	}
	return p
}

func addStats(to *v1.IOStats, s attach.Stats) {
	if to == nil {
		return
	}
	to.Reads, to.Writes, to.Flushes, to.Discards = s.Read.Latency.Count(), s.Write.Latency.Count(), s.Flush.Latency.Count(), s.Zero.Latency.Count()
	to.ReadBytes, to.WrittenBytes = s.Read.Bytes, s.Write.Bytes
	to.Errors = s.Read.Errors + s.Write.Errors + s.Zero.Errors + s.Flush.Errors
}

// worthSaying reports whether two statuses differ in more than counts that rise all the
// time; those are said now and then.
func worthSaying(was, now *v1.AttachmentStatus) bool {
	a, b := proto.CloneOf(was), proto.CloneOf(now)
	busy := !proto.Equal(a.Stats, b.Stats)
	a.Stats, b.Stats = nil, nil
	return !proto.Equal(a, b) || busy && now.Stats.GetReads()+now.Stats.GetWrites() > 2*(was.Stats.GetReads()+was.Stats.GetWrites())
}
