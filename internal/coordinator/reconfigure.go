package coordinator

import (
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// Reconfigured returns the record of a volume that nobody has attached, with replicas
// added, which begin with nothing, and others removed. What is so already is a success.
// The last replica that is in sync is never removed.
func Reconfigured(rec spec.Record, add []spec.Member, remove []block.ReplicaID) (spec.Record, error) {
	if !rec.Owner.IsZero() {
		return rec, fault.E("coordinator.Reconfigured", fault.Busy, rec.Volume, fmt.Errorf("node %v has the volume attached: only its owner may change who holds it", rec.Owner))
	}
	next := rec.Clone()
	if err := rearrange(&next, add, remove); err != nil {
		return rec, err
	}
	next.Version++
	ch := Change{Remove: remove}
	if ch.changesCounting(rec) {
		next.Epoch++
	}
	return next, nil
}

// rearrange adds and removes members of rec, whose places don't matter.
func rearrange(rec *spec.Record, add []spec.Member, remove []block.ReplicaID) error {
	if err := mayReconfigure(*rec, add, remove); err != nil {
		return err
	}
	rec.Members = slices.DeleteFunc(rec.Members, func(m spec.Member) bool { return slices.Contains(remove, m.Replica) })
	for _, x := range add {
		if rec.Find(x.Replica) < 0 {
			rec.Members = append(rec.Members, spec.Member{Replica: x.Replica, Node: x.Node, State: spec.Outdated})
		}
	}
	return nil
}

// mayReconfigure says why members may not be added to or removed from rec, whose members
// that left have State 0.
func mayReconfigure(rec spec.Record, add []spec.Member, remove []block.ReplicaID) error {
	const op = "coordinator.Reconfigure"
	for _, x := range add {
		if m := rec.Find(x.Replica); m >= 0 && rec.Members[m].State != 0 && rec.Members[m].Node != x.Node {
			return fault.E(op, fault.Exists, rec.Volume, fmt.Errorf("replica %v is on node %v, not %v", x.Replica, rec.Members[m].Node, x.Node))
		}
		if slices.Contains(remove, x.Replica) {
			return fault.E(op, fault.Invalid, rec.Volume, fmt.Errorf("replica %v can't be added and removed at once", x.Replica))
		}
	}
	count, inSync := len(add), 0
	for _, m := range rec.Members {
		if m.State != 0 && !slices.Contains(remove, m.Replica) {
			count++
			if m.State == spec.InSync {
				inSync++
			}
		}
	}
	switch {
	case inSync == 0:
		return fault.WithCure(fault.E(op, fault.Precondition, rec.Volume, fmt.Errorf("no replica would be left that holds every acknowledged write")),
			"wait until another replica is in sync, then remove this one")
	case count > MembersMax:
		return fault.E(op, fault.Invalid, rec.Volume, fmt.Errorf("%d replicas, at most %d", count, MembersMax))
	}
	return nil
}

// reconfigure makes the change in the record of the attached volume, whose members are by
// number. Beyond what holds for a detached one, a replica that is fit must stay.
func (c *Coordinator) reconfigure(ch *Change, next *spec.Record) error {
	if err := mayReconfigure(*next, ch.Add, ch.Remove); err != nil {
		return err
	}
	fit := !ch.changesCounting(c.rec)
	for m, x := range c.members {
		fit = fit || next.Members[m].State == spec.InSync && !slices.Contains(ch.Remove, next.Members[m].Replica) && x.bad == nil && x.linked && x.opened != nil
	}
	if !fit {
		return fault.WithCure(fault.E("coordinator.Reconfigure", fault.Unavailable, c.rec.Volume, fmt.Errorf("no replica that is in sync and would stay can be reached")),
			"bring the nodes of the other replicas back first")
	}
	for m := range next.Members {
		if slices.Contains(ch.Remove, next.Members[m].Replica) {
			next.Members[m].State, next.Members[m].Since = 0, 0
		}
	}
	for _, x := range ch.Add {
		if m := next.Find(x.Replica); m < 0 || next.Members[m].State == 0 {
			c.seat(next, spec.Member{Replica: x.Replica, Node: x.Node, State: spec.Outdated})
		}
	}
	return nil
}
