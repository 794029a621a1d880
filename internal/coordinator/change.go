package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// ChangeOp is what a Change does.
type ChangeOp uint8

// The changes.
const (
	Reconfigure    ChangeOp = iota + 1 // add and remove replicas
	Snapshot                           // Generation becomes what was written up to one moment
	DeleteSnapshot                     // Generation is no more
	Grow                               // the volume gets Size
	Hold                               // no write is completed from now on, until Release or Until
	Release                            // writes go on; the snapshot that was taken meanwhile is recorded
	AcceptLoss                         // Replica counts again although it lacks writes; those that have them don't
)

// ChangesMax is how many changes may wait; more are refused as Busy.
const ChangesMax = 64

// Change is a change of the volume itself, as control orders it. The caller fills it in,
// orders it, and leaves it alone until it is among Effects.Changed. Changes are made one
// after the other. One that is under way when the coordinator dies has been made or not;
// ordered again it does no harm.
//
// A snapshot of a group of volumes is Hold on each of them; then, when all have answered,
// Snapshot with Held on each; then, when all have answered, Release. It counts when every
// Release succeeded. Nothing of it remains where Release has Drop set, or fails.
type Change struct {
	Op      ChangeOp
	Add     []spec.Member     // Reconfigure: new replicas, which begin with nothing
	Remove  []block.ReplicaID // Reconfigure: those that are to go
	Size    int64             // Grow: bytes
	Replica block.ReplicaID   // AcceptLoss
	// Generation is, for DeleteSnapshot, which one. Snapshot and Hold tell which it will
	// be; Snapshot with Held and Release should have that of their Hold, or they may meet
	// another one after theirs took too long.
	Generation block.Generation
	Held       bool // Snapshot: of the moment that a Hold keeps
	Drop       bool // Release: forget the snapshot that was taken
	// Until is when a Snapshot or Hold that could not begin gives up, and when a Hold
	// ends by itself: a moment of Step's clock; 0 is HoldMax after it began to hold.
	Until time.Duration
	Err   error // a *fault.Error
	User  any   // the caller's, for it to know the change by

	step    step
	over    bool
	asked   members // to prepare
	acked   members // of what was asked of each member
	refused members
	why     error // of the first refusal
}

// HoldMax bounds how long writes wait for a snapshot that can't begin: well below what
// makes an application or a kernel give up.
const HoldMax = 5 * time.Second

// step is how far a change has come.
type step uint8

const (
	fresh    step = iota
	numbers       // the record is to know that the generation's number is given away
	prepares      // the replicas are to know that the generation is about to end
	drains        // writes are held; those that were started are to end
	seals         // the replicas are to begin the next generation
	confirms      // writes go on; the replicas are to make the snapshot durable
	tells         // the replicas are to do what the change says
	records       // the record is to say so
)

// order accepts a change.
func (c *Coordinator) order(ch *Change, fx *Effects) {
	ch.Err, ch.step, ch.over, ch.asked, ch.acked, ch.refused, ch.why = nil, fresh, false, 0, 0, 0, nil
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
	c.changes = slices.Delete(c.changes, 0, 1)
	c.changed(ch, err, fx)
}

// dropChanges ends the changes that were not begun, and those that can be given up.
func (c *Coordinator) dropChanges(fx *Effects) {
	if c.hold != nil && c.hold.step < seals {
		c.thaw()
	}
	for i, ch := range slices.Clone(c.changes) {
		if i == 0 && (ch.step >= seals || c.carries == ch) {
			continue
		}
		c.changes = slices.DeleteFunc(c.changes, func(x *Change) bool { return x == ch })
		c.changed(ch, detaching("the change was not made"), fx)
	}
}

// goOnChange takes the next step of the change under way, as far as that is not a change
// of the record.
func (c *Coordinator) goOnChange(now time.Duration, fx *Effects) {
	if c.hold != nil && now >= c.holdUntil && c.hold.step < seals {
		c.thaw() // whoever held it has gone, or takes too long
	}
	ch := c.current()
	if ch == nil || c.phase != serving {
		return
	}
	switch ch.Op {
	case Snapshot, Hold:
		c.goOnSnapshot(now, ch, fx)
	case Release:
		c.goOnRelease(ch, fx)
	case DeleteSnapshot:
		c.goOnDelete(ch, fx)
	case Grow:
		c.goOnGrow(ch, fx)
	}
}

// wantsRecord reports whether the next step of the change is one of the record.
func (c *Coordinator) wantsRecord(ch *Change) bool {
	switch {
	case ch.Op == Reconfigure, ch.Op == AcceptLoss:
		return true
	case c.phase != serving:
		return false
	case ch.Op == DeleteSnapshot:
		return ch.step == fresh
	}
	return ch.step == numbers || ch.step == records
}

// applyTo makes the change's step in the record that is about to be proposed, or leaves
// the record alone and says why.
func (c *Coordinator) applyTo(ch *Change, next *spec.Record) error {
	switch ch.Op {
	case Reconfigure:
		return c.reconfigure(ch, next)
	case AcceptLoss:
		return c.acceptLoss(ch, next)
	case Grow:
		next.Size = ch.Size
	case DeleteSnapshot:
		next.Snapshots = slices.DeleteFunc(next.Snapshots, func(g block.Generation) bool { return g == ch.Generation })
	case Snapshot, Hold, Release:
		if ch.step == numbers {
			next.Generation = c.nextGeneration() + 1
		} else {
			next.Snapshots = append(next.Snapshots, ch.Generation)
		}
	}
	return nil
}

// refuseChange ends a change that can't be recorded.
func (c *Coordinator) refuseChange(ch *Change, err error, fx *Effects) { c.endChange(ch, err, fx) }

// changeRecorded goes on after the record has the change's step.
func (c *Coordinator) changeRecorded(now time.Duration, ch *Change, fx *Effects) {
	switch {
	case ch.Op == DeleteSnapshot:
		ch.step = tells
		c.forgetGeneration(ch.Generation)
	case ch.step == numbers:
		ch.Generation, ch.step = c.rec.Generation-1, prepares
	case ch.Op == AcceptLoss:
		if c.phase == serving { // some of what this very coordinator completed is gone
			c.lost = fault.E("coordinator.Flush", fault.Media, c.rec.Volume, errors.New("replica "+ch.Replica.String()+" counts although it lacks writes: data was lost"))
		}
		c.endChange(ch, nil, fx)
	default:
		if ch.step == records && ch.Op != Grow {
			c.sealed, c.unconfirmed = 0, 0
		}
		c.endChange(ch, nil, fx)
	}
}

// changesCounting reports whether the change, once recorded, changes who counts.
func (ch *Change) changesCounting(rec spec.Record) bool {
	if ch.Op == AcceptLoss {
		return true
	}
	for _, id := range ch.Remove {
		if m := rec.Find(id); m >= 0 && rec.Members[m].State == spec.InSync {
			return true
		}
	}
	return false
}
