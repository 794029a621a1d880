package store

import (
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Check compares everything that the replica's files say, except the data: manifest,
// region table, journal, every block table, every file and slot that a table names. It
// calls progress after each chunk of the chunks that have files, and ends early, with a
// Canceled error, when that returns false. Damage is in the report; err is for what kept
// the check from going on.
func (i *Inspection) Check(progress func(chunks, of int) (goOn bool), done func(CheckReport, error)) {
	i.r.spawn("check", func(t *task) {
		report, err := i.check(t, progress)
		done(report, fault.Wrap("store.Check", err))
	})
}

func (i *Inspection) check(t *task, progress func(chunks, of int) bool) (CheckReport, error) {
	x := &checker{i: i, r: i.r, report: i.report}
	x.report.Findings = slices.Clone(i.report.Findings)
	chunks := x.chunks()
	for at, n := range chunks {
		x.checkChunk(n, i.load(t, n))
		if !progress(at+1, len(chunks)) {
			return x.report, fault.E("store.Check", fault.Canceled, i.r.man.Volume, nil)
		}
	}
	return x.report, nil
}

// checker is one check.
type checker struct {
	i      *Inspection
	r      *Replica
	report CheckReport

	// Of the chunk that is being looked at:
	files  []*chunkFile
	owners map[block.Generation]*slotOwners
	needed map[block.Generation]bool // files that a generation which can be read needs
}

// slotOwners says for each slot of a file which block is in it, as block in chunk plus 1.
type slotOwners [block.PerChunk]uint16

// chunks lists the chunks that have files, and those that should.
func (x *checker) chunks() []block.Chunk {
	set := make(map[block.Chunk]bool)
	for n, c := range x.r.chunks {
		if len(c.gens) > 0 {
			set[n] = true
		}
	}
	x.r.regions.each(func(n block.Region, rg *region) bool {
		if rg.tableGen != 0 {
			set[n.Chunk()] = true
		}
		return true
	})
	return slices.Sorted(maps.Keys(set))
}

func (x *checker) checkChunk(n block.Chunk, files []*chunkFile) {
	x.files, x.owners, x.needed = files, make(map[block.Generation]*slotOwners), make(map[block.Generation]bool)
	for _, f := range files {
		x.checkFile(f)
	}
	for k := range block.RegionsPerChunk {
		if region := regionOf(n, k); int(region) < x.r.regions.count {
			x.checkRecord(region, k)
			for _, f := range files {
				if tab := f.tables[k]; tab != nil {
					x.checkTable(f, tab)
				}
			}
			x.markNeeded(k)
		}
	}
	for _, f := range files {
		if f.err == nil && !x.needed[f.key.gen] && x.r.obsolete(x.r.chunk(n), f.key.gen) && len(x.r.man.Reclaim) == 0 {
			x.report.add(Finding{What: "chunk file", File: f.name, Cure: cureNothing + ": it costs space, and no more",
				Detail: fmt.Sprintf("no generation needs it, and it takes %d bytes", f.stat.Allocated)})
		}
	}
}

// checkFile counts a file and reports what is wrong with it and its tables.
func (x *checker) checkFile(f *chunkFile) {
	x.report.Files++
	s := x.report.store(f.key.gen)
	s.Files++
	s.Allocated += f.stat.Allocated
	if f.err != nil {
		x.report.add(Finding{Damage: true, What: "chunk file", File: f.name, Generation: f.key.gen,
			Extent: x.whole(f.key.chunk), Detail: f.err.Error(), Cure: cureRebuild})
		return
	}
	for k, tab := range f.tables {
		region := regionOf(f.key.chunk, k)
		if f.bad[k] != nil {
			x.report.add(Finding{Damage: true, What: "block table", File: f.name, Generation: f.key.gen,
				Extent: x.i.blocks(region), Detail: detail(f.bad[k]), Cure: cureRegion})
		}
		if f.spare[k] != nil {
			x.report.add(Finding{What: "block table", File: f.name, Generation: f.key.gen, Extent: x.i.blocks(region),
				Detail: fmt.Sprintf("its older copy is damaged, by an interruption or by the disk: %v", f.spare[k]),
				Cure:   cureNothing + ": the newer copy is good"})
		}
		if tab == nil {
			continue
		}
		x.report.Tables++
		s.Tables++
		for b := range block.PerRegion {
			if tab.inPlace(b) {
				s.Blocks++
			}
		}
	}
}

func detail(err error) string {
	if bad := asBadBlock(err); bad != nil {
		return bad.Detail
	}
	what, _ := fault.Describe(err)
	return what
}

// whole returns the blocks of chunk n that are in the volume.
func (x *checker) whole(n block.Chunk) block.Extent {
	return block.Extent{Start: n.Start(), Count: block.PerChunk}.Clip(block.Extent{Count: uint64(x.r.man.Size / block.Size)})
}

// checkRecord compares the record of a region with the region's tables.
func (x *checker) checkRecord(n block.Region, k int) {
	rg := x.r.regions.peek(n)
	if rg == nil {
		rg = new(region)
	}
	if rg.bad() != nil {
		return // reported
	}
	newest, err := newestTable(x.files, k)
	if err != nil {
		return // reported
	}
	var why string
	switch {
	case rg.record == (record{}) && newest != nil && !x.r.inherits():
		why = fmt.Sprintf("it says that the region was never written, but generation %d has a table of it", newest.gen)
	case rg.tableGen != 0 && newest == nil:
		why = fmt.Sprintf("it names a table of generation %d, and there is no chunk file that could have it", rg.tableGen)
	case rg.tableGen != 0 && newest.gen < rg.tableGen:
		why = fmt.Sprintf("it names a table of generation %d, but the newest is of %d", rg.tableGen, newest.gen)
	case rg.since == 0 && rg.tableGen != 0 && newest.gen > rg.tableGen:
		why = fmt.Sprintf("it says that the newest table is of generation %d, but there is one of %d", rg.tableGen, newest.gen)
	case rg.since == 0 && newest != nil && x.replayed(k):
		why = "it says that the region is clean, but the journal has more than the tables"
	default:
		return
	}
	x.report.add(Finding{Damage: true, What: "region record", File: "regions", Generation: x.r.man.Generation,
		Extent: x.i.blocks(n), Detail: why, Cure: cureRegion})
}

func (x *checker) replayed(k int) bool {
	return slices.ContainsFunc(x.files, func(f *chunkFile) bool { return f.replay[k] })
}

// checkTable looks at the slots that a table names: each belongs to one block, and lies
// within its file. It reports the first block of each kind of mistake, and how many.
func (x *checker) checkTable(f *chunkFile, tab *table) {
	var taken, beyond, outside finder
	last := int(x.i.blocks(tab.region).Count)
	newer := x.shownAbove(tab)
	for b := range block.PerRegion {
		e := tab.at(b)
		if e.state != data && !tab.keepsSlot(b) || newer != nil && newer.at(b) != e {
			continue
		}
		if b >= last {
			outside.note(b)
			continue
		}
		holder := x.file(e.holder)
		if holder == nil || holder.err != nil {
			continue // reported, by resolve or as a file that can't be read
		}
		if e.state == data && slotOffset(e.slot)+block.Size > holder.stat.Size {
			beyond.note(b)
		}
		if !x.owner(e.holder).take(e.slot, tab.region.InChunk()*block.PerRegion+b) {
			taken.note(b)
		}
	}
	for _, w := range []struct {
		finder
		what string
	}{
		{taken, "slots that other blocks have too"},
		{beyond, "slots behind the end of the file that holds them"},
		{outside, "data behind the end of the volume"},
	} {
		if w.count > 0 {
			start := tab.region.Start() + block.Index(w.first)
			x.report.add(Finding{Damage: true, What: "block table", File: f.name, Generation: tab.gen,
				Extent: block.Extent{Start: start, Count: uint64(w.last - w.first + 1)},
				Detail: fmt.Sprintf("%d blocks, the first is %d, have %s", w.count, start, w.what), Cure: cureSnapshot})
		}
	}
}

// shownAbove returns the table by which blocks of an obsolete one are still found, or nil:
// what it does not have of them is dead, and its slots may have been given to others.
func (x *checker) shownAbove(tab *table) *table {
	c := x.r.chunk(tab.region.Chunk())
	newer := tab.gen
	for x.r.obsolete(c, newer) {
		newer = c.after(newer)
	}
	shown, _, err := view(x.files, tab.region.InChunk(), newer)
	if err != nil || shown == tab {
		return nil
	}
	return shown
}

// finder counts the blocks of a table that something is wrong with.
type finder struct{ first, last, count int }

func (w *finder) note(b int) {
	if w.count == 0 {
		w.first = b
	}
	w.last = b
	w.count++
}

func (x *checker) file(g block.Generation) *chunkFile {
	i, found := slices.BinarySearchFunc(x.files, g, func(f *chunkFile, g block.Generation) int { return int(f.key.gen) - int(g) })
	if !found {
		return nil
	}
	return x.files[i]
}

func (x *checker) owner(g block.Generation) *slotOwners {
	if x.owners[g] == nil {
		x.owners[g] = new(slotOwners)
	}
	return x.owners[g]
}

// take notes that block b of the chunk is in slot, and reports whether no other is.
func (o *slotOwners) take(slot uint16, b int) bool {
	if o[slot] == 0 {
		o[slot] = uint16(b + 1)
	}
	return o[slot] == uint16(b+1)
}

// markNeeded notes the files that hold the k-th region of the chunk, its table or its
// data, as some generation that can be read shows it. It reports what is lost there.
func (x *checker) markNeeded(k int) {
	shown := block.Generation(0)
	for _, g := range append(slices.Clone(x.r.man.Snapshots), x.r.man.Generation) {
		tab, f, err := view(x.files, k, g)
		if f != nil {
			x.needed[f.key.gen] = true
		}
		if err != nil || tab == nil {
			continue
		}
		if tab.gen != shown {
			shown = tab.gen
			x.reportLost(f, tab)
		}
		last := block.Generation(0)
		for b := range block.PerRegion {
			if e := tab.at(b); e.state == data && e.holder != last {
				last = e.holder
				x.needed[last] = true
			}
		}
	}
}

// reportLost reports the blocks of a table that are lost.
func (x *checker) reportLost(f *chunkFile, tab *table) {
	var lost finder
	for b := range int(x.i.blocks(tab.region).Count) {
		if tab.isLost(b) {
			lost.note(b)
		}
	}
	if lost.count > 0 {
		x.report.add(Finding{Damage: true, What: "blocks", File: f.name, Generation: tab.gen,
			Extent: block.Extent{Start: tab.region.Start() + block.Index(lost.first), Count: uint64(lost.last - lost.first + 1)},
			Detail: fmt.Sprintf("%d blocks, the first is %d, were lost with the metadata of their region", lost.count, tab.region.Start()+block.Index(lost.first)),
			Cure:   "write them anew, from another copy"})
	}
}
