package store

import (
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// story is a replica with the model of what it must hold, and the clones that were made
// of it.
type story struct {
	*rig
	m       *model
	clones  map[string]cloned
	made    int              // clones so far
	failed  error            // the first thing that went wrong
	busy    int              // actions under way
	excused func(error) bool // errors that actions may have; nil none
}

// cloned is a clone: what it shows, and whether it is there for sure.
type cloned struct {
	shown [][]uint64
	sure  bool
}

func (s *story) fail(format string, args ...any) {
	if s.failed == nil {
		s.failed = fmt.Errorf(format, args...)
	}
}

// fork returns the story as it would go on with another rig.
func (s *story) fork(g *rig) *story {
	f := &story{rig: g, m: s.m.clone(), clones: maps.Clone(s.clones), made: s.made}
	for gen, shown := range f.m.snapshots {
		f.m.snapshots[gen] = slices.Clone(shown)
	}
	return f
}

// started counts an action and returns what is called when it is done: ok if it
// succeeded, undone if it has an excuse and did nothing.
func (s *story) started(name string, ok func(), undone ...func()) func(error) {
	s.busy++
	if debugTrace {
		fmt.Println("START", name, s.m.gen, s.m.stamp)
	}
	return func(err error) {
		if debugTrace {
			fmt.Println("DONE", name, s.m.gen, err)
		}
		s.busy--
		switch {
		case err == nil:
			ok()
		case s.excused == nil || !s.excused(err):
			s.fail("%s: %w", name, err)
		case s.r.Err() == nil: // of a replica that failed nobody knows what it did
			for _, f := range undone {
				f()
			}
		}
	}
}

// action is something that may be done to a replica. It is started, not awaited; place
// is 0 or 1, so that two at once need not overlap.
type action struct {
	name  string
	start func(s *story, place int)
	fit   func(s *story, place int) bool // whether it makes sense now, beside what is under way
}

// places are where actions write and zero.
var places = map[string][2]block.Extent{
	"write":   {{Start: 1, Count: 2}, {Start: 5, Count: 2}},
	"cross":   {{Start: block.PerRegion - 2, Count: 3}, {Start: block.PerRegion + 1, Count: 2}},
	"zero":    {{Start: 1, Count: 1}, {Start: 6, Count: 1}},
	"discard": {{Start: 0, Count: exhaustiveSize / block.Size}, {Start: block.PerRegion, Count: 4}},
}

// at returns a condition: nothing under way touches the places of the action.
func at(name string) func(*story, int) bool {
	return func(s *story, place int) bool { return s.m.free(places[name][place]) }
}

func always(*story, int) bool { return true }

var actions = []action{
	{"write", func(s *story, place int) { s.startWrite(places["write"][place]) }, at("write")},
	{"cross", func(s *story, place int) { s.startWrite(places["cross"][place]) }, at("cross")},
	{"zero", func(s *story, place int) { s.startZero(places["zero"][place]) }, at("zero")},
	{"discard", func(s *story, place int) { s.startZero(places["discard"][place]) }, at("discard")},
	{"flush", func(s *story, _ int) { s.startFlush(func() {}) }, always},
	{"snapshot", func(s *story, _ int) { s.startSnapshot() },
		func(s *story, _ int) bool { return s.m.maybe.snapshot == 0 && len(s.m.snapshots) < 4 }},
	{"seal", func(s *story, place int) {
		s.startSeal(func() { // what comes after it, while it is not durable
			if e := places["write"][place]; s.m.free(e) {
				s.startWriteThen(e, func() { s.startFlush(func() {}) })
			}
		})
	}, func(s *story, _ int) bool { return s.m.maybe.snapshot == 0 && len(s.m.snapshots) < 4 }},
	{"delete", func(s *story, _ int) { s.startDelete(s.m.generations()[0]) },
		func(s *story, _ int) bool { return s.m.maybe.delete == 0 && len(s.m.snapshots) > 0 }},
	{"clone", func(s *story, _ int) { gens := s.m.generations(); s.startClone(gens[len(gens)-1]) },
		func(s *story, _ int) bool {
			gens := s.m.generations()
			return len(gens) > 0 && s.m.maybe.delete != gens[len(gens)-1] && len(s.clones) < 2
		}},
	{"grow", func(s *story, _ int) { s.startGrow(s.m.size + block.RegionSize) },
		func(s *story, _ int) bool { return s.m.maybe.size == 0 && s.m.size < 4*block.RegionSize }},
	{"clean", func(s *story, _ int) { s.startClean() }, always},
	{"promise", func(s *story, _ int) { s.startPromise(s.m.promised + 2) },
		func(s *story, _ int) bool { return s.m.maybe.promise == 0 }},
}

func (s *story) startWrite(e block.Extent) { s.startWriteThen(e, func() {}) }

func (s *story) startWriteThen(e block.Extent, then func()) {
	tag := s.m.newTag()
	s.m.begin(e, tag)
	s.submit(writeOf(e.Start, int(e.Count), tag), s.started(fmt.Sprintf("write %v", e), func() { s.m.end(e); then() }))
}

func (s *story) startZero(e block.Extent) {
	s.m.begin(e, 0)
	s.submit(&Request{Verb: Zero, Extent: e}, s.started(fmt.Sprintf("zero %v", e), func() { s.m.end(e) }))
}

func (s *story) startFlush(then func()) {
	c := s.m.coverage()
	s.submit(&Request{Verb: Flush}, s.started("flush", func() { s.m.flushed(c); then() }))
}

func (s *story) startSnapshot() {
	x := &s.m.maybe
	x.snapshot, x.shown = s.m.gen, s.m.view()
	c := s.m.coverage()
	s.r.Snapshot(x.snapshot, s.started("snapshot", func() {
		s.m.flushed(c)
		s.m.snapshot(slices.Clone(s.m.maybe.shown))
		s.m.maybe.snapshot, s.m.maybe.shown = 0, nil
	}, func() { s.m.maybe.snapshot, s.m.maybe.shown = 0, nil }))
}

// startSeal takes a snapshot as a coordinator does for which writes wait: ended is called
// when they go on.
func (s *story) startSeal(ended func()) {
	gen := s.m.gen
	undo := func() { s.m.maybe.snapshot, s.m.maybe.shown = 0, nil }
	s.m.maybe.snapshot, s.m.maybe.shown = gen, s.m.view()
	s.r.Prepare(gen, s.started("prepare", func() {
		c := s.m.coverage()
		s.m.maybe.shown = s.m.view()
		s.r.Seal(gen, s.started("seal", func() {
			s.r.Confirm(gen, s.started("confirm", func() {
				s.m.flushed(c)
				s.m.snapshot(slices.Clone(s.m.maybe.shown))
				undo()
			}))
			ended()
		}, undo))
	}, undo))
}

func (s *story) startDelete(gen block.Generation) {
	s.m.maybe.delete = gen
	s.r.DeleteSnapshot(gen, s.started("delete", func() {
		s.m.maybe.delete = 0
		s.m.delete(gen)
		s.r.Reclaimed(s.started("reclaim", func() {}))
	}, func() { s.m.maybe.delete = 0 }))
}

func (s *story) startClone(gen block.Generation) {
	name := fmt.Sprintf("c%d", s.made)
	s.made++
	shown := slices.Clone(s.m.snapshots[gen])
	s.clones[name] = cloned{shown: shown}
	done := s.started("clone", func() { s.clones[name] = cloned{shown, true} })
	s.r.Clone(gen, name, cloneSpec(name), func(err error) {
		if fault.Is(err, fault.NotFound) && (s.m.snapshots[gen] == nil || s.m.maybe.delete == gen) {
			s.busy-- // the snapshot was deleted first
			return
		}
		done(err)
	})
}

func cloneSpec(name string) Spec {
	return Spec{Volume: block.VolumeID{9, name[len(name)-1]}, Replica: block.ReplicaID{9}}
}

func (s *story) startGrow(size int64) {
	s.m.maybe.size = size
	s.r.Grow(size, s.started("grow", func() { s.m.size, s.m.maybe.size = size, 0 }, func() { s.m.maybe.size = 0 }))
}

// startClean lets regions become clean as a coordinator does: after a flush.
func (s *story) startClean() {
	mark, acks := s.r.Mark(), s.m.acks
	s.startFlush(func() {
		s.m.mayClean(acks)
		s.r.Clean(mark)
	})
}

func (s *story) startPromise(epoch block.Epoch) {
	s.m.maybe.promise = epoch
	s.r.Promise(epoch, s.started("promise", func() { s.m.promised, s.m.stamped, s.m.maybe.promise = epoch, epoch, 0 },
		func() { s.m.promised = s.r.Manifest().Promised; s.m.maybe.promise = 0 }))
}

// rest drives the disk until nothing is in flight any more.
func (s *story) rest() error {
	for s.disk.InFlight() > 0 && s.failed == nil {
		s.disk.Poll(-1)
	}
	if s.failed == nil && s.busy > 0 {
		s.fail("nothing is in flight and %d actions are not done; tasks: %v", s.busy, s.taskNames())
	}
	return s.failed
}

// reopen opens the replica after a death, and compares everything with the model.
func (s *story) reopen(d death) error {
	if err := s.open(); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	s.busy, s.failed = 0, nil
	if err := s.verify(s.m, d); err != nil {
		return err
	}
	if len(s.m.doubt) == 0 {
		if err := s.verifyUsage(s.m); err != nil {
			return err
		}
	}
	return s.verifyClones()
}

// verifyClones checks each clone that is there, and makes the others.
func (s *story) verifyClones() error {
	for _, name := range slices.Sorted(maps.Keys(s.clones)) {
		c := s.clones[name]
		g := &rig{t: s.t, disk: s.disk, opts: s.opts, dir: name}
		err := g.open()
		if fault.Is(err, fault.NotFound) && !c.sure {
			delete(s.clones, name)
			continue
		}
		if err != nil {
			return fmt.Errorf("clone %s: open: %w", name, err)
		}
		c.sure = true
		s.clones[name] = c
		if err := g.verifyClone(s.m.at, c.shown); err != nil {
			return fmt.Errorf("clone %s: %w", name, err)
		}
		if err := g.close(); err != nil {
			return fmt.Errorf("clone %s: close: %w", name, err)
		}
	}
	return nil
}

func (g *rig) verifyClone(at []block.Index, shown [][]uint64) error {
	if err := g.verifySnapshot(at, 0, shown); err != nil {
		return err
	}
	if err := g.verifyScrub(); err != nil {
		return err
	}
	u, err := g.usage()
	used := int64(0)
	for _, tags := range shown {
		if tags[0] != 0 {
			used += block.Size
		}
	}
	if err == nil && (u.Stored != used || len(u.Generations) != 1) {
		err = fmt.Errorf("usage %+v, want %d stored", u, used)
	}
	return err
}

var _ host.Disk = (*stepDisk)(nil)
