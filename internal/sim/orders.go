package sim

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// owner returns a head that serves, or nil.
func (c *cluster) owner() *head {
	for _, h := range c.heads {
		if h.alive() && h.coord.Serving(h.node.now()) && h.left < 0 {
			return h
		}
	}
	return nil
}

// order has a change made, and calls done with what became of it, unless the head dies.
func (h *head) order(ch *coordinator.Change, done func(error)) {
	h.orders[ch] = done
	h.step(coordinator.Order{Change: ch})
}

func (h *head) changed(ch *coordinator.Change) {
	done := h.orders[ch]
	delete(h.orders, ch)
	done(ch.Err)
}

// detach has the owner give the volume back.
func (c *cluster) detach() {
	if h := c.owner(); h != nil {
		c.log("%s is told to detach", h.name)
		h.quiet, h.left = true, c.losses
		h.step(coordinator.Detach{})
	}
}

// stopped checks that a head which detached left everything durable behind.
func (h *head) stopped() {
	c := h.c
	if !h.coord.Detached() {
		return
	}
	if c.record.Version == h.coord.Record().Version && !c.record.Owner.IsZero() {
		c.found("%s has detached, the record names an owner", h.name)
	}
	if h.left == c.losses && !fault.Is(h.coord.Stopped(), fault.Media) {
		c.model.flushed(c.model.ackedNow(0, len(c.model.blocks)))
	}
}

// reconfigure adds a replica on a node that has none, or removes one.
func (c *cluster) reconfigure() {
	add, remove := c.moves()
	if len(add)+len(remove) == 0 {
		return
	}
	done := func(err error) {
		c.log("reconfigured: add %d, remove %d: %v", len(add), len(remove), err)
		c.tidy()
	}
	if h := c.owner(); h != nil {
		h.order(&coordinator.Change{Op: coordinator.Reconfigure, Add: add, Remove: remove}, done)
		return
	}
	if c.recordDown {
		return
	}
	next, err := coordinator.Reconfigured(c.record, add, remove)
	if err == nil {
		c.record = next
	}
	done(err)
}

// moves draws replicas to add and to remove.
func (c *cluster) moves() (add []spec.Member, remove []block.ReplicaID) {
	if c.chance(70) {
		for _, n := range c.nodes {
			if n.up && n.replica != nil && c.record.Find(n.holds) < 0 && !n.was { // else it may be given up before it is in the record
				add = append(add, spec.Member{Replica: n.holds, Node: n.id}) // made earlier
			} else if n.up && n.holds.IsZero() && c.replicas < 250 {
				c.replicas++
				n.create(block.ReplicaID{c.replicas}, func() {}) // to be added next time
			}
		}
	}
	if members := c.record.Members; len(members) > 1 && c.chance(40) {
		remove = append(remove, members[c.rand.IntN(len(members))].Replica)
	}
	return add, remove
}

// tidy has nodes give up replicas that left the record.
func (c *cluster) tidy() {
	for _, n := range c.nodes {
		if n.up && n.replica != nil && n.was && c.record.Find(n.holds) < 0 && c.chance(50) {
			n.giveUp()
		}
		n.was = c.record.Find(n.holds) >= 0
	}
}

// goOnChanging has changes made all the time.
func (c *cluster) goOnChanging() {
	if !c.healed {
		c.change()
		c.after(c.between(c.lease/20, c.lease), c.goOnChanging)
	}
}

// change has the owner take, delete or hold for a snapshot, or grow the volume.
func (c *cluster) change() {
	h := c.owner()
	if h == nil {
		return
	}
	if c.restores && c.chance(25) {
		h.restore()
		return
	}
	if c.clones && c.chance(40) {
		c.clone()
		return
	}
	switch k := c.rand.IntN(10); {
	case k < 4:
		h.snapshot(h.until())
	case k < 6:
		h.group()
	case k < 8:
		h.deleteSnapshot()
	default:
		h.grow()
	}
}

// until draws when a hold gives up: often too early.
func (h *head) until() time.Duration {
	return h.node.now() + h.c.between(time.Millisecond, h.c.lease*2)
}

// snapshot takes one, if it can begin until then: a moment of the node's clock; 0 for the
// coordinator's own limit.
func (h *head) snapshot(until time.Duration) {
	x := h.c.model.beginSnapshot(h.c.losses)
	ch := &coordinator.Change{Op: coordinator.Snapshot, Until: until}
	h.order(ch, func(err error) {
		h.c.log("%s has snapshot %d: %v", h.name, ch.Generation, err)
		h.c.model.endSnapshot(x, ch.Generation, err == nil, h.c.losses)
		if err == nil {
			h.c.counts.Snapshots++
		}
	})
}

// group takes a snapshot as if the volume were one of several.
func (h *head) group() {
	c := h.c
	hold := &coordinator.Change{Op: coordinator.Hold, Until: h.until()}
	h.order(hold, func(err error) {
		c.log("%s holds for snapshot %d: %v", h.name, hold.Generation, err)
		if err != nil {
			return
		}
		x := c.model.beginSnapshot(c.losses)
		held := h.wrote
		taken := &coordinator.Change{Op: coordinator.Snapshot, Held: true, Generation: hold.Generation}
		h.order(taken, func(err error) {
			if err != nil {
				c.log("%s could not take the held snapshot: %v", h.name, err)
			}
			c.after(c.between(time.Microsecond, c.lease), func() {
				release := &coordinator.Change{Op: coordinator.Release, Generation: hold.Generation, Drop: err != nil || c.chance(20)}
				still := held == h.wrote
				h.order(release, func(err error) {
					c.log("%s has released snapshot %d: %v", h.name, release.Generation, err)
					if err == nil && !still {
						c.found("%s completed a write while it was held", h.name)
					}
					c.model.endSnapshot(x, release.Generation, err == nil && !release.Drop, c.losses)
				})
			})
		})
	})
}

func (h *head) deleteSnapshot() {
	list := h.coord.Record().Snapshots
	if len(list) == 0 {
		return
	}
	g := list[h.c.rand.IntN(len(list))]
	delete(h.c.model.snapshots, g)
	h.order(&coordinator.Change{Op: coordinator.DeleteSnapshot, Generation: g}, func(err error) {
		h.c.log("%s deleted snapshot %d: %v", h.name, g, err)
		if err == nil {
			h.c.counts.Deleted++
		}
		if err == nil && slices.Contains(h.coord.Record().Snapshots, g) {
			h.c.found("snapshot %d was deleted and is in the record", g)
		}
	})
}

func (h *head) grow() {
	size := h.coord.Record().Size + int64(1+h.c.rand.IntN(40))*block.Size
	h.order(&coordinator.Change{Op: coordinator.Grow, Size: size}, func(err error) {
		h.c.log("%s grows to %d: %v", h.name, size, err)
		if err == nil {
			h.c.model.grow(int(size / block.Size))
			h.c.counts.Grown++
		}
	})
}
