package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// WithLoss returns the record of a volume that nobody has attached, in which an Outdated
// replica counts and those that are in sync don't any more; kept are the snapshots that
// it has. It is what a person decides when all good copies are gone for good: what may be
// lost says [LossOf]. Never automatically.
func WithLoss(rec spec.Record, replica block.ReplicaID, kept []block.Generation) (spec.Record, error) {
	if !rec.Owner.IsZero() {
		return rec, fault.E("coordinator.WithLoss", fault.Busy, rec.Volume, fmt.Errorf("node %v has the volume attached: order it there", rec.Owner))
	}
	next := rec.Clone()
	if err := withLoss(&next, replica, kept); err != nil {
		return rec, err
	}
	next.Version++
	next.Epoch++
	return next, nil
}

// LossOf says what may be lost when a replica counts that is Outdated.
func LossOf(rec spec.Record, replica block.ReplicaID) string {
	m := rec.Find(replica)
	if m < 0 || rec.Members[m].State != spec.Outdated {
		return "nothing: the replica counts, or is none of the volume's"
	}
	if rec.Members[m].Since == 0 {
		return "everything: the replica was never complete"
	}
	return fmt.Sprintf("every write since epoch %d (the volume is at epoch %d), and snapshots taken since then; "+
		"if the replica was catching up, its blocks are of different moments", rec.Members[m].Since, rec.Epoch)
}

func withLoss(rec *spec.Record, replica block.ReplicaID, kept []block.Generation) error {
	m := rec.Find(replica)
	switch {
	case m < 0 || rec.Members[m].State == 0:
		return fault.E("coordinator.AcceptLoss", fault.NotFound, rec.Volume, fmt.Errorf("replica %v is none of the volume's", replica))
	case rec.Members[m].State != spec.Outdated:
		return fault.E("coordinator.AcceptLoss", fault.Precondition, rec.Volume, fmt.Errorf("replica %v is in sync: nothing is lost", replica))
	}
	for i := range rec.Members {
		if rec.Members[i].State == spec.InSync {
			rec.Members[i].State, rec.Members[i].Since = spec.Outdated, 0
		}
	}
	rec.Members[m].State, rec.Members[m].Since = spec.InSync, 0
	rec.Settled = 0
	rec.Snapshots = slices.DeleteFunc(rec.Snapshots, func(g block.Generation) bool { return !slices.Contains(kept, g) })
	return nil
}

// acceptLoss makes the decision for the attached volume: only while no replica that is in
// sync can be reached, and the chosen one can.
func (c *Coordinator) acceptLoss(ch *Change, next *spec.Record) error {
	var up []string
	for i, x := range c.members {
		if c.inSync(i) && x.linked && x.opened != nil && x.bad == nil {
			up = append(up, c.rec.Members[i].Replica.String())
		}
	}
	if len(up) > 0 {
		return fault.E("coordinator.AcceptLoss", fault.Precondition, c.rec.Volume, fmt.Errorf("replica %s is in sync and can be reached: nothing need be lost", strings.Join(up, ", ")))
	}
	m := next.Find(ch.Replica)
	if m < 0 || m >= len(c.members) || c.members[m].opened == nil {
		return fault.E("coordinator.AcceptLoss", fault.Unavailable, c.rec.Volume, errors.New("the replica can't be reached"))
	}
	return withLoss(next, ch.Replica, c.members[m].opened.Snapshots)
}
