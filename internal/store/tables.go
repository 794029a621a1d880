package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// tableKey names a table: what a region looks like as of a generation that wrote to it.
type tableKey struct {
	region block.Region
	gen    block.Generation
}

// tableCache holds the tables that are in memory.
type tableCache struct {
	byKey map[tableKey]*table
	list  []*table
	dirty int // tables that differ from their copy on disk
	clock uint64
	hand  int // where the search for a victim goes on
	// views remembers which generation's table shows a region as of a snapshot.
	views map[tableKey]block.Generation
	// loading has a lock for each table that is being read.
	loading map[tableKey]*taskLock
}

// emptyTable is what a region looks like that was never written. Replicas of several
// goroutines share it: nobody changes it, its pins included.
var emptyTable = new(table)

// use marks t as just used.
func (c *tableCache) use(t *table) {
	if t != emptyTable {
		c.clock++
		t.used = c.clock
	}
}

// add puts a new table in memory, and drops others, clean and idle, for it.
func (r *Replica) addTable(t *table) {
	c := &r.tables
	c.byKey[tableKey{t.region, t.gen}] = t
	t.index = len(c.list)
	c.list = append(c.list, t)
	c.use(t)
	for tries := 8; len(c.list) > r.opts.TablesMax && tries > 0; tries-- {
		if !r.dropOneTable(t) {
			r.saver.kick(r)
			return
		}
	}
	if r.opts.Shared != nil {
		r.opts.Shared.shrinkTables(t)
	}
}

// dropOneTable drops the least recently used of a few tables that may be dropped.
func (r *Replica) dropOneTable(keep *table) bool {
	c := &r.tables
	var victim *table
	for n := 0; n < len(c.list) && (victim == nil || n < 16); n++ {
		c.hand = (c.hand + 1) % len(c.list)
		t := c.list[c.hand]
		if t != keep && !t.dirty && t.pins == 0 && t.mapping == 0 && !t.hold && t.waiters.empty() &&
			(victim == nil || t.used < victim.used) {
			victim = t
		}
	}
	if victim == nil {
		return false
	}
	r.dropTable(victim)
	return true
}

func (r *Replica) dropTable(t *table) {
	c := &r.tables
	delete(c.byKey, tableKey{t.region, t.gen})
	last := len(c.list) - 1
	c.list[t.index] = c.list[last]
	c.list[t.index].index = t.index
	c.list[last] = nil
	c.list = c.list[:last]
	if rg := r.regions.peek(t.region); rg != nil && rg.table == t {
		rg.table = nil
	}
	if t.dirty {
		c.dirty--
	}
}

// touch marks t as different from its copy on disk.
func (r *Replica) touch(t *table) {
	if rg := r.regions.at(t.region); rg.since == 0 {
		panic(fault.Bug("store: table of region %d changes while the region is clean", t.region))
	}
	if !t.dirty {
		t.dirty = true
		r.tables.dirty++
	}
}

// view returns the table that shows region n as of gen, held for q, or nil after
// having put q in line, or having failed it.
func (r *Replica) view(n block.Region, gen block.Generation, q *Request) *table {
	t := r.findView(n, gen, q)
	if t != nil {
		q.holdTable(t)
	}
	return t
}

func (r *Replica) findView(n block.Region, gen block.Generation, q *Request) *table {
	rg := r.regions.peek(n)
	if rg == nil {
		if !r.inherits() {
			return emptyTable
		}
		rg = r.regions.at(n)
	}
	if rg.bad() != nil {
		r.end(q, rg.bad())
		return nil
	}
	if gen < rg.lost {
		r.end(q, r.lostRegion(n, gen))
		return nil
	}
	if rg.table != nil && (gen == r.man.Generation || rg.table.gen <= gen) {
		r.tables.use(rg.table)
		return rg.table
	}
	if gen == r.man.Generation && r.neverWritten(rg) {
		return emptyTable
	}
	if gen != r.man.Generation {
		if t := r.cachedView(n, gen); t != nil {
			r.tables.use(t)
			return t
		}
	}
	rg.rarely().waiters.push(q)
	r.regions.waiting[n] = rg
	if !rg.loading {
		rg.loading = true
		r.spawn("load table", func(t *task) {
			tab, err := t.loadView(n, gen)
			rg.loading = false
			if err == nil && tab != emptyTable {
				tab.pins++
				defer func() { tab.pins-- }()
			}
			delete(r.regions.waiting, n)
			if err == nil {
				r.rerun(&rg.rarely().waiters)
			} else {
				r.failFirst(&rg.rarely().waiters, err)
			}
			rg.tidy()
		})
	}
	return nil
}

// failFirst fails the request that asked, and lets the others find out for themselves:
// they may want another generation.
func (r *Replica) failFirst(l *reqList, err error) {
	q := l.take()
	if q == nil {
		return
	}
	rest := reqList{head: q.next}
	q.next = nil
	r.end(q, err)
	r.rerun(&rest)
}

// inherits reports whether regions without a record may have tables all the same: in a
// clone, which shares files but has a region table of its own.
func (r *Replica) inherits() bool { return len(r.man.Origins) > 0 }

// neverWritten reports whether the live view of the region is known to be empty.
func (r *Replica) neverWritten(rg *region) bool {
	if rg.gone {
		return true
	}
	return rg.table == nil && rg.since == 0 && rg.tableGen == 0 && !r.inherits()
}

// cachedView returns the table that shows region n as of gen, a snapshot, when an
// earlier look at the disk found out which one that is and it is in memory.
func (r *Replica) cachedView(n block.Region, gen block.Generation) *table {
	g, known := r.tables.views[tableKey{n, gen}]
	switch {
	case !known:
		return nil
	case g == 0:
		return emptyTable
	}
	return r.tables.byKey[tableKey{n, g}]
}

// viewsMax bounds what is remembered of where the views of snapshots are.
const viewsMax = 1 << 14

// rememberView notes that the table of generation g, 0 for none, shows region n as of
// gen.
func (r *Replica) rememberView(n block.Region, gen, g block.Generation) {
	if len(r.tables.views) >= viewsMax {
		clear(r.tables.views)
	}
	r.tables.views[tableKey{n, gen}] = g
}

// loadView finds the table that shows region n as of gen, in memory or on disk. The
// search waits for the disk; it begins again when meanwhile the region got a new table
// or the chunk lost a file.
func (t *task) loadView(n block.Region, gen block.Generation) (*table, error) {
	r := t.r
	rg, c := r.regions.at(n), r.chunk(n.Chunk())
	if gen < rg.lost {
		return nil, r.lostRegion(n, gen)
	}
	for {
		if gen == r.man.Generation && rg.table != nil {
			return rg.table, nil
		}
		made, lost := rg.made, c.lost
		tab, err := t.searchView(n, gen)
		if rg.made != made || c.lost != lost {
			continue
		}
		if err != nil {
			return nil, err
		}
		if gen != r.man.Generation {
			r.rememberView(n, gen, tab.gen)
			return tab, nil
		}
		if tab == emptyTable {
			rg.gone = true
			return tab, nil
		}
		rg.table, rg.gone = tab, false
		return tab, nil
	}
}

// searchView looks for the newest table of region n in the files up to generation gen:
// a region's first write in a generation makes a table in that generation's file. The
// record of a region bounds the search for the live view, and of a clean region says
// exactly where it ends.
func (t *task) searchView(n block.Region, gen block.Generation) (*table, error) {
	r := t.r
	rg, c := r.regions.at(n), r.chunk(n.Chunk())
	newest, oldest := c.newest(gen), block.Generation(0)
	if gen == r.man.Generation && rg.tableGen != 0 {
		if c.newest(rg.tableGen) != rg.tableGen {
			into := c.after(rg.tableGen)
			if into == 0 {
				return nil, r.corrupt("store", gen, n.Start(), "chunk file", "the file of generation %d, which has the block table, is missing", rg.tableGen)
			}
			rg.tableGen = into // merged into it, with the same sequence
		}
		oldest = rg.tableGen
		if rg.since == 0 {
			newest = oldest
		}
	}
	for g := newest; g != 0 && g >= oldest; g = c.newest(g - 1) {
		if tab, err := t.loadTable(tableKey{n, g}); tab != nil || err != nil {
			return tab, err
		}
	}
	if oldest != 0 {
		return nil, r.corrupt("store", gen, n.Start(), "block table", "table of generation %d is missing", oldest)
	}
	return emptyTable, nil
}

// loadTable returns the table of key, from memory or from its file and the journal; it
// is nil, without error, when the file has none.
func (t *task) loadTable(key tableKey) (*table, error) {
	r := t.r
	if tab := r.tables.byKey[key]; tab != nil {
		return tab, nil
	}
	// One load of a table at a time: what another read before it was loaded, changed,
	// saved and dropped would be old. Loads of newer tables wait for older ones only.
	l := r.tables.loading[key]
	if l == nil {
		l = new(taskLock)
		r.tables.loading[key] = l
	}
	t.lock(l)
	defer func() {
		t.unlock(l)
		if !l.held && len(l.waiting) == 0 && r.tables.loading[key] == l {
			delete(r.tables.loading, key)
		}
	}()
	if tab := r.tables.byKey[key]; tab != nil {
		return tab, nil
	}
	tab, err := t.readTable(key)
	if c := r.chunk(key.region.Chunk()); err != nil && c.newest(key.gen) != key.gen {
		delete(r.journal.replay, key)
		return nil, nil // its file was removed meanwhile
	}
	if err != nil {
		return nil, err
	}
	records := r.journal.replay[key]
	if tab == nil && len(records) == 0 {
		return nil, nil
	}
	if tab == nil {
		tab = new(table)
		tab.reset(key.region, key.gen)
		if g := r.chunk(key.region.Chunk()).newest(key.gen - 1); g != 0 {
			prev, err := t.loadBefore(key.region, g)
			if err != nil {
				return nil, err
			}
			if prev != nil {
				tab.succeed(prev, key.gen)
			}
		}
	}
	rg := r.regions.at(key.region)
	replayed := replayInto(tab, records)
	if replayed && rg.since == 0 {
		err := r.corrupt("store", key.gen, key.region.Start(), "region record", "it says clean, but the journal has more than the tables")
		rg.damage(err)
		return nil, err
	}
	if err := t.resolve(tab); err != nil {
		return nil, err
	}
	if other := r.tables.byKey[key]; other != nil {
		return other, nil // made by a first write meanwhile
	}
	r.addTable(tab)
	if tab.doubtful && len(records) > 0 { // the journal keeps what it has, until the table is saved
		tab.first, tab.last = records[0].number, max(tab.last, records[len(records)-1].number)
	}
	if replayed || tab.torn || tab.doubtful {
		r.touch(tab)
	}
	delete(r.journal.replay, key)
	return tab, nil
}

// loadBefore returns the newest table of region n in a file of generation g or older,
// or nil.
func (t *task) loadBefore(n block.Region, g block.Generation) (*table, error) {
	c := t.r.chunk(n.Chunk())
	for ; g != 0; g = c.newest(g - 1) {
		if tab, err := t.loadTable(tableKey{n, g}); tab != nil || err != nil {
			return tab, err
		}
	}
	return nil, nil
}

// readTable reads both copies of a table and decides between them.
func (t *task) readTable(key tableKey) (*table, error) {
	r := t.r
	f, err := t.file(fileKey{key.region.Chunk(), key.gen})
	if err != nil {
		return nil, err
	}
	defer func() { f.refs-- }()
	buf := host.Buffer(2 * tableSize)
	if _, err := t.do(host.Op{Kind: host.OpRead, File: f.handle, Offset: tableOffset(key.region, 0), Buf: buf}); err != nil {
		return nil, err
	}
	return r.chooseCopy(key, buf)
}

// chooseCopy decides which of a table's two copies is the newest good one. A bad copy
// is a torn write, and the other one counts, only if the region was dirty in that
// generation when the process or the machine died; otherwise it is damage, unless the
// region's record names the sequence of the good one. A torn copy is written again
// before the next clean close, so that after one no copy is bad but by damage.
func (r *Replica) chooseCopy(key tableKey, buf []byte) (*table, error) {
	rg := r.regions.at(key.region)
	var best *table
	var bad error
	for k := range 2 {
		tab := new(table)
		tab.reset(key.region, key.gen)
		head, present, err := decodeTable(tab, buf[k*tableSize:(k+1)*tableSize], r.owns)
		if err != nil {
			bad = err
			continue
		}
		if present && int(head.seq%2) != k {
			bad = fmt.Errorf("sequence %d in copy %d", head.seq, k)
			continue
		}
		if present && (best == nil || head.seq > best.seq) {
			tab.seq, tab.covered = head.seq, head.journal
			best = tab
		}
	}
	named := rg.tableGen == key.gen && rg.tableSeq != 0
	older := key.gen < rg.tableGen
	torn := rg.suspect && key.gen >= rg.since && (!older || rg.rewriting)
	exact := named && !rg.suspect && best != nil && best.seq == rg.tableSeq
	var why error
	switch {
	case exact:
	case bad != nil && !torn:
		why = bad
	case bad != nil && best == nil && (named || older):
		why = bad
	case named && best == nil:
		why = errors.New("no copy is there")
	case named && best.seq < rg.tableSeq:
		why = fmt.Errorf("newest copy has sequence %d, the region's record demands %d", best.seq, rg.tableSeq)
	case named && !rg.suspect && best.seq != rg.tableSeq && (rg.since == 0 || !r.crashed): // see agree
		why = fmt.Errorf("newest copy has sequence %d, the region's record says %d", best.seq, rg.tableSeq)
	}
	if why != nil {
		return nil, r.corrupt("store", key.gen, key.region.Start(), "block table", "%v", why)
	}
	if best != nil {
		best.torn = bad != nil && torn
		if best.doubtful = r.unsure(rg, best); best.doubtful && bad == nil {
			best.seq-- // to be written again where it was: the other copy may be all that there is
		}
	}
	return best, nil
}

// unsure reports whether a table that was read may be one that the disk does not have:
// after a sync that failed the kernel can go on to show what it gave up on. Of a table that
// the region's record names, or that is older, a sync was confirmed.
func (r *Replica) unsure(rg *region, t *table) bool {
	if r.lost == nil || !rg.suspect || t.gen < rg.since {
		return false
	}
	switch {
	case t.gen == rg.tableGen:
		return t.seq > rg.tableSeq
	case t.gen < rg.tableGen:
		return rg.rewriting
	}
	return true
}

// resolve replaces holders whose file was merged into a newer one by that newer one.
// What a merged file held is found in the next newer file of the chunk. It returns
// with every holder's file there at that moment: files may go while it loads tables.
func (t *task) resolve(tab *table) error {
	r := t.r
	for {
		i, into := r.unresolved(tab)
		if i < 0 {
			return nil
		}
		var newer *table
		if into != 0 && into < tab.gen {
			var err error
			if newer, err = t.loadTable(tableKey{tab.region, into}); err != nil {
				return err
			}
		}
		gone := tab.holders[i]
		if !tab.replace(gone, newer, r.obsolete(r.chunk(tab.region.Chunk()), tab.gen)) {
			return r.corrupt("store", tab.gen, tab.region.Start()+block.Index(i), "block table",
				"the file of generation %d, which has the block, is missing", gone)
		}
	}
}

// replace enters for the blocks that generation gone held, whose file is gone, what newer
// has: into that one gone was merged, if it was. Where they are not there it reports false,
// but for an obsolete table, of whose blocks only some are needed: there they are lost.
func (t *table) replace(gone block.Generation, newer *table, obsolete bool) bool {
	for i := range t.holders {
		e := t.at(i)
		if e.state != data || e.holder != gone {
			continue
		}
		switch {
		case newer != nil && newer.at(i).state == data && newer.holders[i] > gone:
			e.holder, e.slot = newer.holders[i], newer.at(i).slot
		case obsolete:
			e = lostEntry(gone)
		default:
			return false
		}
		t.set(i, e)
	}
	return true
}

// unresolved returns a block of tab whose holder's file is gone, and the generation
// that it was merged into; -1 when there is none.
func (r *Replica) unresolved(tab *table) (i int, into block.Generation) {
	c := r.chunk(tab.region.Chunk())
	known := tab.gen
	for i := range tab.holders {
		h := tab.holders[i]
		if h == known || state(tab.slots[i]>>14) != data {
			continue
		}
		if c.newest(h) != h {
			return i, c.after(h)
		}
		known = h
	}
	return -1, 0
}

// owns reports whether tables of volume v may stand in this replica's files.
func (r *Replica) owns(v block.VolumeID) bool {
	return v == r.man.Volume || slices.Contains(r.man.Origins, v)
}

// liveTable returns region n's table in the live generation, ready to take a write, or
// nil after having put q in line or having failed it.
func (r *Replica) liveTable(n block.Region, q *Request) *table {
	t := r.view(n, r.man.Generation, q)
	if t == nil {
		return nil
	}
	if t != emptyTable && t.gen == r.man.Generation {
		return t
	}
	if r.tables.dirty >= r.opts.TablesMax {
		r.saver.waiters.push(q)
		r.saver.kick(r)
		return nil
	}
	rg := r.regions.at(n)
	next := new(table)
	if t == emptyTable {
		next.reset(n, r.man.Generation)
	} else {
		next.succeed(t, r.man.Generation)
	}
	rg.table, rg.gone = next, false
	rg.made++
	r.addTable(next)
	q.holdTable(next)
	return next
}

func isUnsupported(err error) bool { return fault.Is(err, fault.Unsupported) }
