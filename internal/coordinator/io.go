package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// startAtOnce starts a request that need not wait for anything, which is what nearly all
// do.
func (c *Coordinator) startAtOnce(now time.Duration, q *Request, fx *Effects) bool {
	if c.phase != serving || len(c.queue) > 0 || !c.ready(now) || c.mustWait(q, nil) || c.throttled(now, q, fx) {
		return false
	}
	c.begin(now, q, fx)
	return true
}

// startQueued starts every request that need not wait for an earlier one, for its
// regions to be made equal, or for the leases.
func (c *Coordinator) startQueued(now time.Duration, fx *Effects) {
	if c.phase != serving || !c.ready(now) || len(c.queue) == 0 {
		return
	}
	waiting := c.queue[:0]
	for _, q := range c.queue {
		if c.mustWait(q, waiting) || c.throttled(now, q, fx) {
			waiting = append(waiting, q)
			continue
		}
		c.begin(now, q, fx)
	}
	clear(c.queue[len(waiting):])
	c.queue = waiting
}

// begin starts a request.
func (c *Coordinator) begin(now time.Duration, q *Request, fx *Effects) {
	q.slot = c.take(slot{request: q})
	q.at, q.since = len(c.active), now
	c.active = append(c.active, q)
	c.start(now, q, fx)
}

// mustWait reports whether q has to wait for requests before it: those that are active,
// and those that wait themselves. A flush waits for nobody: it covers what is complete.
func (c *Coordinator) mustWait(q *Request, waiting []*Request) bool {
	if q.Op == Flush {
		return false
	}
	if c.frozen() && q.changes() && q.copy == nil {
		return true
	}
	for _, o := range c.active {
		if o.Op != Flush && q.conflicts(o) && !(fault.Planted("overlapping writes in any order") && q.copy == nil && o.copy == nil) {
			return true
		}
	}
	if k := q.copy; k != nil { // those before it may wait for this very copy
		return k.sync != nil && c.gated(q.Extent)
	}
	for _, o := range waiting {
		if o.Op != Flush && o.copy == nil && q.conflicts(o) {
			return true
		}
	}
	return q.Generation == 0 && c.gated(q.Extent)
}

// start sends a request to those who must answer it.
func (c *Coordinator) start(now time.Duration, q *Request, fx *Effects) {
	switch {
	case q.copy != nil:
		c.beginCopy(now, q.copy, fx)
		return
	case q.Op == Read:
		q.part = q.Extent
		c.readFrom(q, c.reader(0), fx)
		return
	}
	c.replicate(q, fx)
}

// replicate sends a change or a flush to every member that counts, and a change to those
// that are to count soon.
func (c *Coordinator) replicate(q *Request, fx *Effects) {
	switch q.Op {
	case Write:
		q.write = wire.Write{Extent: q.Extent, FUA: q.FUA, Sums: q.Sums, Data: q.Data}
	case Zero:
		q.zero = wire.Zero{Extent: q.Extent, FUA: q.FUA, Unmap: true}
	}
	q.need, q.acked, q.tried = 0, 0, 0
	for m := range c.members {
		switch {
		case c.inSync(m) || q.changes() && c.takesWrites(m) || q.Op == Flush && c.countsSoon(m):
			q.need.add(m)
			c.sendRequest(q, m, fx)
		case q.changes() && c.members[m].sync != nil:
			c.members[m].sync.miss(q.Extent) // it is about to promise the new epoch
		}
	}
}

// sendRequest sends q to member m under the record's epoch.
func (c *Coordinator) sendRequest(q *Request, m int, fx *Effects) {
	switch {
	case q.Op == Read && q.repairing:
		c.sendRepair(q, m, fx)
	case q.Op == Read:
		q.read = wire.Read{Epoch: c.rec.Epoch, Generation: q.Generation, Extent: q.part}
		c.send(m, q.slot, &q.read, fx)
		if q.read.Extent != q.Extent {
			fx.Send[len(fx.Send)-1].Request = nil // what is read does not go to where Data begins
		}
	case q.Op == Write:
		q.write.Epoch = c.rec.Epoch
		c.send(m, q.slot, &q.write, fx)
	case q.Op == Zero:
		q.zero.Epoch = c.rec.Epoch
		c.send(m, q.slot, &q.zero, fx)
	case q.Op == Flush:
		q.flush.Epoch = c.rec.Epoch
		c.send(m, q.slot, &q.flush, fx)
	}
}

// resend sends to member m, on its new connection or under its new epoch, what it has
// not answered: everything it was sent under an older epoch has had its answer before
// it promised the new one, so what has none was lost on the way.
func (c *Coordinator) resend(m int, fx *Effects) {
	for _, q := range c.active {
		if q.copy == nil && q.need.has(m) && !q.acked.has(m) && (!q.tried.has(m) || q.repairing) {
			c.sendRequest(q, m, fx)
		}
	}
}

// answered takes member m's answer to a user's request.
func (c *Coordinator) answered(m int, q *Request, msg wire.Message, fx *Effects) {
	if !q.need.has(m) {
		return // left behind meanwhile
	}
	switch a := msg.(type) {
	case *wire.Done:
		q.acked.add(m)
	case *wire.Flushed:
		if a.Incarnation != c.members[m].incarnation {
			c.blame(m, fault.E("coordinator", fault.Unavailable, c.rec.Volume, fmt.Errorf("another process flushed than wrote")))
			return
		}
		q.acked.add(m)
		c.members[m].mark = a.Mark
	case *wire.ReadDone:
		if q.Op == Read && !q.done && !q.repairing && q.from == m {
			c.wasRead(m, q, a, fx)
		}
	case *wire.Fail:
		c.refused(m, q, a, fx)
	default:
		c.blame(m, failureOf(msg))
	}
}

// refused decides what a failed request means: for a read that another copy is asked,
// for a write without space, or where the disk refuses, that all copies must agree, and
// else that the copy is left behind.
func (c *Coordinator) refused(m int, q *Request, a *wire.Fail, fx *Effects) {
	switch {
	case q.Op == Read && a.Status == fault.NotFound && q.Generation != 0:
		q.need, q.done = 0, true
		q.Err = a.Err("coordinator.Read", c.rec.Volume)
	case q.Op == Read && !q.repairing && (a.Status == fault.Corrupt || a.Status == fault.Media):
		c.couldNotRead(m, a)
		q.tried.add(m)
		c.readFrom(q, c.reader(q.tried), fx)
	case q.changes() && (a.Status == fault.NoSpace || a.Status == fault.Media || a.Status == fault.Corrupt):
		q.tried.add(m)
		q.Err = fault.E("coordinator.Write", a.Status, c.rec.Volume, fmt.Errorf("replica %v: %s", c.rec.Members[m].Replica, a.Text))
	case q.Op == Flush && a.Status == fault.Media && c.others(m) == 0:
		q.need.drop(m) // the only copy lost something: nobody can make up for it
		q.Err = a.Err("coordinator.Flush", c.rec.Volume)
		c.blame(m, failureOf(a))
	default:
		c.blame(m, failureOf(a))
	}
}

// unreadMax is how many reads within unreadSpan a replica may fail to serve: beyond, its
// disk is taken for broken and it is left behind. A block that can't be read costs a
// rewrite of the block, not the replica.
const (
	unreadMax  = 100
	unreadSpan = 10 * time.Minute
)

// couldNotRead counts a read that member m could not serve.
func (c *Coordinator) couldNotRead(m int, a *wire.Fail) {
	x := c.members[m]
	if x.unreadable++; c.now-x.unreadFrom > unreadSpan {
		x.unread, x.unreadFrom = 0, c.now
	}
	if x.unread++; x.unread > unreadMax && c.others(m) > 0 {
		x.unread = 0
		x.parole = c.now + 4*c.opts.SlowFor
		c.blame(m, fault.E("coordinator", fault.Media, c.rec.Volume, fmt.Errorf("replica %v could not read %d times within %v, the last time: %s", c.rec.Members[m].Replica, unreadMax, unreadSpan, a.Text)))
	}
}

// finishActive completes the requests that everybody who counts has answered.
func (c *Coordinator) finishActive(now time.Duration, fx *Effects) {
	if !c.settled() && !fault.Planted("complete before the ejection is recorded") {
		return
	}
	kept := c.active[:0]
	for _, q := range c.active {
		if !c.finished(now, q, fx) {
			q.at = len(kept)
			kept = append(kept, q)
		}
	}
	clear(c.active[len(kept):])
	c.active = kept
}

// finishOne completes q, if it is done, and reports whether that is all that its answer
// changes.
func (c *Coordinator) finishOne(now time.Duration, q *Request, fx *Effects) bool {
	if c.urgent || q.copy != nil || q.tried != 0 || !c.settled() {
		return false
	}
	if !c.finished(now, q, fx) {
		return true
	}
	last := len(c.active) - 1
	c.active[q.at] = c.active[last]
	c.active[q.at].at = q.at
	c.active[last] = nil
	c.active = c.active[:last]
	return len(c.queue) == 0 && c.hold == nil && len(c.changes) == 0 && c.leave.stage == staying && c.syncs() == 0
}

func (c *Coordinator) syncs() (n int) {
	for _, x := range c.members {
		if x.sync != nil {
			n++
		}
	}
	return n
}

// finished completes q if it is done, and reports whether it did.
func (c *Coordinator) finished(now time.Duration, q *Request, fx *Effects) bool {
	switch {
	case q.copy != nil:
		return q.copy.over && c.finishCopy(now, q, fx)
	case q.Op == Read && !c.finishRead(now, q, fx):
		return false
	case q.changes() && q.tried != 0 && (q.acked|q.tried)&q.need == q.need:
		if c.haveSome(q.acked & q.need) {
			for m := range c.members { // some have it: those without fall behind
				if q.tried.has(m) {
					c.blame(m, q.Err)
				}
			}
			q.tried, q.Err = 0, nil
			return false
		}
		c.gate.add(q.Extent) // refused everywhere, perhaps in part: to be made equal
		for _, x := range c.members {
			if x.sync != nil {
				x.sync.miss(q.Extent) // one that catches up may have it
			}
		}
		q.need = 0
	}
	if q.Op == Flush && q.acked != 0 && fault.Planted("complete before every flush is") {
		q.need = q.acked
	}
	if q.acked&q.need != q.need {
		return false
	}
	if q.Op == Flush && q.Err == nil {
		if c.lost != nil {
			q.Err, c.lost = c.lost, nil
		} else {
			c.vouch(q)
		}
	}
	c.release(q.slot)
	if q.own {
		q.done = true
		return true
	}
	fx.Complete = append(fx.Complete, q)
	return true
}

// haveSome reports whether there is one among set that counts.
func (c *Coordinator) haveSome(set members) bool {
	for m := range c.members {
		if set.has(m) && c.inSync(m) {
			return true
		}
	}
	return false
}

// vouch notes that a flush of all in-sync members is complete: they are the same up to
// the marks that they gave, once every change that was sent before it is complete too. One
// that a member had done by then, another may not have received.
func (c *Coordinator) vouch(flush *Request) {
	c.vouched, c.vouchAtOnce = c.slots[flush.slot].seq, c.vouchAtOnce || flush.own
	for _, x := range c.members {
		x.vouched, x.mark = x.mark, 0
	}
}

// clean tells all in-sync members, after a flush of all of them, that they are the same
// but for what was written since.
func (c *Coordinator) clean(now time.Duration, fx *Effects) {
	switch {
	case c.vouched == 0, c.activeBefore(c.vouched) && !fault.Planted("clean covers what another lacks"):
		return
	case c.gate.count() > 0 && !fault.Planted("clean while gates are closed"):
		return // not the same yet
	case !c.vouchAtOnce && c.cleaned != 0 && now-c.cleaned < c.opts.CleanEvery:
		return
	}
	c.cleaned, c.vouched, c.vouchAtOnce = now, 0, false
	for m := range c.members {
		if x := c.members[m]; c.inSync(m) && x.vouched != 0 && x.asks < askedMax {
			c.ask(m, &wire.Clean{Epoch: c.rec.Epoch, Mark: x.vouched}, fx, func(time.Duration, int, wire.Message, *Effects) {})
			x.vouched = 0
		}
	}
}

// askedMax bounds the questions in flight to one member, besides requests.
const askedMax = 64

func (c *Coordinator) activeBefore(seq uint64) bool {
	return slices.ContainsFunc(c.active, func(q *Request) bool { return q.changes() && q.copy == nil && c.slots[q.slot].seq <= seq })
}

// whole reports whether e is within the volume.
func (c *Coordinator) whole(e block.Extent) bool {
	blocks := block.Index(c.rec.Size / block.Size)
	return !e.Empty() && e.Start < blocks && e.Count <= uint64(blocks-e.Start)
}
