package coordinator

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// gate holds the regions in which the in-sync copies may differ, because an owner died
// with writes under way. Nothing in them is served before they were made equal: what is
// shown once must stay.
type gate struct {
	closed  map[block.Region]bool // value: a copy is in line
	wanted  []block.Region        // that requests wait for
	listing int                   // answers that are missing
	failed  bool
}

func (g *gate) count() int { return len(g.closed) }

func (g *gate) add(e block.Extent) {
	if g.closed == nil {
		g.closed = make(map[block.Region]bool)
	}
	for n := e.FirstRegion(); n <= e.LastRegion(); n++ {
		if _, known := g.closed[n]; !known {
			g.closed[n] = false
		}
	}
}

// gated reports whether e touches a region that is not open yet, and has it opened next.
func (c *Coordinator) gated(e block.Extent) bool {
	if len(c.gate.closed) == 0 {
		return false
	}
	shut := false
	for n := e.FirstRegion(); n <= e.LastRegion(); n++ {
		busy, closed := c.gate.closed[n]
		shut = shut || closed
		if closed && !busy && !slices.Contains(c.gate.wanted, n) {
			c.gate.wanted = append(c.gate.wanted, n)
		}
	}
	return shut
}

// beginGate asks every in-sync member which regions are dirty.
func (c *Coordinator) beginGate(now time.Duration, fx *Effects) {
	if c.rec.InSync() == 1 || fault.Planted("no gate after an owner died") {
		c.gate = gate{}
		c.phase = serving
		return
	}
	c.gate.failed, c.gate.listing = false, 0
	for m := range c.members {
		if c.inSync(m) {
			c.gate.listing++
			c.listDirty(m, 0, fx)
		}
	}
}

func (c *Coordinator) listDirty(m int, from block.Region, fx *Effects) {
	epoch := c.rec.Epoch
	c.listRegions(m, from, fx, func(list []wire.RegionState, next block.Region, last, ok bool, fx *Effects) {
		if c.phase != gating || epoch != c.rec.Epoch {
			return
		}
		for _, r := range list {
			if r.Dirty {
				c.gate.add(block.Extent{Start: r.Region.Start(), Count: 1})
			}
		}
		switch {
		case !ok:
			c.gate.failed = true
		case !last:
			c.listDirty(m, next, fx)
			return
		}
		if c.gate.listing--; c.gate.listing == 0 {
			if c.gate.failed {
				c.phase = gathering // somebody was lost: with those who are left, anew
				return
			}
			c.phase = serving
		}
	})
}

// listRegions asks member m for a page of its region table.
func (c *Coordinator) listRegions(m int, from block.Region, fx *Effects, then func(list []wire.RegionState, next block.Region, last, ok bool, fx *Effects)) {
	c.ask(m, &wire.Regions{Epoch: c.rec.Epoch, From: from, Limit: wire.RegionsMax}, fx,
		func(_ time.Duration, _ int, msg wire.Message, fx *Effects) {
			l, ok := msg.(*wire.RegionList)
			if !ok {
				then(nil, 0, true, false, fx)
				return
			}
			then(slices.Clone(l.List), l.Next, l.Last, true, fx)
		})
}

// startJobs puts copies in line: for the regions that requests wait for, then one more
// region in the background, then for members that catch up.
func (c *Coordinator) startJobs(now time.Duration, fx *Effects) {
	wanted := c.gate.wanted
	c.gate.wanted = nil
	for _, n := range wanted {
		if busy, closed := c.gate.closed[n]; closed && !busy {
			c.openRegion(n)
		}
	}
	if c.copying == 0 && len(c.gate.closed) > 0 {
		next := block.Region(0)
		first := true
		for n, busy := range c.gate.closed {
			if !busy && (first || n < next) {
				next, first = n, false
			}
		}
		if !first {
			c.openRegion(next)
		}
	}
	for m := range c.members {
		c.catchUp(now, m, fx)
	}
}

// openRegion makes a region equal in all in-sync members, the first of them giving.
func (c *Coordinator) openRegion(n block.Region) {
	c.gate.closed[n] = true
	var list []int
	for m := range c.members {
		if c.inSync(m) {
			list = append(list, m)
		}
	}
	whole := block.Extent{Start: n.Start(), Count: block.PerRegion}.Clip(block.Extent{Count: uint64(c.rec.Size / block.Size)})
	left, failed := 0, false
	for e := whole; e.Count > 0; {
		step := block.Extent{Start: e.Start, Count: min(e.Count, copyStep)}
		e = block.Extent{Start: step.End(), Count: e.Count - step.Count}
		left++
		c.submitCopy(&copying{extent: step, members: list, then: func(_ time.Duration, err error, _ *Effects) {
			failed = failed || err != nil
			if left--; left > 0 {
				return
			}
			if failed {
				c.gate.closed[n] = false // again, with whom is left
				return
			}
			delete(c.gate.closed, n)
			c.stats.Gated++
		}})
	}
}
