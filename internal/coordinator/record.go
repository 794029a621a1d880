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

// goOn does what has become possible: change the record, link and ask members, start
// requests, copy.
func (c *Coordinator) goOn(now time.Duration, fx *Effects) {
	if c.phase == stopped {
		return
	}
	c.urgent = false
	c.goOnChange(now, fx)
	c.excuse(now)
	c.changeRecord(fx)
	if c.phase == claiming {
		return
	}
	for m := range c.members {
		c.converse(now, m, fx)
	}
	if c.phase == gathering && c.settled() {
		c.phase = gating
		c.beginGate(now, fx)
	}
	c.finishActive(now, fx)
	c.makeWhole(fx)
	c.clean(now, fx)
	c.startQueued(now, fx)
	if c.phase == serving && c.ready(now) {
		c.startJobs(now, fx)
		c.startQueued(now, fx) // the copies that were put in line
	}
	c.goAway(now, fx)
	c.countHold(now)
}

// converse links and asks member m as far as it is not done.
func (c *Coordinator) converse(now time.Duration, m int, fx *Effects) {
	x := c.members[m]
	switch {
	case now < x.retry || c.left(m) || c.leave.stage >= releasing:
	case !x.linked && !x.linking && !x.closing:
		x.linking = true
		fx.Link = append(fx.Link, m)
	case x.linked && x.opened != nil && x.bad == nil && !x.asking && x.promised != c.rec.Epoch && x.doubt == 0 && (c.inSync(m) || !x.leaving) && !c.blank(m):
		c.promise(now, m, fx)
	case x.promised == c.rec.Epoch:
		c.fit(m, fx)
	}
}

// changeRecord proposes the next change that is needed: to own the volume, then to leave
// failed members behind, to take back those that have caught up, and what was ordered; at
// last to own the volume no more.
func (c *Coordinator) changeRecord(fx *Effects) {
	if c.proposed != nil {
		return
	}
	var next spec.Record // a copy of the record once it is to change
	edit := func() *spec.Record {
		if next.Version == 0 {
			next = c.rec.Clone()
			next.Version++
		}
		return &next
	}
	inSync := false // whether who counts changes
	switch {
	case c.phase == claiming:
		if edit().Owner != c.opts.Node {
			next.OwnerSince = c.rec.Epoch + 1
		}
		next.Owner, next.Incarnation = c.opts.Node, c.opts.Incarnation
		inSync = true
	case c.leave.stage == recording:
		edit().Owner, next.Incarnation, next.OwnerSince = block.NodeID{}, 0, 0
		inSync = true
	case c.leave.stage == releasing:
	default:
		for m := range c.members {
			inSync = c.changeState(m, edit) || inSync
		}
		if ch := c.current(); ch != nil && c.wantsRecord(ch) {
			was := next
			if err := c.applyTo(ch, edit()); err != nil {
				next = was
				c.refuseChange(ch, err, fx)
			} else {
				c.carries = ch
				inSync = inSync || ch.changesCounting(c.rec)
			}
		}
	}
	if next.Version == 0 {
		return
	}
	if c.phase >= serving && c.settled() {
		next.Settled = c.rec.Epoch
	}
	if inSync {
		next.Epoch++
		for m := range next.Members {
			if next.Members[m].Since == sinceNow {
				next.Members[m].Since = next.Epoch
			}
		}
	}
	c.proposed = &next
	out := public(next)
	fx.Propose = &out
}

// sinceNow stands for the epoch that a change of the record will bring.
const sinceNow block.Epoch = 1<<64 - 1

// changeState has member m left behind or taken back, and reports whether it did.
func (c *Coordinator) changeState(m int, edit func() *spec.Record) bool {
	x := c.members[m]
	switch {
	case (x.bad != nil || x.leaving || x.doubt != 0) && c.inSync(m) && c.canSpare(m):
		next := edit()
		next.Members[m].State, next.Members[m].Since = spec.Outdated, sinceNow
		if x.old {
			next.Members[m].Since = x.oldSince
		}
		return true
	case x.bad != nil && !c.inSync(m):
		x.bad = nil // nothing was lost with it; it begins anew
		c.abandonSync(m)
		if x.linked {
			x.promised = 0
			x.retry = max(x.retry, c.now+c.opts.Lease/10)
		}
	case c.blank(m):
		edit().Members[m].Since = 0
	case x.sync != nil && x.sync.done && c.mayPromote(m):
		next := edit()
		next.Members[m].State, next.Members[m].Since = spec.InSync, 0
		return true
	}
	return false
}

// blank reports whether a member that was left behind never had what the record believes
// it had before: it has promised nothing to anybody, so it is one that was to begin as a
// clone, and that was made empty. The record must say that it lacks everything before it
// promises: whoever goes on after us could not tell.
func (c *Coordinator) blank(m int) bool {
	x := c.members[m]
	return c.rec.Members[m].State == spec.Outdated && c.rec.Members[m].Since != 0 && x.opened != nil && x.opened.Promised == 0
}

// mayPromote reports whether a member that has caught up may count now: not while the
// others take a snapshot or grow, which it would miss.
func (c *Coordinator) mayPromote(m int) bool {
	x := c.members[m]
	for _, g := range c.rec.Snapshots {
		if x.opened == nil || !slices.Contains(x.opened.Snapshots, g) {
			panic(fault.Bug("coordinator: member %d has caught up without snapshot %d", m, g))
		}
	}
	return c.hold == nil && c.sealed == 0 && c.growing == 0 && x.size >= c.rec.Size
}

// canSpare reports whether member m may be left behind: another one that is fit stays
// in sync. The last one never is: the volume waits for it.
func (c *Coordinator) canSpare(m int) bool {
	for i, x := range c.members {
		if i != m && c.inSync(i) && x.bad == nil && x.doubt == 0 && !x.leaving && x.linked && x.opened != nil {
			return true
		}
	}
	return false
}

// public returns the record as others know it: without those who left.
func public(rec spec.Record) spec.Record {
	rec = rec.Clone()
	rec.Members = slices.DeleteFunc(rec.Members, func(m spec.Member) bool { return m.State == 0 })
	return rec
}

// seated returns the record with its members where their numbers say.
func (c *Coordinator) seated(rec spec.Record) spec.Record {
	list := rec.Members
	rec = rec.Clone()
	rec.Members = slices.Clone(c.rec.Members)
	for m := range rec.Members {
		rec.Members[m].State = 0
	}
	for _, x := range list {
		c.seat(&rec, x)
	}
	return rec
}

// seat gives a member a number in rec: its own, or that of one which left and is not
// spoken to any more, or a new one.
func (c *Coordinator) seat(rec *spec.Record, x spec.Member) {
	free := -1
	for m := range rec.Members {
		if rec.Members[m].Replica == x.Replica {
			rec.Members[m] = x
			return
		}
		if m < len(c.members) && c.left(m) && rec.Members[m].State == 0 {
			if y := c.members[m]; !y.linked && !y.linking && !y.closing {
				free = m
			}
		}
	}
	if free >= 0 {
		rec.Members[free] = x
		return
	}
	rec.Members = append(rec.Members, x)
}

// recorded takes note of what became of a proposal.
func (c *Coordinator) recorded(now time.Duration, ev Recorded, fx *Effects) {
	if c.proposed == nil {
		return
	}
	was := c.proposed
	c.unknown = false
	ours := ev.Record.Owner == was.Owner && ev.Record.Incarnation == was.Incarnation
	switch {
	case ev.Err != nil:
		c.unknown = true
		out := public(*was) // nobody knows: ask again until somebody does
		fx.Propose = &out
		return
	case !ev.OK && !(ours && ev.Record.Version >= was.Version) && c.phase == claiming:
		c.proposed = nil
		c.read(ev.Record)
		return
	case ev.OK, ours && ev.Record.Version == was.Version: // it was ours after all
		c.proposed = nil
		c.adopt(now, *was, fx)
		return
	case ours && ev.Record.Version > was.Version, ev.Record.Owner == c.opts.Node && ev.Record.Incarnation == c.opts.Incarnation:
		c.proposed = nil
		if ev.Record.Version > c.rec.Version { // somebody else changed what is ours to change
			c.carries = nil
			c.adopt(now, c.seated(ev.Record), fx)
		}
		return
	}
	c.stop(fault.E("coordinator", fault.Fenced, c.rec.Volume, fmt.Errorf("the volume was attached to node %v with epoch %d", ev.Record.Owner, ev.Record.Epoch)), fx)
}

// adopt takes the new record as the truth.
func (c *Coordinator) adopt(now time.Duration, next spec.Record, fx *Effects) {
	before := c.rec
	c.rec, c.public = next, public(next)
	if c.leave.stage == recording {
		c.leave.stage = gone
		c.stop(fault.E("coordinator", fault.Precondition, c.rec.Volume, errDetached), fx)
		return
	}
	if c.phase == claiming {
		c.phase, c.since = gathering, now
		return
	}
	if c.phase == gating && next.Epoch != before.Epoch {
		c.phase = gathering // with another set of members: ask them anew
	}
	for m := range next.Members {
		was := spec.ReplicaState(0)
		if m < len(before.Members) && before.Members[m].Replica == next.Members[m].Replica {
			was = before.Members[m].State
		}
		if m == len(c.members) {
			c.members = append(c.members, &member{})
		} else if was == 0 && next.Members[m].State != 0 && !c.members[m].closing {
			*c.members[m] = member{} // another one got the number
		}
		c.adoptMember(now, m, was, fx)
	}
	for _, q := range c.active { // who neither counts nor catches up any more
		for m := range c.members {
			if q.copy == nil && q.changes() && !c.inSync(m) && c.members[m].sync == nil && !q.tried.has(m) {
				q.need.drop(m)
			}
		}
	}
	if ch := c.carries; ch != nil {
		c.carries = nil
		c.changeRecorded(now, ch, fx)
	}
}

// adoptMember does what follows from a member's new state.
func (c *Coordinator) adoptMember(now time.Duration, m int, was spec.ReplicaState, fx *Effects) {
	x, is := c.members[m], c.rec.Members[m].State
	if was == is {
		return
	}
	if was == spec.InSync {
		c.stats.Ejected++
		for _, q := range c.active { // only now may they complete without it
			q.need.drop(m)
		}
	}
	switch {
	case is == spec.InSync:
		if was == spec.Outdated && x.sync != nil {
			c.stats.Resynced++
			x.counted = now
		}
		x.sync = nil
	default:
		if was == spec.InSync {
			x.cause = x.bad
			if x.bad == nil && x.doubt != 0 {
				x.cause = fault.E("coordinator", fault.Media, c.rec.Volume, errors.New(doubts[x.doubt]))
			}
			c.leftBehind(now, x)
		}
		x.bad, x.old, x.doubt, x.amend = nil, false, 0, 0
		c.abandonSync(m)
		c.unlink(now, m, fx) // it begins anew on a new connection, if at all
		if was == spec.Outdated {
			for _, q := range c.active {
				q.need.drop(m)
			}
		}
	}
}
