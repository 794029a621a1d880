package coordinator

import (
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// ChangeOp is what a Change does.
type ChangeOp uint8

// The changes.
const (
	Reconfigure ChangeOp = iota + 1 // add and remove replicas
)

// ChangesMax is how many changes may wait; more are refused as Busy.
const ChangesMax = 64

// Change is a change of the volume itself, as control orders it. The caller fills it in,
// orders it, and leaves it alone until it is among Effects.Changed. Changes are made one
// after the other.
type Change struct {
	Op     ChangeOp
	Add    []spec.Member     // Reconfigure: new replicas, which begin with nothing
	Remove []block.ReplicaID // Reconfigure: those that are to go
	Err    error             // a *fault.Error
	User   any               // the caller's, for it to know the change by

	step int
	over bool
}

// order accepts a change.
func (c *Coordinator) order(now time.Duration, ch *Change, fx *Effects) {
	ch.Err, ch.step, ch.over = nil, 0, false
	switch {
	case c.leave.stage != staying:
		c.changed(ch, detaching("nothing is changed any more"), fx)
	case len(c.changes) >= ChangesMax:
		c.changed(ch, fault.E("coordinator.Order", fault.Busy, c.rec.Volume, fmt.Errorf("%d changes are waiting", len(c.changes))), fx)
	default:
		c.changes = append(c.changes, ch)
	}
}

// changed says that a change is complete.
func (c *Coordinator) changed(ch *Change, err error, fx *Effects) {
	ch.Err, ch.over = err, true
	fx.Changed = append(fx.Changed, ch)
}

// current returns the change that is under way, or nil.
func (c *Coordinator) current() *Change {
	if len(c.changes) == 0 {
		return nil
	}
	return c.changes[0]
}

// endChange completes the change under way; the next one begins.
func (c *Coordinator) endChange(ch *Change, err error, fx *Effects) {
	c.changes = c.changes[1:]
	c.changed(ch, err, fx)
}

// goOnChange takes the next step of the change under way, as far as that is not a change
// of the record.
func (c *Coordinator) goOnChange(now time.Duration, fx *Effects) {}

// wantsRecord reports whether the next step of the change is one of the record.
func (ch *Change) wantsRecord() bool { return ch.Op == Reconfigure }

// applyTo makes the change's step in the record that is about to be proposed, or leaves
// the record alone and says why.
func (c *Coordinator) applyTo(ch *Change, next *spec.Record) error {
	return c.reconfigure(ch, next)
}

// refuseChange ends a change that can't be recorded.
func (c *Coordinator) refuseChange(ch *Change, err error, fx *Effects) { c.endChange(ch, err, fx) }

// changeRecorded goes on after the record has the change's step.
func (c *Coordinator) changeRecorded(ch *Change, fx *Effects) { c.endChange(ch, nil, fx) }

// endsCopy reports whether the change removes a replica that counts in rec.
func (ch *Change) endsCopy(rec spec.Record) bool {
	for _, id := range ch.Remove {
		if m := rec.Find(id); m >= 0 && rec.Members[m].State == spec.InSync {
			return true
		}
	}
	return false
}
