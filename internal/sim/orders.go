package sim

import (
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
			if n.up && n.replica != nil && c.record.Find(n.holds) < 0 {
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
