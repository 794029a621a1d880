package store

import (
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// reclaimer frees the space of deleted generations in the background.
//
// A chunk file is obsolete when no live generation has it as its newest: then it is
// needed only for the blocks that the next newer file which is not obsolete did not
// replace. The others' slots are punched. A file without a needed block is removed; the
// tables of obsolete files may go on naming it, which is as well: nobody reads by them.
// Files that remain are merged, smallest neighbours first, once a chunk has more than obsoleteMax of them, so
// that neither their number nor the work per deleted snapshot grows with time.
//
// What the live generation overwrites is looked at when it is enough to be worth it, and
// at the next deletion.
type reclaimer struct {
	stale   map[block.Chunk]bool // chunks whose obsolete files have deadMax blocks that died
	running bool
	again   bool
	stop    bool
	err     error
	waiting []*task
	lock    taskLock // held while files are merged, removed, or shared with a clone
}

// obsoleteMax is how many obsolete files a chunk may have. Each costs a name and at
// most 64 KiB of slack; merging costs a copy of the two smallest.
const obsoleteMax = 8

// deadMax is how many blocks of a chunk's obsolete files may die before they are freed
// without a deletion: 4 MiB.
const deadMax = 1024

// died notes that the live generation replaced count blocks that generation holder held.
func (r *Replica) died(n block.Chunk, holder block.Generation, count int) {
	c := r.chunk(n)
	if holder == r.man.Generation || !r.obsolete(c, holder) {
		return
	}
	if c.dead += count; c.dead >= deadMax {
		c.dead = 0
		r.reclaim.stale[n] = true
		r.startReclaim()
	}
}

func (r *Replica) startReclaim() {
	rc := &r.reclaim
	rc.again = true
	if rc.running {
		return
	}
	rc.running = true
	r.spawn("reclaim", func(t *task) {
		for rc.again && !rc.stop && r.broken == nil {
			rc.again = false
			rc.err = t.reclaimAll()
		}
		rc.running = false
		waiting := rc.waiting
		rc.waiting = nil
		for _, w := range waiting {
			w.wake()
		}
	})
}

// Reclaimed calls done when the space of every deleted generation is free, or with
// why it could not be freed; opening the replica again tries again.
func (r *Replica) Reclaimed(done func(error)) {
	r.spawn("reclaimed", func(t *task) {
		for r.reclaim.running {
			r.reclaim.waiting = append(r.reclaim.waiting, t)
			t.park()
		}
		done(r.reclaim.err)
	})
}

// reclaimAll frees what the generations of the manifest's reclaim list held, then
// takes them off the list.
func (t *task) reclaimAll() error {
	r := t.r
	gens := slices.Clone(r.man.Reclaim)
	numbers := slices.Sorted(maps.Keys(r.reclaim.stale))
	if len(gens) > 0 {
		numbers = slices.Sorted(maps.Keys(r.chunks))
	}
	if len(numbers) == 0 {
		return nil
	}
	var damaged error
	for _, n := range numbers {
		if r.reclaim.stop {
			return nil
		}
		t.lock(&r.reclaim.lock)
		err := t.reclaimChunk(n, gens)
		t.unlock(&r.reclaim.lock)
		switch {
		case fault.Is(err, fault.Corrupt) && r.broken == nil:
			damaged = err // that chunk keeps its space; the others need not
		case err != nil:
			return fault.Wrap("store.Reclaim", err)
		}
	}
	if err := t.syncDir(r.path("chunks")); err != nil {
		return r.fail(err)
	}
	if damaged != nil || len(gens) == 0 {
		return fault.Wrap("store.Reclaim", damaged)
	}
	return t.change(func(m *Manifest) {
		m.Reclaim = slices.DeleteFunc(m.Reclaim, func(g block.Generation) bool { return slices.Contains(gens, g) })
	})
}

// obsolete reports whether the file of generation g in c is the newest of no live
// generation.
func (r *Replica) obsolete(c *chunk, g block.Generation) bool {
	next := c.after(g)
	if next == 0 {
		return false
	}
	for _, s := range r.man.Snapshots {
		if s >= g && s < next {
			return false
		}
	}
	return true
}

func (t *task) reclaimChunk(n block.Chunk, gens []block.Generation) error {
	r := t.r
	c := r.chunks[n]
	newest := block.Generation(0)
	if r.reclaim.stale[n] {
		delete(r.reclaim.stale, n)
		gens = c.gens
	}
	c.dead = 0
	for _, g := range gens {
		if f := c.newest(g); f != 0 && r.obsolete(c, f) {
			newest = max(newest, f)
		}
	}
	for _, g := range slices.Backward(slices.Clone(c.gens)) { // older ones lost a reader too
		if g <= newest && r.obsolete(c, g) {
			if err := t.punchDead(fileKey{n, g}, c); err != nil {
				return err
			}
		}
	}
	return t.mergeExcess(n, c)
}

// shownAbove returns the table that the next newer generation which can be read shows of
// region n, when it is not one of generation g or older: else nil. There is a newer file.
func (t *task) shownAbove(n block.Region, g block.Generation) (*table, error) {
	r := t.r
	c := r.chunk(n.Chunk())
	newer := c.after(g)
	for r.obsolete(c, newer) {
		newer = c.after(newer)
	}
	for ; newer > g; newer = c.newest(newer - 1) {
		if tab, err := t.loadTable(tableKey{n, newer}); tab != nil || err != nil {
			return tab, err
		}
	}
	return nil, nil
}

// punchDead frees the slots of an obsolete file that the next newer view does not need,
// and removes the file when nothing of it is needed.
func (t *task) punchDead(key fileKey, c *chunk) error {
	if err := t.saveInherited(key); err != nil {
		return err
	}
	var dead []block.Extent // of slots
	needed := false
	err := t.eachPair(key, func(tab, newer *table) {
		if newer == nil || newer.seq == 0 {
			needed = true // the newer view reads this very table
			return
		}
		for i := range block.PerRegion {
			e := tab.at(i)
			if e.holder != key.gen || e.state != data && e.state != punched {
				continue
			}
			if ne := newer.at(i); ne.state == data && ne.holder == key.gen {
				needed = true
			} else {
				dead = append(dead, block.Extent{Start: block.Index(e.slot), Count: 1})
			}
		}
	})
	if err != nil {
		return err
	}
	// The newer mappings must not be forgotten once the older blocks are gone.
	if err := t.flush(); err != nil {
		return err
	}
	if !needed {
		return t.removeFile(key, c)
	}
	return t.punchSlots(key, dead)
}

// eachPair calls f for each table of an obsolete file, with the newer one of the same
// region that is shown, or nil.
func (t *task) eachPair(key fileKey, f func(tab, newer *table)) error {
	r := t.r
	for i := range block.RegionsPerChunk {
		n := block.Region(int(key.chunk)*block.RegionsPerChunk + i)
		if int(n) >= r.regions.count {
			return nil
		}
		tab, err := t.loadTable(tableKey{n, key.gen})
		if err != nil {
			return err
		}
		if tab == nil {
			continue
		}
		tab.pins++
		newer, err := t.shownAbove(n, key.gen)
		tab.pins--
		if err != nil {
			return err
		}
		f(tab, newer)
	}
	return nil
}

// saveInherited saves the newer tables that are shown and exist only in memory and in the
// journal: until they are on disk, recovery makes them from the older file's.
func (t *task) saveInherited(key fileKey) error {
	var unsaved []*table
	err := t.eachPair(key, func(_, newer *table) {
		if newer != nil && newer.seq == 0 && newer.dirty {
			unsaved = append(unsaved, newer)
		}
	})
	if err != nil || len(unsaved) == 0 {
		return err
	}
	return t.save(unsaved, nil)
}

// punchSlots punches slots, unless a clone shares the file.
func (t *task) punchSlots(key fileKey, slots []block.Extent) error {
	f, err := t.file(key)
	if err != nil {
		return err
	}
	defer func() { f.refs-- }()
	op, err := t.do(host.Op{Kind: host.OpStat, File: f.handle})
	if err != nil || op.Stat.Links > 1 {
		return err
	}
	slices.SortFunc(slots, func(a, b block.Extent) int { return int(a.Start) - int(b.Start) })
	for i := 0; i < len(slots); {
		run := slots[i]
		for i++; i < len(slots) && slots[i].Start == run.End(); i++ {
			run.Count++
		}
		_, err := t.do(host.Op{Kind: host.OpPunch, File: f.handle, Offset: slotOffset(uint16(run.Start)), Length: run.Bytes()})
		if isUnsupported(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeFile removes a chunk file that nothing needs.
func (t *task) removeFile(key fileKey, c *chunk) error {
	r := t.r
	t.lock(&r.saver.lock) // no table of the file is being saved
	defer t.unlock(&r.saver.lock)
	c.remove(key.gen)
	clear(r.tables.views)
	for i := range block.RegionsPerChunk {
		if tab := r.tables.byKey[tableKey{block.Region(int(key.chunk)*block.RegionsPerChunk + i), key.gen}]; tab != nil {
			r.dropTable(tab)
		}
	}
	if f := r.files.byKey[key]; f != nil {
		if f.refs == 0 && f.ready {
			t.closeFile(f)
		} else {
			r.forgetFile(f) // readers still use it; the kernel keeps it for them
			r.files.orphans = append(r.files.orphans, f)
		}
	}
	_, err := t.do(host.Op{Kind: host.OpRemove, Path: r.chunkPath(key)})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
