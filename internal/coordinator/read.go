package coordinator

import (
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// A read asks one member for all of it. When every member has some block that it can't
// read, the read goes on block by block, so that one good copy of each is enough. What
// had to come from another member is written to those that could not give it.

// reader chooses the in-sync member to read from: the one on this node, else in turn.
func (c *Coordinator) reader(tried members) int {
	c.rotate++
	best := -1
	for i := range c.members {
		m := (i + c.rotate) % len(c.members)
		if !c.inSync(m) || tried.has(m) || c.members[m].promised != c.rec.Epoch {
			continue
		}
		if c.rec.Members[m].Node == c.opts.Node {
			return m
		}
		best = m
	}
	return best
}

func (c *Coordinator) readFrom(q *Request, m int, fx *Effects) {
	if m >= 0 {
		q.from, q.need, q.acked = m, 0, 0
		q.need.add(m)
		c.sendRequest(q, m, fx)
		return
	}
	if c.untried(q) {
		q.need = 0 // somebody is to be asked who has not promised the epoch yet
		return
	}
	if q.part == q.Extent && q.part.Count > 1 {
		q.part.Count, q.tried = 1, 0
		c.readFrom(q, c.reader(0), fx)
		return
	}
	q.need, q.done = 0, true
	q.Err = fault.E("coordinator.Read", fault.Corrupt, c.rec.Volume, fmt.Errorf("no in-sync replica has good data for blocks %v", q.part))
}

// untried reports whether a member that counts was not asked.
func (c *Coordinator) untried(q *Request) bool {
	for m := range c.members {
		if c.inSync(m) && !q.tried.has(m) {
			return true
		}
	}
	return false
}

// wasRead takes what a member read.
func (c *Coordinator) wasRead(m int, q *Request, a *wire.ReadDone, fx *Effects) {
	e := q.part
	if len(a.Data) != int(e.Bytes()) || len(a.Sums) != int(e.Count) {
		c.blame(m, failureOf(a))
		return
	}
	q.acked.add(m)
	at := int(e.Start - q.Extent.Start)
	if data := q.Data[at*block.Size:]; &data[0] != &a.Data[0] { // a replica in this process may have put it there
		copy(data, a.Data)
	}
	copy(q.Sums[at:], a.Sums)
	if q.tried == 0 || q.Generation != 0 { // a snapshot can't be written to
		c.nextPart(q, fx)
		return
	}
	if c.repairs(q.part) {
		q.need, q.acked = 0, 0 // it is read again, and then it may be good everywhere
		return
	}
	q.repairing = true
	q.need, q.acked = 0, 0
	for m, x := range c.members {
		if !q.tried.has(m) || !c.inSync(m) { // one that was left behind meanwhile has it copied
			continue
		}
		c.stats.Repaired += int(e.Count)
		q.need.add(m)
		if x.promised == c.rec.Epoch { // else when it has promised: see resend
			c.sendRepair(q, m, fx)
		}
	}
}

// repairs reports whether some of e is being repaired by another read: no two changes of a
// block may be with a replica together.
func (c *Coordinator) repairs(e block.Extent) bool {
	for _, o := range c.active {
		if o.Op == Read && o.repairing && o.part.Overlaps(e) {
			return true
		}
	}
	return false
}

// sendRepair writes what was read to a copy that could not give it.
func (c *Coordinator) sendRepair(q *Request, m int, fx *Effects) {
	at, end := int(q.part.Start-q.Extent.Start), int(q.part.End()-q.Extent.Start)
	q.write = wire.Write{Epoch: c.rec.Epoch, Extent: q.part, Sums: q.Sums[at:end], Data: q.Data[at*block.Size : end*block.Size]}
	c.send(m, q.slot, &q.write, fx)
}

// nextPart goes on with the next block of a read that is made block by block.
func (c *Coordinator) nextPart(q *Request, fx *Effects) {
	q.repairing, q.tried = false, 0
	if q.part.End() >= q.Extent.End() {
		q.done = true
		return
	}
	q.part = block.Extent{Start: q.part.End(), Count: 1}
	c.readFrom(q, c.reader(0), fx)
}

// finishRead goes on with a read, and reports whether it is complete.
func (c *Coordinator) finishRead(now time.Duration, q *Request, fx *Effects) bool {
	switch {
	case !q.done && q.repairing && q.acked&q.need == q.need:
		c.nextPart(q, fx)
	case !q.done && q.need == 0:
		c.readFrom(q, c.reader(q.tried), fx) // who was asked was left behind meanwhile
	}
	// Without the leases somebody else may have written since.
	return q.Op == Read && q.done && c.ready(now)
}
