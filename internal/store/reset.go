package store

import (
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Reset gives up what the live generation holds of region n, whose metadata is damaged, so
// that it can be filled from another copy: until then every request to such a region fails.
// Afterwards the region takes writes and zeroings; each of its blocks reports Corrupt, to
// Read and to Verify, until it was written or zeroed. The region is dirty. If its record
// was damaged, what older generations show of it is lost too, for good.
//
// A region whose metadata is fine is left as it is, so Reset can be repeated, and never
// loses what can still be read; a block whose data alone is damaged needs no Reset, but to
// be written again.
func (r *Replica) Reset(n block.Region, done func(error)) {
	r.spawn("reset", func(t *task) { done(fault.Wrap("store.Reset", t.resetRegion(n))) })
}

func (t *task) resetRegion(n block.Region) error {
	r := t.r
	if int(n) >= r.regions.count {
		return fault.E("store.Reset", fault.Invalid, r.man.Volume, fmt.Errorf("region %d is beyond the volume's %d", n, r.regions.count))
	}
	t.lock(&r.reclaim.lock) // no file is merged or removed meanwhile
	defer t.unlock(&r.reclaim.lock)
	rg := r.regions.at(n)
	why := rg.bad()
	if why == nil {
		if _, why = t.loadView(n, r.man.Generation); why == nil || !fault.Is(why, fault.Corrupt) {
			return why
		}
	}
	rare := rg.rarely()
	older := rare.bad != nil // what older tables lack can't be told
	rare.bad = why           // nothing is read or written here meanwhile
	rare.damaged = older     // on disk too, until the tables are there
	err := t.loseRegion(n, older)
	if err == nil {
		rare.damaged = false
		r.regions.put(n)
		err = t.commitAndWait()
	}
	if err == nil || !older {
		rare.bad = nil
		rg.tidy()
	}
	return err
}

// loseRegion makes durable that every block of region n is lost.
func (t *task) loseRegion(n block.Region, older bool) error {
	r := t.r
	tab, err := t.lostTable(n)
	if err != nil {
		return err
	}
	r.becomeLost(n, tab, older)
	if err := t.commitAndWait(); err != nil {
		return err
	}
	for range 2 { // both copies: the one that is there may be what is damaged
		r.touch(tab)
		if err := t.saveAlone(tab); err != nil {
			return err
		}
	}
	return nil
}

// lostTable returns the live generation's table of region n with every block lost, in
// memory. Its copies on disk will be newer than any that are there.
func (t *task) lostTable(n block.Region) (*table, error) {
	r := t.r
	gen, err := t.makeLiveFile(n.Chunk())
	if err != nil {
		return nil, err
	}
	key := tableKey{n, gen}
	tab := r.tables.byKey[key]
	if tab == nil {
		seq, err := t.newestSeq(key)
		if err != nil {
			return nil, err
		}
		tab = new(table)
		tab.reset(n, gen)
		tab.seq = seq
		if rg := r.regions.at(n); rg.tableGen == gen {
			tab.seq = max(tab.seq, rg.tableSeq)
		}
		r.addTable(tab)
	}
	tab.covered = r.journal.next - 1
	blocks := block.Extent{Start: n.Start(), Count: block.PerRegion}.Clip(block.Extent{Count: uint64(r.man.Size / block.Size)})
	for i := range int(blocks.Count) {
		tab.set(i, lostEntry(gen))
	}
	return tab, nil
}

// becomeLost makes tab what is known of region n.
func (r *Replica) becomeLost(n block.Region, tab *table, older bool) {
	rg := r.regions.at(n)
	if older {
		rg.record = record{since: tab.gen, lost: tab.gen}
		rg.settled()
	}
	if rg.since == 0 {
		rg.since = tab.gen
	}
	rg.epoch = max(rg.epoch, r.epoch)
	r.writes++ // as a write does: a Clean for what was before does not cover it
	rg.lastWrite = r.writes
	rg.table, rg.gone = tab, false
	rg.made++
	if !slices.Contains(r.regions.dirty, n) {
		r.regions.dirty = append(r.regions.dirty, n)
	}
	r.regions.put(n)
	clear(r.tables.views)
	for key := range r.journal.replay {
		if key.region == n && (older || key.gen == tab.gen) {
			delete(r.journal.replay, key)
		}
	}
}

// saveAlone saves one table.
func (t *task) saveAlone(tab *table) error {
	t.lock(&t.r.saver.lock)
	defer t.unlock(&t.r.saver.lock)
	return t.saveTables([]*table{tab})
}

// makeLiveFile sees to it that chunk n has a file of the live generation, and returns
// which one that is.
func (t *task) makeLiveFile(n block.Chunk) (block.Generation, error) {
	r := t.r
	c := r.chunk(n)
	for r.broken == nil {
		gen := r.man.Generation
		switch {
		case c.newest(gen) == gen:
			return gen, nil
		case c.preparing:
			c.tasks = append(c.tasks, t)
			t.park()
		default:
			c.preparing = true
			if err := t.prepare(n, c); err != nil {
				return 0, err
			}
		}
	}
	return 0, r.broken
}

// newestSeq returns the highest sequence among a table's copies on disk that are not
// damaged.
func (t *task) newestSeq(key tableKey) (uint32, error) {
	r := t.r
	f, err := t.file(fileKey{key.region.Chunk(), key.gen})
	if err != nil {
		return 0, err
	}
	defer func() { f.refs-- }()
	buf := host.Buffer(2 * tableSize)
	op, err := t.do(host.Op{Kind: host.OpRead, File: f.handle, Offset: tableOffset(key.region, 0), Buf: buf})
	if err != nil {
		return 0, err
	}
	clear(buf[op.N:])
	seq, tab := uint32(0), new(table)
	for k := range 2 {
		tab.reset(key.region, key.gen)
		if head, present, err := decodeTable(tab, buf[k*tableSize:(k+1)*tableSize], r.owns); present && err == nil {
			seq = max(seq, head.seq)
		}
	}
	return seq, nil
}

func (r *Replica) lostRegion(n block.Region, gen block.Generation) error {
	return r.corrupt("store", gen, n.Start(), "region record", "it was damaged, and what generations before %d show of the region was lost with it", r.regions.at(n).lost)
}
