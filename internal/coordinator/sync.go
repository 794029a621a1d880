package coordinator

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/resync"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// syncing is a member that catches up. It gets all new writes; what it missed is copied
// region by region.
type syncing struct {
	barrier uint64 // requests up to this number were started before it got new writes
	source  int
	listed  bool
	asked   bool
	mine    []wire.RegionState // of the source
	theirs  []wire.RegionState // of the member
	todo    []block.Region
	missed  []block.Region // since it gets new writes
	busy    bool
	flushed bool
	done    bool
	failed  bool
}

// takesWrites reports whether member m, not in sync, gets new writes all the same.
func (c *Coordinator) takesWrites(m int) bool {
	x := c.members[m]
	return x.sync != nil && x.promised == c.rec.Epoch && x.bad == nil
}

// countsSoon reports whether member m flushes with those that are in sync: what is
// flushed after its last flush must be durable there too when it counts.
func (c *Coordinator) countsSoon(m int) bool {
	return c.takesWrites(m) && c.members[m].sync.flushed
}

// miss notes that the member did not get a write: its regions are to be copied, again.
func (s *syncing) miss(e block.Extent) {
	for n := e.FirstRegion(); n <= e.LastRegion(); n++ {
		s.missed = append(s.missed, n)
	}
	s.flushed, s.done = false, false
}

// abandonSync ends a catching up that can't go on; it begins anew later. Writes under
// way need not wait for the member any more.
func (c *Coordinator) abandonSync(m int) {
	if c.members[m].sync == nil {
		return
	}
	c.members[m].sync = nil
	if c.promoting(m) {
		return // it may count by now: the record will tell
	}
	for _, q := range c.active {
		if q.copy == nil && !c.inSync(m) {
			q.need.drop(m)
		}
	}
}

// catchUp takes the next step with member m, if it is one that catches up.
func (c *Coordinator) catchUp(now time.Duration, m int, fx *Effects) {
	x := c.members[m]
	if c.rec.Members[m].State != spec.Outdated || x.promised != c.rec.Epoch || x.bad != nil || x.opened == nil {
		return
	}
	s := x.sync
	switch {
	case s == nil:
		source := c.reader(0)
		if source < 0 {
			return
		}
		x.sync = &syncing{barrier: c.seq, source: source}
	case s.failed || !c.inSync(s.source):
		c.abandonSync(m)
		x.retry = now + c.opts.Lease/10
	case !s.asked && !c.activeBefore(s.barrier):
		s.asked = true
		left := 2
		c.listAll(s.source, 0, &s.mine, s, &left, fx)
		c.listAll(m, 0, &s.theirs, s, &left, fx)
	case !s.asked || !s.listed || s.busy:
	case len(s.todo) > 0:
		c.copyRegion(m, s, s.todo[0])
	case len(s.missed) > 0:
		s.todo, s.missed = s.missed, nil
	case !s.flushed:
		s.flushed, s.busy = true, true
		c.ask(m, &wire.Flush{Epoch: c.rec.Epoch}, fx, func(_ time.Duration, _ int, msg wire.Message, _ *Effects) {
			s.busy = false
			_, ok := msg.(*wire.Flushed)
			s.failed = s.failed || !ok
			s.done = ok && s.flushed
		})
	}
}

// listAll reads member m's whole region table into list.
func (c *Coordinator) listAll(m int, from block.Region, list *[]wire.RegionState, s *syncing, left *int, fx *Effects) {
	c.listRegions(m, from, fx, func(page []wire.RegionState, next block.Region, last, ok bool, fx *Effects) {
		*list = append(*list, page...)
		if ok && !last {
			c.listAll(m, next, list, s, left, fx)
			return
		}
		s.failed = s.failed || !ok
		if *left--; *left == 0 {
			s.listed = true
			for i := range c.members {
				if c.members[i].sync == s {
					s.todo = resync.Regions(s.mine, s.theirs, c.rec.Members[i].Since)
					if fault.Planted("stale replica trusted") {
						s.todo = nil
					}
				}
			}
		}
	})
}

// copyRegion puts the copies of one region in line.
func (c *Coordinator) copyRegion(m int, s *syncing, n block.Region) {
	s.busy = true
	left := 0
	whole := block.Extent{Start: n.Start(), Count: block.PerRegion}.Clip(block.Extent{Count: uint64(c.rec.Size / block.Size)})
	for e := whole; e.Count > 0; {
		step := block.Extent{Start: e.Start, Count: min(e.Count, copyStep)}
		e = block.Extent{Start: step.End(), Count: e.Count - step.Count}
		left++
		c.submitCopy(&copying{extent: step, source: s.source, targets: []int{m}, then: func(ok bool, _ *Effects) {
			s.failed = s.failed || !ok
			if left--; left == 0 {
				s.busy = false
				if !s.failed {
					s.todo = s.todo[1:]
				}
			}
		}})
	}
}
