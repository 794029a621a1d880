package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// A snapshot takes a number first: the record says that it is given away, and the replicas
// are told which generation is about to end. Then writes are held until those that were
// started have ended on every replica that counts; every such replica ends the generation,
// in memory alone, and writes go on. When it is a snapshot there that survives the loss of
// power the record lists it. (Replicas of nodes that don't know these steps do it at once,
// while writes are held.) An owner that dies in between leaves a number that the record does
// not list: replicas that sealed it are told that it does not exist, as they are told of
// snapshots that were deleted while they were away. So which generation is the live one
// need not be the same on every replica, and a number never means two moments.

// nextGeneration returns the number that the next snapshot gets.
func (c *Coordinator) nextGeneration() block.Generation { return max(c.rec.Generation, 1) }

// frozen reports whether new writes wait.
func (c *Coordinator) frozen() bool { return c.hold != nil }

// prepare tells every replica that counts which generation is about to end, and reports
// whether none is to be waited for. One that can't prepare is asked for a Snapshot.
func (c *Coordinator) prepare(ch *Change, fx *Effects) bool {
	waits, gen := false, ch.Generation
	for m, x := range c.members {
		if c.inSync(m) && x.promised == c.rec.Epoch && x.bad == nil && x.version >= wire.V4 && !ch.asked.has(m) {
			ch.asked.add(m)
			x.preparing = true
			c.ask(m, &wire.Seal{Epoch: c.rec.Epoch, Generation: gen, Step: wire.SealPrepare}, fx, func(_ time.Duration, m int, msg wire.Message, _ *Effects) {
				x.preparing = false
				if _, ok := msg.(*wire.Done); ok {
					x.prepared = gen
				}
			})
		}
		waits = waits || c.inSync(m) && x.preparing
	}
	return !waits
}

// beginHold holds new writes.
func (c *Coordinator) beginHold(now time.Duration, ch *Change) {
	ch.step = drains
	c.hold, c.holdUntil = ch, now+HoldMax
	if ch.Until != 0 {
		c.holdUntil = ch.Until
	}
}

// countHold counts for how long writes are held.
func (c *Coordinator) countHold(now time.Duration) {
	switch {
	case c.frozen() && c.heldAt == 0:
		c.heldAt = now
	case !c.frozen() && c.heldAt != 0:
		c.stats.Held += now - c.heldAt
		c.heldAt = 0
	}
}

// thaw lets writes go on. A snapshot that a Hold was for, and that was not released, is
// forgotten.
func (c *Coordinator) thaw() {
	if ch := c.hold; ch != nil && ch.Op == Hold {
		c.forgetSealed()
	}
	c.hold = nil
}

// forgetSealed gives up the snapshot that was taken and not recorded.
func (c *Coordinator) forgetSealed() {
	c.sealed, c.unconfirmed = 0, 0
	c.trimAll()
}

// drained reports whether nothing that was started can change the volume any more, and
// every replica that counts has it all.
func (c *Coordinator) drained(now time.Duration) bool {
	for _, q := range c.active {
		if q.changes() && q.copy == nil {
			return false
		}
	}
	return c.ready(now) && c.proposed == nil && c.gate.count() == 0
}

// goOnSnapshot takes the next step of a Snapshot or Hold.
func (c *Coordinator) goOnSnapshot(now time.Duration, ch *Change, fx *Effects) {
	if ch.step >= drains && ch.step < seals && c.hold != ch || (ch.step == fresh || ch.step == prepares) && ch.Until != 0 && now >= ch.Until {
		c.endChange(ch, fault.E("coordinator.Snapshot", fault.Timeout, c.rec.Volume, errors.New("writes under way did not end in time; they go on")), fx)
		return
	}
	switch ch.step {
	case fresh:
		c.beginSnapshot(now, ch, fx)
	case prepares:
		if !c.prepare(ch, fx) {
			return
		}
		c.beginHold(now, ch)
		fallthrough
	case drains:
		switch {
		case !c.drained(now):
		case ch.Op == Hold:
			held := *ch
			c.hold = &held
			c.endChange(ch, nil, fx)
		default:
			c.seal(ch, fx)
		}
	case seals:
		c.finishSeal(ch, fx)
	case confirms:
		c.confirm(ch, fx)
	}
}

// beginSnapshot starts a Snapshot or Hold as soon as the copies agree.
func (c *Coordinator) beginSnapshot(now time.Duration, ch *Change, fx *Effects) {
	switch {
	case ch.Op == Snapshot && ch.Held && (!c.heldFor(ch) || c.sealed != 0):
		c.endChange(ch, fault.E("coordinator.Snapshot", fault.Timeout, c.rec.Volume, errors.New("writes are not held, or not any more")), fx)
	case ch.Op == Snapshot && ch.Held:
		if c.drained(now) {
			ch.Generation = c.hold.Generation
			c.seal(ch, fx)
		}
	case c.hold != nil:
		c.endChange(ch, fault.E("coordinator.Snapshot", fault.Busy, c.rec.Volume, errors.New("writes are held already")), fx)
	case len(c.rec.Snapshots) >= SnapshotsMax:
		c.endChange(ch, fault.WithCure(fault.E("coordinator.Snapshot", fault.NoSpace, c.rec.Volume, fmt.Errorf("the volume has %d snapshots", len(c.rec.Snapshots))),
			"delete some"), fx)
	case c.gate.count() == 0:
		ch.step = numbers
	}
}

// SnapshotsMax is how many snapshots a volume may have.
const SnapshotsMax = 1024

// seal has every replica that counts begin the next generation. From here on the snapshot
// is taken, whatever fails: a replica that does not answer is left behind.
func (c *Coordinator) seal(ch *Change, fx *Effects) {
	ch.step, c.sealed, c.unconfirmed = seals, ch.Generation, 0
	c.splitSyncs(ch.Generation)
	for m := range c.members {
		if c.inSync(m) {
			c.sendSeal(m, ch, fx)
		}
	}
}

func (c *Coordinator) sendSeal(m int, ch *Change, fx *Effects) {
	x := c.members[m]
	x.sealing = true
	var ask wire.Message = &wire.Snapshot{Epoch: c.rec.Epoch, Generation: ch.Generation}
	prepared := x.prepared == ch.Generation
	if prepared {
		ask = &wire.Seal{Epoch: c.rec.Epoch, Generation: ch.Generation, Step: wire.SealEnd}
	}
	c.ask(m, ask, fx, func(now time.Duration, m int, msg wire.Message, fx *Effects) {
		x.sealing = false
		switch a := msg.(type) {
		case *wire.Done:
			ch.acked.add(m)
			if prepared {
				c.unconfirmed.add(m)
			}
		case *wire.Fail:
			if a.Status == fault.Precondition && prepared {
				x.prepared = 0 // somebody else changed what it is: it is asked for a Snapshot
				return
			}
			if a.Status != fault.NoSpace {
				c.blame(m, failureOf(msg))
				return
			}
			ch.refused.add(m)
			if ch.why == nil {
				ch.why = fault.E("coordinator.Snapshot", fault.NoSpace, c.rec.Volume, fmt.Errorf("replica %v: %s", c.rec.Members[m].Replica, a.Text))
			}
		}
	})
}

// finishSeal goes on when every replica that counts has sealed the generation.
func (c *Coordinator) finishSeal(ch *Change, fx *Effects) {
	count, acked, refused := 0, 0, 0
	for m, x := range c.members {
		switch {
		case !c.inSync(m):
		case ch.acked.has(m):
			acked++
			count++
		case ch.refused.has(m):
			refused++
			count++
		default:
			count++
			if !x.sealing && x.bad == nil && x.promised == c.rec.Epoch {
				c.sendSeal(m, ch, fx) // its connection was lost in between
			}
		}
	}
	if !c.settled() || acked+refused < count {
		return
	}
	switch {
	case acked == 0 && refused > 0: // none has it: the number is lost, that is all
		c.sealed, c.unconfirmed = 0, 0
		if c.hold == ch {
			c.hold = nil
		}
		c.endChange(ch, ch.why, fx)
		return
	case refused > 0:
		for m := range c.members {
			if c.inSync(m) && ch.refused.has(m) {
				c.blame(m, ch.why)
			}
		}
		ch.refused = 0
		return
	}
	if ch.Held {
		if c.hold == nil { // it took too long
			c.forgetSealed()
			c.endChange(ch, fault.E("coordinator.Snapshot", fault.Timeout, c.rec.Volume, errors.New("writes were not held long enough")), fx)
			return
		}
		c.endChange(ch, nil, fx) // Release records it
		return
	}
	c.hold = nil
	c.beginConfirm(ch, fx)
}

// beginConfirm goes on when writes do: the snapshot is to be durable before the record
// lists it.
func (c *Coordinator) beginConfirm(ch *Change, fx *Effects) {
	ch.step, ch.asked, ch.refused, ch.why = confirms, 0, 0, nil
	c.confirm(ch, fx)
}

// confirm waits until the snapshot is durable on every replica that counts. One that lost
// power before that does not have it, and is left behind; if none has it, there is none.
func (c *Coordinator) confirm(ch *Change, fx *Effects) {
	have, waits := 0, false
	for m, x := range c.members {
		switch {
		case !c.inSync(m) || ch.refused.has(m):
		case !c.unconfirmed.has(m):
			have++
		default:
			waits = true
			if !x.sealing && x.bad == nil && x.promised == c.rec.Epoch {
				c.askConfirm(m, ch, fx)
			}
		}
	}
	switch {
	case waits || !c.settled():
	case have == 0:
		c.forgetSealed()
		c.endChange(ch, ch.why, fx)
	case ch.refused != 0:
		for m := range c.members {
			if c.inSync(m) && ch.refused.has(m) {
				c.blame(m, ch.why)
			}
		}
		ch.refused = 0
	default:
		ch.step = records
	}
}

func (c *Coordinator) askConfirm(m int, ch *Change, fx *Effects) {
	x := c.members[m]
	x.sealing = true
	c.ask(m, &wire.Seal{Epoch: c.rec.Epoch, Generation: c.sealed, Step: wire.SealConfirm}, fx, func(_ time.Duration, m int, msg wire.Message, _ *Effects) {
		x.sealing = false
		switch a := msg.(type) {
		case *wire.Done:
			c.unconfirmed.drop(m)
		case *wire.Fail:
			if a.Status != fault.Precondition {
				c.blame(m, failureOf(msg))
				return
			}
			ch.refused.add(m)
			ch.why = fault.WithCure(fault.E("coordinator.Snapshot", fault.Unavailable, c.rec.Volume, fmt.Errorf("replica %v lost power before the snapshot was durable", c.rec.Members[m].Replica)), "take it again")
		}
	})
}

// heldFor reports whether writes are held by the Hold that the change means.
func (c *Coordinator) heldFor(ch *Change) bool {
	return c.hold != nil && c.hold.Op == Hold && (ch.Generation == 0 || ch.Generation == c.hold.Generation)
}

// goOnRelease ends a Hold.
func (c *Coordinator) goOnRelease(ch *Change, fx *Effects) {
	if ch.step == confirms {
		c.confirm(ch, fx)
	}
	if ch.step != fresh {
		return
	}
	if !c.heldFor(ch) {
		c.endChange(ch, fault.E("coordinator.Release", fault.Timeout, c.rec.Volume, errors.New("writes were not held any more")), fx)
		return
	}
	ch.Generation = c.sealed
	if ch.Drop || c.sealed == 0 {
		c.thaw()
		c.endChange(ch, nil, fx)
		return
	}
	c.hold = nil
	c.beginConfirm(ch, fx)
}

// goOnDelete has every replica that counts forget the snapshot that the record no longer
// lists. The others are told when they come back.
func (c *Coordinator) goOnDelete(ch *Change, fx *Effects) {
	switch ch.step {
	case fresh:
		if !slices.Contains(c.rec.Snapshots, ch.Generation) {
			c.endChange(ch, nil, fx)
		}
	case tells:
		for m, x := range c.members {
			if c.inSync(m) && (x.trim || x.trimming) {
				return
			}
		}
		c.endChange(ch, nil, fx)
	}
}

// goOnGrow makes every replica that takes writes larger, before anybody writes there.
func (c *Coordinator) goOnGrow(ch *Change, fx *Effects) {
	switch {
	case ch.step == fresh && (ch.Size < c.rec.Size || !block.ValidSize(ch.Size)):
		c.endChange(ch, fault.E("coordinator.Grow", fault.Invalid, c.rec.Volume, fmt.Errorf("can't change the size from %d to %d bytes: volumes only grow, by multiples of %d, to %d", c.rec.Size, ch.Size, block.Size, int64(block.VolumeSizeMax))), fx)
	case ch.step == fresh && ch.Size == c.rec.Size:
		c.endChange(ch, nil, fx)
	case ch.step == fresh:
		ch.step = tells
		c.growing = ch.Size
		for _, x := range c.members {
			x.refusedSize = nil // there may be space by now
		}
		fallthrough
	case ch.step == tells:
		for m, x := range c.members {
			if ch.why == nil && x.refusedSize != nil && c.inSync(m) {
				ch.why = x.refusedSize
			}
			if ch.why == nil && (c.inSync(m) || c.takesWrites(m)) && x.size < ch.Size {
				return
			}
		}
		c.growing = 0
		if ch.why != nil {
			c.endChange(ch, ch.why, fx)
			return
		}
		ch.step = records
	}
}

// trimAll has every member told which snapshots exist.
func (c *Coordinator) trimAll() {
	for _, x := range c.members {
		x.trim = true
	}
}

// fit brings a member that has promised the epoch to where the record is: it forgets
// snapshots that don't exist, and is as large as the volume. It reports whether that is
// so.
func (c *Coordinator) fit(m int, fx *Effects) bool {
	x := c.members[m]
	if x.promised != c.rec.Epoch || x.bad != nil || c.leave.stage >= releasing {
		return false
	}
	if x.trim && !x.trimming {
		x.trim, x.trimming = false, true
		c.ask(m, &wire.Generations{Epoch: c.rec.Epoch, List: c.generations()}, fx, func(_ time.Duration, m int, msg wire.Message, fx *Effects) {
			x.trimming = false
			if _, ok := msg.(*wire.Done); !ok {
				x.trim = true
				if msg != nil {
					c.blame(m, failureOf(msg))
				}
			}
		})
	}
	size := max(c.rec.Size, c.growing)
	if x.size < size && !x.resizing && (x.refusedSize == nil || size == c.rec.Size) { // what is recorded it must have
		x.resizing = true
		c.ask(m, &wire.Grow{Epoch: c.rec.Epoch, Size: size}, fx, func(_ time.Duration, m int, msg wire.Message, fx *Effects) {
			x.resizing = false
			switch a := msg.(type) {
			case *wire.Done:
				x.size = max(x.size, size)
			case *wire.Fail:
				if a.Status == fault.NoSpace && size > c.rec.Size {
					x.refusedSize = fault.E("coordinator.Grow", fault.NoSpace, c.rec.Volume, fmt.Errorf("replica %v: %s", c.rec.Members[m].Replica, a.Text))
					return
				}
				c.blame(m, failureOf(msg))
			}
		})
	}
	return !x.trim && !x.trimming && x.size >= size
}

// generations lists what exists: the snapshots, the one that is about to, and the live
// one.
func (c *Coordinator) generations() []block.Generation {
	list := slices.Clone(c.rec.Snapshots)
	if c.sealed != 0 && !slices.Contains(list, c.sealed) {
		list = append(list, c.sealed)
	}
	return append(list, c.nextGeneration())
}

// forgetGeneration has members told that a snapshot is no more, and begins anew with those
// that are being filled with it.
func (c *Coordinator) forgetGeneration(g block.Generation) {
	c.trimAll()
	for m, x := range c.members {
		if s := x.sync; s != nil && s.uses(g) {
			c.abandonSync(m)
		}
	}
}
