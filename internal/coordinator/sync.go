package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/lineage"
	"github.com/holdfast-io/holdfast/internal/resync"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// syncing is a member that catches up. First it gets the snapshots that it lacks, oldest
// first: each is filled in its live generation, and then sealed. They don't change, so
// nobody waits. Then it gets all new writes, and what it missed of the live generation
// is copied region by region, each step while nobody else writes there.
//
// A snapshot that is taken meanwhile finds it with regions that are not copied yet: no
// more writes go to it until these are filled from the snapshot, and the snapshot is
// sealed there too.
type syncing struct {
	stage   syncStage
	source  int
	gen     block.Generation // that is being filled; 0 is the live one
	base    block.Generation // the last snapshot that it holds for certain; 0 not known
	barrier uint64           // requests up to this number were started before it got new writes
	lists   int              // answers that are missing
	mine    []wire.RegionState
	theirs  []wire.RegionState
	todo    []block.Region // ascending
	cursor  uint64         // block of todo[0] to go on with
	missed  []block.Region // since it gets new writes
	steps   int            // copies under way
	rest    time.Duration  // while the user is busy, until when no other is begun
	flushed bool           // its last flush was asked for
	done    bool
	failed  error
	// badSource: the source can't say what it holds.
	badSource bool
	total     int // regions of what is being filled
	moved     int64
	began     time.Duration
}

type syncStage uint8

const (
	joining syncStage = iota + 1 // new writes go to it; those before are to end
	listing                      // of what may differ
	copies                       // what differs
	sealing                      // the snapshot that is complete
	flushes                      // before it may count
)

// uses reports whether the deletion of snapshot g takes away what the copy leans on.
func (s *syncing) uses(g block.Generation) bool {
	return s.gen == g || s.base == g && s.stage <= listing
}

// takesWrites reports whether member m, not in sync, gets new writes all the same.
func (c *Coordinator) takesWrites(m int) bool {
	x := c.members[m]
	return x.sync != nil && x.sync.gen == 0 && x.promised == c.rec.Epoch && x.bad == nil
}

// countsSoon reports whether member m flushes with those that are in sync: what is
// flushed after its last flush must be durable there too when it counts.
func (c *Coordinator) countsSoon(m int) bool {
	return c.takesWrites(m) && c.members[m].sync.flushed
}

// miss notes that the member did not get a write: its regions are to be copied, again.
func (s *syncing) miss(e block.Extent) {
	if s.gen != 0 {
		return // it is asked for all that was written later
	}
	for n := e.FirstRegion(); n <= e.LastRegion(); n++ {
		s.missed = append(s.missed, n)
	}
	s.flushed, s.done = false, false
}

// fail notes the first thing that went wrong.
func (s *syncing) fail(err error) {
	if s.failed == nil {
		s.failed = err
	}
}

// abandonSync ends a catching up that can't go on; it begins anew later. Writes under
// way need not wait for the member any more.
func (c *Coordinator) abandonSync(m int) {
	s := c.members[m].sync
	if s == nil {
		return
	}
	c.members[m].sync = nil
	s.fail(errGone)
	c.recall(s)
	if c.promoting(m) {
		return // it may count by now: the record will tell
	}
	late := s.steps > 0 || s.stage == sealing
	for _, q := range c.active {
		if q.copy == nil && !c.inSync(m) {
			late = late || q.need.has(m) && !q.acked.has(m)
			q.need.drop(m)
		}
	}
	if late { // what it was sent may take effect later than what comes next: it is to be drained first
		c.members[m].promised = 0
	}
}

var errGone = fault.Errorf("coordinator", fault.Canceled, "the resync was given up")

// recall takes copies of s that were not started out of the line, and returns their
// regions.
func (c *Coordinator) recall(s *syncing) (regions []block.Region) {
	c.queue = slices.DeleteFunc(c.queue, func(q *Request) bool {
		if q.copy == nil || q.copy.sync != s {
			return false
		}
		regions = append(regions, q.Extent.FirstRegion())
		c.copying--
		s.steps--
		return true
	})
	return regions
}

// splitSyncs has members that catch up with the live generation turn to snapshot g, which
// is taken at this moment: nothing that is written from now on goes to them before they
// have all of it.
func (c *Coordinator) splitSyncs(g block.Generation) {
	if fault.Planted("snapshot during a resync mixes generations") {
		return
	}
	for m, x := range c.members {
		s := x.sync
		if s == nil || s.gen != 0 {
			continue
		}
		if s.stage < copies {
			c.abandonSync(m) // nothing is done yet
			continue
		}
		// After the steps under way have ended: they may be of these very regions.
		s.missed = append(append(s.missed, s.todo...), c.recall(s)...)
		s.todo, s.cursor = nil, 0
		s.gen, s.stage, s.flushed, s.done = g, copies, false, false
	}
}

// catchUp takes the next steps with member m, if it is one that catches up.
func (c *Coordinator) catchUp(now time.Duration, m int, fx *Effects) {
	x := c.members[m]
	if c.rec.Members[m].State != spec.Outdated || x.bad != nil || x.opened == nil || now < x.retry || now < x.parole || c.leave.stage != staying || !c.fit(m, fx) {
		return
	}
	s := x.sync
	if s == nil {
		source := c.reader(x.badSources)
		if source < 0 {
			x.badSources = 0
		}
		if source < 0 || c.resyncs.Pause || x.leaving {
			return
		}
		s = &syncing{source: source, began: now}
		x.sync = s
		c.nextGen(m, s, fx)
	}
	if s.failed != nil || !c.inSync(s.source) {
		x.syncFailed = s.failed
		if s.badSource {
			x.badSources.add(s.source)
		}
		c.abandonSync(m)
		x.retry = now + c.opts.Lease/10
		return
	}
	switch s.stage {
	case joining:
		if !c.activeBefore(s.barrier) {
			c.list(m, s, fx)
		}
	case copies:
		c.copySome(now, m, s, fx)
		if len(s.todo) > 0 || s.steps > 0 {
			return
		}
		switch {
		case len(s.missed) > 0:
			s.todo, s.missed = slices.Compact(slices.Sorted(slices.Values(s.missed))), nil
		case s.gen != 0:
			c.sealCopy(m, s, fx)
		default:
			c.lastFlush(m, s, fx)
		}
	case flushes:
		if len(s.missed) > 0 {
			s.stage = copies
		}
	}
}

// nextGen begins with the next snapshot that member m lacks, or with the live generation.
func (c *Coordinator) nextGen(m int, s *syncing, fx *Effects) {
	o := c.members[m].opened
	all := c.generations()
	volume := lineage.Line{Snapshots: all[:len(all)-1], Live: all[len(all)-1]}
	copy := lineage.Line{Snapshots: o.Snapshots, Live: o.Generation}
	if lineage.Diverged(volume, copy) {
		s.fail(fault.WithCure(fault.E("coordinator", fault.Precondition, c.rec.Volume, fmt.Errorf("replica %v has a history of its own: generation %d, snapshots %v", c.rec.Members[m].Replica, o.Generation, o.Snapshots)),
			"remove the replica and add a new one"))
		return
	}
	s.todo, s.missed, s.cursor, s.mine, s.theirs = nil, nil, 0, nil, nil
	if missing := lineage.Missing(volume, copy); len(missing) > 0 {
		s.gen = missing[0]
		c.list(m, s, fx)
		return
	}
	s.gen, s.stage, s.barrier = 0, joining, c.seq
}

// list asks what may differ.
func (c *Coordinator) list(m int, s *syncing, fx *Effects) {
	s.stage = listing
	if s.base != 0 {
		s.lists = 1
		c.listChanged(m, 0, s, fx)
		return
	}
	s.lists = 2
	c.listAll(s.source, m, 0, s, fx)
	c.listAll(m, m, 0, s, fx)
}

// listAll reads the region table of member from.
func (c *Coordinator) listAll(from, m int, region block.Region, s *syncing, fx *Effects) {
	c.listRegions(from, region, fx, func(page []wire.RegionState, next block.Region, last, ok bool, fx *Effects) {
		if from == m {
			s.theirs = append(s.theirs, page...)
		} else {
			s.mine = append(s.mine, page...)
		}
		switch {
		case !ok:
			s.fail(fault.Errorf("coordinator", fault.Unavailable, "the region table can't be read"))
		case !last:
			c.listAll(from, m, next, s, fx)
			return
		}
		if s.lists--; s.lists == 0 && s.failed == nil {
			s.todo = resync.Regions(s.mine, s.theirs, c.rec.Members[m].Since)
			if fault.Planted("stale replica trusted") {
				s.todo = nil
			}
			s.mine, s.theirs = nil, nil
			s.beginCopies()
		}
	})
}

// listChanged asks the source what changed since the snapshot that the member holds.
func (c *Coordinator) listChanged(m int, from block.Region, s *syncing, fx *Effects) {
	c.ask(s.source, &wire.Changed{Epoch: c.rec.Epoch, Since: s.base, Generation: s.gen, From: from, Limit: changedLimit}, fx,
		func(_ time.Duration, _ int, msg wire.Message, fx *Effects) {
			l, ok := msg.(*wire.ExtentList)
			if !ok {
				s.fail(fault.Errorf("coordinator", fault.Unavailable, "the changes since snapshot %d can't be listed", s.base))
				return
			}
			for _, e := range l.List {
				for n := e.FirstRegion(); n <= e.LastRegion(); n++ {
					if k := len(s.todo); k == 0 || s.todo[k-1] != n {
						s.todo = append(s.todo, n)
					}
				}
			}
			if !l.Last && s.failed == nil {
				c.listChanged(m, l.Next, s, fx)
				return
			}
			s.lists = 0
			s.beginCopies()
		})
}

// changedLimit is how many regions one Changed looks at: their tables are read.
const changedLimit = 256

func (s *syncing) beginCopies() {
	s.stage, s.total = copies, len(s.todo)
}

const (
	// stepsMax is how many copies may be under way at once while the volume's user has
	// nothing to do: 8 MiB are compared, and at most as much is in memory and in the
	// disks' queues.
	stepsMax = 8
	// busyFor is how long a user counts as busy after a request: one that makes its
	// requests one after the other is busy between them too.
	busyFor = 20 * time.Millisecond
	// restFactor is how long a resync rests after a step of which a busy user took note,
	// in times of that step: the user has two thirds of the time alone.
	restFactor = 2
)

// busy reports whether the volume's user has something to do.
func (c *Coordinator) busy(now time.Duration) bool {
	return c.used != 0 && now-c.used < busyFor || slices.ContainsFunc(c.active, func(q *Request) bool { return q.copy == nil && !q.own })
}

// mayCopy reports whether a resync may take another step: to a busy user it leaves the
// disks for most of the time, and takes one step at a time.
func (c *Coordinator) mayCopy(now time.Duration, s *syncing, fx *Effects) bool {
	if c.resyncs.Pause || s.steps >= stepsMax || c.busy(now) && (s.steps > 0 || now < s.rest) {
		return false
	}
	if wait := c.pace.wait(now); wait > 0 {
		fx.alarm(now + wait)
		return false
	}
	return s.steps == 0 || c.pace.holds(int64(s.steps)*copyStep*block.Size) // as if each moved all of its blocks
}

// copySome puts copies in line.
func (c *Coordinator) copySome(now time.Duration, m int, s *syncing, fx *Effects) {
	blocks := uint64(c.rec.Size / block.Size)
	for len(s.todo) > 0 && c.mayCopy(now, s, fx) {
		n := s.todo[0]
		e := block.Extent{Start: n.Start() + block.Index(s.cursor), Count: copyStep}.Clip(block.Extent{Count: blocks})
		if s.cursor += copyStep; s.cursor >= block.PerRegion || e.Empty() || e.End() >= block.Index(blocks) {
			s.todo, s.cursor = s.todo[1:], 0
		}
		if e.Empty() {
			continue
		}
		s.steps++
		began := now
		k := &copying{extent: e, gen: s.gen, members: []int{s.source, m}, sync: s}
		k.then = func(now time.Duration, err error, fx *Effects) {
			s.steps--
			s.moved += k.moved
			if s.rest = now + restFactor*(now-began); c.busy(now) {
				fx.alarm(s.rest)
			}
			if err != nil {
				s.fail(err)
			} else if k.refill && s.gen == k.gen { // what the region held besides was given up for it
				s.missed = append(s.missed, k.extent.FirstRegion())
			}
		}
		if s.gen != 0 {
			c.copying++
			c.beginCopy(now, k, fx)
		} else {
			c.submitCopy(k)
		}
	}
}

// sealCopy has the member begin its next generation, after the snapshot is complete.
func (c *Coordinator) sealCopy(m int, s *syncing, fx *Effects) {
	s.stage = sealing
	g := s.gen
	c.ask(m, &wire.Snapshot{Epoch: c.rec.Epoch, Generation: g}, fx, func(_ time.Duration, m int, msg wire.Message, fx *Effects) {
		if _, ok := msg.(*wire.Done); !ok {
			s.fail(failureOf(msg))
			return
		}
		if o := c.members[m].opened; o != nil && c.members[m].sync == s {
			o.Generation, o.Snapshots = g+1, append(o.Snapshots, g)
			s.base = g
			c.nextGen(m, s, fx)
		}
	})
}

// lastFlush makes durable what was copied; then the member may count.
func (c *Coordinator) lastFlush(m int, s *syncing, fx *Effects) {
	s.stage, s.flushed = flushes, true
	c.ask(m, &wire.Flush{Epoch: c.rec.Epoch, Whole: true}, fx, func(_ time.Duration, _ int, msg wire.Message, _ *Effects) {
		if _, ok := msg.(*wire.Flushed); !ok {
			s.fail(failureOf(msg))
			return
		}
		s.done = s.flushed
	})
}
