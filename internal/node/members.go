package node

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// members has the record follow the assignment: replicas that it names come in, those
// that leave or that it does not name go.
func (a *attachment) members(w wish) error {
	ch, err := difference(w.assignment, a.record())
	if ch == nil || err != nil {
		return err
	}
	a.log.Info("changing the volume's replicas", "add", len(ch.Add), "remove", ch.Remove)
	return a.order(ch)
}

// difference returns what brings the record's members to those of the assignment; nil
// when nothing does.
func difference(want *statepb.Assignment, rec spec.Record) (*coordinator.Change, error) {
	ch := &coordinator.Change{Op: coordinator.Reconfigure}
	var stay []block.ReplicaID
	for _, r := range want.Replicas {
		id, err := block.ParseReplicaID(r.ReplicaId)
		if err != nil {
			return nil, err
		}
		node, err := block.ParseNodeID(r.NodeId)
		if err != nil {
			return nil, err
		}
		m := rec.Find(id)
		there := m >= 0 && rec.Members[m].State != 0
		switch {
		case r.Leaving && there:
			ch.Remove = append(ch.Remove, id)
		case r.Leaving:
		case !there:
			ch.Add = append(ch.Add, spec.Member{Replica: id, Node: node})
		}
		stay = append(stay, id)
	}
	for _, m := range rec.Members {
		if m.State != 0 && !slices.Contains(stay, m.Replica) {
			ch.Remove = append(ch.Remove, m.Replica)
		}
	}
	if len(ch.Add)+len(ch.Remove) == 0 {
		return nil, nil
	}
	return ch, nil
}
