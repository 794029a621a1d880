package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// liveness notes since when nodes and pools are away, and that they are back. Whoever
// leads next finds it, so the delay before repair does not begin anew with each leader.
// Without all, it looks only at what has changed.
func (d *decider) liveness(all bool) (steps []step) {
	if all {
		for _, ids := range [][]string{d.nodes.list(), d.pools.list(), d.absences.list()} {
			for _, id := range ids {
				d.pulses[id] = true
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(d.pulses)) {
		_, absent := d.absences.get(id)
		switch {
		case d.nodes.value(id) != nil:
			steps = append(steps, d.nodeLiveness(id))
		case d.pools.value(id) != nil:
			steps = append(steps, d.poolLiveness(id))
		case absent:
			steps = append(steps, step{ops: []state.Op{state.Absences.Delete(id, d.absences.entries[id].Revision)}})
		}
	}
	clear(d.pulses)
	return steps
}

func (d *decider) nodeLiveness(id string) (s step) {
	n := d.nodes.value(id)
	_, alive := d.alive.get(id)
	away, absent := d.absences.get(id)
	switch {
	case !alive && !absent && d.isNew(id):
		s.due(d.now.Add(newFor))
	case !alive && !absent:
		s.ops = []state.Op{state.Absences.Create(id, d.absence(id)), state.Alive.Require(id, 0)}
		s.event = nodeEvent(n, "warning", "NodeDown", "it is not heard of any more")
		if n.Spec.GetMaintenance() {
			s.event = nodeEvent(n, "info", "NodeDown", "it is down, in maintenance")
		}
	case alive && absent:
		s.ops = []state.Op{state.Absences.Delete(id, away.Revision)}
		s.event = nodeEvent(n, "info", "NodeUp", "it is there again; it was away since %s", clock(away.Value.Since.AsTime()))
	}
	return s
}

// newFor is how long a node may take from joining, or from starting anew, to its lease.
const newFor = 15 * time.Second

// isNew reports whether a node has just joined, or has said something just now: it is not
// away, it is on its way.
func (d *decider) isNew(id string) bool {
	if d.now.Before(d.nodes.value(id).Meta.GetCreated().AsTime().Add(newFor)) {
		return true
	}
	seen := d.nodeStatuses.value(id).GetSeen()
	return seen != nil && d.now.Before(seen.AsTime().Add(newFor))
}

// poolLiveness notes that a pool can't be used although its node is there.
func (d *decider) poolLiveness(id string) (s step) {
	p, status := d.pools.value(id), d.poolStatuses.value(id)
	away, absent := d.absences.get(id)
	bad := d.up(p.Spec.GetNodeId()) && status != nil && !status.Healthy
	event := func(severity, reason, format string, args ...any) *v1.Event {
		e := nodeEvent(d.nodes.value(p.Spec.GetNodeId()), severity, reason, format, args...)
		e.Object, e.ObjectName = "pool/"+id, p.Meta.GetName()
		return e
	}
	switch {
	case bad && !absent:
		s.ops = []state.Op{state.Absences.Create(id, d.absence(id))}
		s.event = event("error", "PoolTrouble", "it can't be used: %s", poolProblem(status))
	case !bad && absent && status.GetHealthy():
		s.ops = []state.Op{state.Absences.Delete(id, away.Revision)}
		s.event = event("info", "PoolReady", "it can be used again; it could not since %s", clock(away.Value.Since.AsTime()))
	}
	return s
}

func (d *decider) absence(id string) *statepb.Absence {
	return &statepb.Absence{Id: id, Since: timestamppb.New(d.now)}
}

func nodeEvent(n *v1.Node, severity, reason, format string, args ...any) *v1.Event {
	return &v1.Event{Object: "node/" + n.GetMeta().GetId(), ObjectName: cmp.Or(n.GetMeta().GetName(), n.GetMeta().GetId()), Severity: severity, Reason: reason,
		Message: fmt.Sprintf(format, args...)}
}

// detach takes an attachment away that somebody wants gone by force.
func (d *decider) detach(vol state.Entry[*v1.Volume], s *step) {
	at, ok := d.attachments.get(vol.ID)
	if !ok || !at.Value.Spec.GetForceDetach() {
		return
	}
	s.ops = []state.Op{state.Attachments.Delete(vol.ID, at.Revision), state.AttachStatuses.Delete(vol.ID, 0)}
	s.event = d.about(vol.Value, "warning", "ForceDetached", "it was detached by force from node %s; what that node still wants to write is refused", d.nodeName(at.Value.Spec.GetNodeId()))
}
