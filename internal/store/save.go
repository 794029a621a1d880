package store

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// saver writes tables to their files, in the background: when the journal or the
// memory for tables fills up, and when regions are to become clean.
type saver struct {
	task       *task
	idle       bool
	again      bool
	mark       uint64  // regions that were not written after this mark may become clean
	waiters    reqList // requests that wait for fewer dirty tables
	tasks      []*task // tasks that wait for the saver to have nothing to do
	waitingFor *task   // the saver, while it waits for first writes in flight
	buf        []byte
	lock       taskLock // one save at a time
}

// saveBatch is how many tables are saved with one flush: 64 × 12 KiB.
const saveBatch = 64

// kick asks the saver to look for work, soon: not while a request is being looked at,
// which relies on what it has seen.
func (s *saver) kick(r *Replica) {
	s.again = true
	r.pump()
}

// pump lets the saver run if it was kicked and nothing relies on things as they are.
func (r *Replica) pump() {
	s := &r.saver
	if s.again && s.idle && r.running == 0 && r.broken == nil {
		s.idle = false
		s.task.wake()
	}
}

// ready tells the saver that a table has no first write in flight any more.
func (s *saver) ready() {
	if t := s.waitingFor; t != nil {
		s.waitingFor = nil
		t.wake()
	}
}

// Clean allows every region that was not written after mark to become clean, some time
// later. The caller vouches that a flush after mark was confirmed by every in-sync
// replica.
func (r *Replica) Clean(mark uint64) {
	r.saver.mark = max(r.saver.mark, mark)
	r.saver.kick(r)
}

// saveLoop is the task that saves.
func (t *task) saveLoop() {
	r := t.r
	s := &r.saver
	s.task = t
	for {
		for !s.again || r.broken != nil {
			s.idle, s.buf = true, nil // of hundreds of replicas few save at a time
			for _, w := range s.tasks {
				w.wake()
			}
			s.tasks = nil
			if r.closer != nil {
				r.closer.wake()
			}
			t.park()
		}
		s.again = false
		for r.broken == nil {
			tables, regions := r.toSave()
			if len(tables) == 0 && len(regions) == 0 {
				break
			}
			if err := t.save(tables, regions); err != nil {
				t.giveUp(err)
				break
			}
			r.rerun(&s.waiters)
		}
		if r.journal.room() <= 0 && r.broken == nil && t.flush() == nil {
			t.lock(&s.lock) // what is being saved holds the tail, and does not say so
			r.advanceTail() // nothing to save holds it: only the marker was missing
			t.unlock(&s.lock)
		}
		r.rerun(&s.waiters)
	}
}

// giveUp fails the requests that can't go on before tables are saved. Those that come
// later try again.
func (t *task) giveUp(err error) {
	r := t.r
	r.failAll(&r.saver.waiters, err)
	if r.journal.room() <= 0 {
		r.failAll(&r.journal.waiters, err)
	}
}

// toSave chooses the next tables to be saved, and the regions that may become clean
// with them: those that hold the journal's tail, then the least recently used while
// memory is short, then what Clean allows.
func (r *Replica) toSave() (tables []*table, regions []block.Region) {
	j := &r.journal
	if j.room() < int(j.blocks)/2 {
		r.settleReplay()
		old := j.next - j.blocks/4
		if j.room() <= 0 {
			old = j.next
		}
		for _, tab := range r.tables.list {
			if tab.first != 0 && tab.first < old {
				tables = append(tables, tab)
			}
		}
		slices.SortFunc(tables, func(a, b *table) int { return cmp.Compare(a.first, b.first) })
	}
	if len(tables) == 0 && (r.tables.dirty > r.opts.TablesMax/2 || r.opts.Shared.crowded()) {
		for _, tab := range r.tables.list {
			if tab.dirty {
				tables = append(tables, tab)
			}
		}
		slices.SortFunc(tables, func(a, b *table) int { return cmp.Compare(a.used, b.used) })
	}
	if len(tables) > 0 {
		return tables[:min(len(tables), saveBatch)], nil
	}
	list := &r.regions.dirty
	*list = slices.DeleteFunc(*list, func(n block.Region) bool { return r.regions.at(n).since == 0 })
	for _, n := range *list {
		rg := r.regions.at(n)
		if rg.lastWrite > r.saver.mark || rg.writes > 0 || rg.bad() != nil || rg.stuck {
			continue
		}
		regions = append(regions, n)
		tables = append(tables, r.dirtyTables(n)...)
		if len(tables) >= saveBatch || len(regions) >= 4*saveBatch {
			break
		}
	}
	return tables, regions
}

// dirtyTables returns the tables of region n that differ from their copy on disk.
func (r *Replica) dirtyTables(n block.Region) (tables []*table) {
	c := r.chunks[n.Chunk()]
	if c == nil {
		return nil
	}
	for _, g := range c.gens {
		if tab := r.tables.byKey[tableKey{n, g}]; tab != nil && tab.dirty {
			tables = append(tables, tab)
		}
	}
	return tables
}

// save makes tables durable, then marks those of regions clean that still may be.
func (t *task) save(tables []*table, regions []block.Region) error {
	r := t.r
	t.lock(&r.saver.lock)
	defer t.unlock(&r.saver.lock)
	tables = slices.DeleteFunc(tables, func(tab *table) bool { // dropped with its file, or saved, meanwhile
		return r.tables.byKey[tableKey{tab.region, tab.gen}] != tab || !tab.dirty && tab.first == 0
	})
	for _, n := range regions {
		if rg := r.regions.at(n); rg.suspect {
			if err := t.settleRegion(n, rg); err != nil {
				if r.broken != nil {
					return err
				}
				rg.stuck = true
				continue
			}
			tables = append(tables, r.dirtyTables(n)...)
		}
	}
	if err := t.saveTables(tables); err != nil {
		return err
	}
	for _, n := range regions {
		rg := r.regions.at(n)
		if rg.since == 0 || rg.suspect {
			continue
		}
		if r.crashed { // it may have come between table and record
			if err := t.agree(n, rg); err != nil {
				if r.broken != nil {
					return err
				}
				rg.stuck = true
				continue
			}
		}
		if rg.lastWrite <= r.saver.mark && rg.writes == 0 && len(r.dirtyTables(n)) == 0 {
			rg.since, rg.rewriting = 0, false
			r.regions.put(n)
		}
	}
	if err := t.commitAndWait(); err != nil {
		return err
	}
	r.advanceTail()
	return nil
}

// agree makes the record of region n name the newest table on disk.
func (t *task) agree(n block.Region, rg *region) error {
	tab, err := t.loadView(n, t.r.man.Generation)
	if err == nil && tab.seq != 0 {
		rg.tableGen, rg.tableSeq = tab.gen, tab.seq
	}
	return err
}

// agreeAll does so for every region that a crash may have left otherwise.
func (t *task) agreeAll() error {
	r := t.r
	if !r.crashed {
		return nil
	}
	for _, n := range r.regions.dirty {
		rg := r.regions.at(n)
		if rg.since == 0 || rg.bad() != nil {
			continue
		}
		if err := t.agree(n, rg); err != nil && !fault.Is(err, fault.Corrupt) {
			return err
		}
		r.regions.put(n)
	}
	return t.commitAndWait()
}

// saveTables writes tables, as they are now, to the copies that are not their newest:
// flush what they say, write, sync. Where there is no space for that they stay as
// different from their copies as they were.
func (t *task) saveTables(tables []*table) error {
	r := t.r
	if len(tables) == 0 {
		return nil
	}
	tables, err := t.withOlder(tables)
	if err != nil {
		return err
	}
	if err := t.rewrite(tables); err != nil {
		return err
	}
	if cap(r.saver.buf) < len(tables)*tableSize {
		r.saver.buf = host.Buffer(len(tables) * tableSize)
	}
	buf := r.saver.buf[:len(tables)*tableSize]
	firsts := make([]uint64, len(tables))
	for i, tab := range tables {
		tab.pins++
		defer func() { tab.pins-- }()
		tab.hold = true
		for tab.mapping > 0 && r.broken == nil {
			r.saver.waitingFor = t
			t.park()
		}
		if tab.dirty {
			tab.dirty = false
			r.tables.dirty--
		}
		firsts[i], tab.first = tab.first, 0
		tab.encode(buf[i*tableSize:(i+1)*tableSize], r.man.Volume, tab.seq+1, max(tab.covered, tab.last))
		tab.saving = max(tab.covered, tab.last)
		tab.hold = false
		r.rerun(&tab.waiters)
	}
	err = t.flush()
	if err == nil {
		err = t.writeTables(tables, buf)
	}
	if err != nil {
		if !fault.Is(err, fault.NoSpace) {
			return r.fail(err)
		}
		for i, tab := range tables {
			if firsts[i] != 0 {
				tab.first = firsts[i]
			}
			r.touch(tab)
		}
		return fault.E("store", fault.NoSpace, r.man.Volume, fmt.Errorf("block tables: %w", err))
	}
	for _, tab := range tables {
		tab.seq++
		tab.covered = tab.saving
		rg := r.regions.at(tab.region)
		if tab.gen >= rg.tableGen {
			rg.tableGen, rg.tableSeq = tab.gen, tab.seq
			r.regions.put(tab.region)
		}
	}
	return nil
}

// withOlder adds the tables of older generations that are not on disk as they are, in the
// order in which they lie there: none may be left when a record names a newer one.
func (t *task) withOlder(tables []*table) ([]*table, error) {
	r := t.r
	all := slices.Clone(tables)
	for _, tab := range tables {
		for _, g := range slices.Clone(r.chunk(tab.region.Chunk()).gens) {
			key := tableKey{tab.region, g}
			if g >= tab.gen {
				break
			}
			rg, more := r.regions.at(tab.region), len(r.journal.replay[key]) > 0
			if more || rg.suspect && g >= rg.since { // a copy of it may be torn
				if _, err := t.loadTable(key); err != nil && (more || !fault.Is(err, fault.Corrupt)) {
					return nil, err
				}
			}
			if older := r.tables.byKey[key]; older != nil && older.dirty {
				all = append(all, older)
			}
		}
	}
	slices.SortFunc(all, func(a, b *table) int {
		return cmp.Or(cmp.Compare(a.region, b.region), cmp.Compare(a.gen, b.gen))
	})
	return slices.Compact(all), nil
}

// rewrite has the records say which regions get tables older than the one they name:
// after a crash a checksum was corrected.
func (t *task) rewrite(tables []*table) error {
	r := t.r
	changed := false
	for _, tab := range tables {
		if rg := r.regions.at(tab.region); tab.gen < rg.tableGen && !rg.rewriting {
			rg.rewriting, changed = true, true
			r.regions.put(tab.region)
		}
	}
	if !changed {
		return nil
	}
	return t.commitAndWait()
}

// writeTables writes encoded tables and syncs their files.
func (t *task) writeTables(tables []*table, buf []byte) error {
	ops := make([]host.Op, 0, len(tables))
	var syncs []host.Op
	for i, tab := range tables {
		f, err := t.file(fileKey{tab.region.Chunk(), tab.gen})
		if err != nil {
			return err
		}
		defer func() { f.refs-- }()
		ops = append(ops, host.Op{Kind: host.OpWrite, File: f.handle,
			Offset: tableOffset(tab.region, (tab.seq+1)%2), Buf: buf[i*tableSize : (i+1)*tableSize]})
		if len(syncs) == 0 || syncs[len(syncs)-1].File != f.handle {
			syncs = append(syncs, host.Op{Kind: host.OpSync, File: f.handle})
		}
	}
	if err := t.doAll(ops); err != nil {
		return err
	}
	return t.syncAlone(syncs)
}

// advanceTail lets the journal forget what every table on disk has.
func (r *Replica) advanceTail() {
	j := &r.journal
	tail := j.written + 1
	for _, tab := range r.tables.list {
		if tab.first != 0 {
			tail = min(tail, tab.first)
		}
	}
	for _, records := range j.replay {
		tail = min(tail, records[0].number)
	}
	if j.last > j.durable {
		tail = min(tail, j.durable+1)
	}
	if tail > j.tail {
		j.tail = tail
		r.rerun(&j.waiters)
	}
}

// drained waits until the saver has nothing more to do.
func (t *task) drained() error {
	r := t.r
	for (!r.saver.idle || r.saver.again) && r.broken == nil {
		r.saver.tasks = append(r.saver.tasks, t)
		t.park()
	}
	return r.broken
}
