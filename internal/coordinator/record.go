package coordinator

import (
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// goOn does what has become possible: change the record, link and ask members, start
// requests, copy.
func (c *Coordinator) goOn(now time.Duration, fx *Effects) {
	if c.phase == stopped {
		return
	}
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
	c.startQueued(now, fx)
	if c.phase == serving && c.ready(now) {
		c.startJobs(now, fx)
		c.startQueued(now, fx) // the copies that were put in line
	}
}

// converse links and asks member m as far as it is not done.
func (c *Coordinator) converse(now time.Duration, m int, fx *Effects) {
	x := &c.members[m]
	switch {
	case now < x.retry:
	case !x.linked && !x.linking:
		x.linking = true
		fx.Link = append(fx.Link, m)
	case x.linked && x.opened != nil && x.bad == nil && !x.asking && x.promised != c.rec.Epoch && c.proposed == nil:
		c.promise(now, m, fx)
	}
}

// changeRecord proposes the next change that is needed: to own the volume, then to leave
// failed members behind, then to take back those that have caught up.
func (c *Coordinator) changeRecord(fx *Effects) {
	if c.proposed != nil {
		return
	}
	next := c.rec.Clone()
	changed := false
	switch c.phase {
	case claiming:
		if next.Owner != c.opts.Node {
			next.OwnerSince = c.rec.Epoch + 1
		}
		next.Owner, next.Incarnation = c.opts.Node, c.opts.Incarnation
		changed = true
	default:
		for m := range c.members {
			x := &c.members[m]
			switch {
			case x.bad != nil && c.inSync(m) && c.canSpare(m, next):
				next.Members[m].State, next.Members[m].Since = spec.Outdated, c.rec.Epoch+1
				changed = true
			case x.bad != nil && !c.inSync(m):
				x.bad = nil // nothing was lost with it; it begins anew
				c.abandonSync(m)
				if x.linked {
					x.promised, x.asking = 0, false
				}
			case x.sync != nil && x.sync.done:
				next.Members[m].State, next.Members[m].Since = spec.InSync, 0
				changed = true
			}
		}
	}
	if !changed {
		return
	}
	next.Epoch++
	next.Version++
	c.proposed = &next
	fx.Propose = &next
}

// canSpare reports whether member m may be left behind: another one that is fit stays
// in sync. The last one never is: the volume waits for it.
func (c *Coordinator) canSpare(m int, next spec.Record) bool {
	for i := range c.members {
		if i != m && next.Members[i].State == spec.InSync && c.members[i].bad == nil && c.members[i].linked && c.members[i].opened != nil {
			return true
		}
	}
	return false
}

// recorded takes note of what became of a proposal.
func (c *Coordinator) recorded(now time.Duration, ev Recorded, fx *Effects) {
	if c.phase == stopped || c.proposed == nil {
		return
	}
	was := c.proposed
	c.proposed = nil
	switch {
	case ev.Err != nil:
		c.proposed = was // nobody knows: ask again until somebody does
		fx.Propose = was
		return
	case !ev.OK && c.phase == claiming:
		c.rec = ev.Record.Clone()
		return
	case !ev.OK && ev.Record.Owner == c.opts.Node && ev.Record.Incarnation == c.opts.Incarnation:
		if ev.Record.Version >= was.Version { // it was ours after all
			c.adopt(now, *was, fx)
		}
		return
	case !ev.OK:
		c.stop(fault.E("coordinator", fault.Fenced, c.rec.Volume, fmt.Errorf("the volume was attached to node %v with epoch %d", ev.Record.Owner, ev.Record.Epoch)), fx)
		return
	}
	c.adopt(now, *was, fx)
}

// adopt takes the new record as the truth.
func (c *Coordinator) adopt(now time.Duration, next spec.Record, fx *Effects) {
	before := c.rec
	c.rec = next
	if c.phase == claiming {
		c.phase, c.since = gathering, now
		return
	}
	if c.phase == gating {
		c.phase = gathering // with another set of members: ask them anew
	}
	for m := range c.members {
		x := &c.members[m]
		switch was, is := before.Members[m].State, next.Members[m].State; {
		case was == spec.InSync && is != spec.InSync:
			c.stats.Ejected++
			x.bad = nil
			c.abandonSync(m)
			if x.linked {
				x.promised, x.asking = 0, false
			}
			for _, q := range c.active { // only now may they complete without it
				q.need.drop(m)
			}
		case was != spec.InSync && is == spec.InSync:
			c.stats.Resynced++
			x.sync = nil
		}
	}
}
