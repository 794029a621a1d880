package store

import (
	"fmt"
	"strings"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// mergeSuffix names a chunk file that is being made out of two; mergedInfix, followed by
// the older one's generation, one that is complete: from then on it counts.
const (
	mergeSuffix = ".merge"
	mergedInfix = ".merged-"
)

// mergedName is the name of the merged file until it takes its place.
func mergedName(into fileKey, from block.Generation) string {
	return fmt.Sprintf("%s%s%06d", into.name(), mergedInfix, from)
}

// parseMerged reads what mergedName printed.
func parseMerged(name string) (into fileKey, from block.Generation, ok bool) {
	a, b, found := strings.Cut(name, mergedInfix)
	into, ok1 := parseFileKey(a)
	f, ok2 := parseFileKey(fmt.Sprintf("%08d.%s", into.chunk, b))
	return into, f.gen, found && ok1 && ok2 && mergedName(into, f.gen) == name
}

// finishMerge puts a complete merged file in its place. The older file goes first, and
// for good: a table on disk that names it must find that it is gone, because its blocks
// are elsewhere now.
func (t *task) finishMerge(into fileKey, from block.Generation) error {
	r := t.r
	_, err := t.do(host.Op{Kind: host.OpRemove, Path: r.chunkPath(fileKey{into.chunk, from})})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err := t.syncDir(r.path("chunks")); err != nil {
		return err
	}
	if _, err := t.do(host.Op{Kind: host.OpRename, Path: r.path("chunks/" + mergedName(into, from)), To: r.chunkPath(into)}); err != nil {
		return err
	}
	return t.syncDir(r.path("chunks"))
}

// mergeExcess merges obsolete files of c until at most obsoleteMax are left, each with
// its next newer neighbour, cheapest pair first. The live file takes part in no merge.
func (t *task) mergeExcess(n block.Chunk, c *chunk) error {
	r := t.r
	for {
		count := 0
		best, cost := block.Generation(0), int64(0)
		for _, g := range c.gens {
			next := c.after(g)
			if !r.obsolete(c, g) {
				continue
			}
			count++
			if next == r.man.Generation || r.sealing.gen != 0 || r.reclaim.stop { // a sealed one may be live again
				continue
			}
			size, err := t.pairSize(n, g, next)
			if err != nil {
				return err
			}
			if best == 0 || size < cost {
				best, cost = g, size
			}
		}
		if count <= obsoleteMax || best == 0 {
			return nil
		}
		merged, err := t.merge(n, c, best, c.after(best))
		if err != nil || !merged {
			return err
		}
	}
}

func (t *task) pairSize(n block.Chunk, a, b block.Generation) (int64, error) {
	total := int64(0)
	for _, g := range []block.Generation{a, b} {
		f, err := t.file(fileKey{n, g})
		if err != nil {
			return 0, err
		}
		op, err := t.do(host.Op{Kind: host.OpStat, File: f.handle})
		f.refs--
		if err != nil {
			return 0, err
		}
		total += op.Stat.Allocated
	}
	return total, nil
}

// merge makes one file out of the obsolete file of generation from and the one of
// generation into, the next newer: what into sees of both, under into's name. Blocks of
// into keep their slots, because newer tables point at them; blocks of from get free
// ones, and newer tables find them through into's tables (see resolve). It reports
// false, without error, when the chunk is not fit for it now.
func (t *task) merge(n block.Chunk, c *chunk, from, into block.Generation) (bool, error) {
	r := t.r
	old, err := t.mergeTables(n, c, from, into)
	if err != nil || old == nil {
		return false, err
	}
	defer func() {
		for _, p := range old {
			p.unpin()
		}
	}()
	merged, moves, ok := planMerge(old, from, into)
	if !ok {
		return false, nil
	}
	// What the next newer view replaced is left out: it must not be forgotten once that
	// is gone.
	if err := t.flush(); err != nil {
		return false, err
	}
	name := r.chunkPath(fileKey{n, into}) + mergeSuffix
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: name, Flags: host.Create | host.Direct})
	if err != nil {
		return false, err
	}
	h := op.File
	err = t.fillMerge(h, fileKey{n, from}, fileKey{n, into}, merged, moves)
	if _, cerr := t.do(host.Op{Kind: host.OpClose, File: h}); err == nil {
		err = cerr
	}
	if err != nil {
		_, _ = t.do(host.Op{Kind: host.OpRemove, Path: name})
		return false, err
	}
	for _, g := range []block.Generation{from, into} { // open for those who read while the names change
		f, err := t.file(fileKey{n, g})
		if err != nil {
			return false, err
		}
		defer func() { f.refs-- }()
	}
	key := fileKey{n, into}
	if _, err := t.do(host.Op{Kind: host.OpRename, Path: name, To: r.path("chunks/" + mergedName(key, from))}); err != nil {
		return false, err
	}
	if err := t.syncDir(r.path("chunks")); err != nil {
		return false, r.fail(err)
	}
	if err := t.finishMerge(key, from); err != nil {
		return false, r.fail(err)
	}
	r.switchMerged(n, from, into, merged)
	for i := range merged { // records of regions whose live table moved
		if tab := merged[i]; tab != nil {
			if rg := r.regions.at(tab.region); rg.tableGen == from {
				rg.tableGen = into
				r.regions.put(tab.region)
			}
		}
	}
	return true, t.commitAndWait()
}

// tablePair is a region's tables in the two files of a merge; either may be nil.
type tablePair struct {
	from, into *table
	// next is the region's next newer table that a generation shows, if none shows into's:
	// then only what next has of the two files is needed, and slots of the rest may have
	// been punched.
	next *table
}

// needs reports whether somebody may read block i of the merged table, which e is.
func (p tablePair) needs(i int, e entry) bool {
	return p.next == nil || p.next.at(i).state == data && p.next.holders[i] == e.holder
}

func (p tablePair) unpin() {
	for _, tab := range []*table{p.from, p.into, p.next} {
		if tab != nil {
			tab.pins--
		}
	}
}

// mergeTables loads and pins the tables of both files. It returns nil when one of them
// is not settled on disk yet.
func (t *task) mergeTables(n block.Chunk, c *chunk, from, into block.Generation) ([]tablePair, error) {
	r := t.r
	var pairs []tablePair
	fit := true
	var failed error
	for i := range block.RegionsPerChunk {
		region := block.Region(int(n)*block.RegionsPerChunk + i)
		if int(region) >= r.regions.count {
			break
		}
		var p tablePair
		if rg := r.regions.peek(region); rg != nil && rg.since != 0 && rg.since <= into {
			fit = false // its tables may still change
		}
		for _, x := range []struct {
			gen block.Generation
			tab **table
		}{{from, &p.from}, {into, &p.into}} {
			tab, err := t.loadTable(tableKey{region, x.gen})
			if err != nil {
				failed = err
				break
			}
			if tab != nil {
				tab.pins++
				*x.tab = tab
				fit = fit && !tab.dirty && tab.seq != 0
			}
		}
		if failed == nil && r.obsolete(c, into) {
			if p.next, failed = t.shownAbove(region, into); p.next != nil {
				p.next.pins++
			}
		}
		pairs = append(pairs, p)
	}
	if failed != nil || !fit {
		for _, p := range pairs {
			p.unpin()
		}
		return nil, failed
	}
	return pairs, nil
}

// slotMove is a run of slots to copy from one of the two files of a merge.
type slotMove struct {
	gen      block.Generation
	from, to uint16
	count    int
	sums     []block.Sum
}

// planMerge lays out the merged file: its tables, one per region or nil, and the
// copies that fill it. ok is false when there are not enough free slots.
func planMerge(old []tablePair, from, into block.Generation) (merged []*table, moves []slotMove, ok bool) {
	used := make([]bool, block.PerChunk)
	for _, p := range old {
		if p.into == nil {
			continue
		}
		for i := range block.PerRegion {
			if e := p.into.at(i); e.holder == into && (e.state == data || e.state == punched) {
				used[e.slot] = true
			}
		}
	}
	free := 0
	for _, p := range old {
		if p.from == nil && p.into == nil {
			merged = append(merged, nil)
			continue
		}
		src := p.into
		if src == nil {
			src = p.from
		}
		tab := new(table)
		tab.succeed(src, into)
		tab.seq, tab.covered = src.seq, src.covered
		for i := range block.PerRegion {
			e := tab.at(i)
			gen, slot := e.holder, e.slot
			if e.state == data && (e.holder == from || e.holder == into) && !p.needs(i, e) {
				tab.set(i, entry{state: zeroed, holder: into, sum: block.ZeroSum})
				continue
			}
			switch {
			case e.state == data && e.holder == from:
				for free < block.PerChunk && used[free] {
					free++
				}
				if free == block.PerChunk {
					return nil, nil, false
				}
				used[free] = true
				e.holder, e.slot = into, uint16(free)
			case e.state == data && e.holder == into:
			case tab.isLost(i):
				continue
			case e.holder == from: // zeroed there: no slot to keep
				tab.set(i, entry{state: zeroed, holder: into, sum: block.ZeroSum})
				continue
			default:
				continue
			}
			tab.set(i, e)
			moves = addMove(moves, slotMove{gen: gen, from: slot, to: e.slot, count: 1, sums: []block.Sum{e.sum}})
		}
		merged = append(merged, tab)
	}
	return merged, moves, true
}

func addMove(moves []slotMove, m slotMove) []slotMove {
	if len(moves) > 0 {
		last := &moves[len(moves)-1]
		if last.gen == m.gen && int(last.from)+last.count == int(m.from) && int(last.to)+last.count == int(m.to) && last.count < settleStep {
			last.count++
			last.sums = append(last.sums, m.sums...)
			return moves
		}
	}
	return append(moves, m)
}

// fillMerge writes the merged file and makes it durable.
func (t *task) fillMerge(h host.File, from, into fileKey, merged []*table, moves []slotMove) error {
	r := t.r
	if err := r.admit(int64(len(moves)) * block.Size); err != nil {
		return err
	}
	if _, err := t.do(host.Op{Kind: host.OpTruncate, File: h, Length: chunkFileSize}); err != nil {
		return err
	}
	sources := map[block.Generation]*file{}
	for _, key := range []fileKey{from, into} {
		f, err := t.file(key)
		if err != nil {
			return err
		}
		defer func() { f.refs-- }()
		sources[key.gen] = f
	}
	buf := host.Buffer(settleStep * block.Size)
	sums := make([]block.Sum, settleStep)
	for _, m := range moves {
		b := buf[:m.count*block.Size]
		op, err := t.do(host.Op{Kind: host.OpRead, File: sources[m.gen].handle, Offset: slotOffset(m.from), Buf: b})
		if err != nil {
			return err
		}
		clear(b[op.N:])
		block.Checksums(sums[:m.count], b)
		for i := range m.count {
			if sums[i] != m.sums[i] {
				return r.corrupt("store.merge", m.gen, into.chunk.Start(), "data", "slot %d of chunk %d: checksum %08x, want %08x",
					int(m.from)+i, into.chunk, uint32(sums[i]), uint32(m.sums[i]))
			}
		}
		if _, err := t.do(host.Op{Kind: host.OpWrite, File: h, Offset: slotOffset(m.to), Buf: b}); err != nil {
			return err
		}
	}
	tb := host.Buffer(tableSize)
	for _, tab := range merged {
		if tab == nil {
			continue
		}
		if tab.seq == 0 {
			return fault.E("store.merge", fault.Internal, r.man.Volume, fmt.Errorf("table of region %d was never saved", tab.region))
		}
		tab.encode(tb, r.man.Volume, tab.seq, tab.covered)
		if _, err := t.do(host.Op{Kind: host.OpWrite, File: h, Offset: tableOffset(tab.region, tab.seq%2), Buf: tb}); err != nil {
			return err
		}
	}
	_, err := t.do(host.Op{Kind: host.OpSync, File: h})
	return err
}

// switchMerged makes memory agree with the merged file, in one go.
func (r *Replica) switchMerged(n block.Chunk, from, into block.Generation, merged []*table) {
	for _, g := range []block.Generation{from, into} {
		if f := r.files.byKey[fileKey{n, g}]; f != nil {
			r.forgetFile(f)
			r.files.orphans = append(r.files.orphans, f)
		}
	}
	clear(r.tables.views)
	r.chunks[n].remove(from) // tables that are read from now on find its blocks in into
	for _, tab := range merged {
		if tab == nil {
			continue
		}
		rg := r.regions.at(tab.region)
		live := rg.table != nil && (rg.table.gen == from || rg.table.gen == into)
		for _, g := range []block.Generation{from, into} {
			if old := r.tables.byKey[tableKey{tab.region, g}]; old != nil {
				r.dropTable(old)
			}
		}
		r.addTable(tab)
		if live {
			rg.table = tab
		}
		for _, newer := range r.tables.list {
			if newer.region != tab.region || newer.gen <= into {
				continue
			}
			for i := range block.PerRegion {
				if e := newer.at(i); e.state == data && e.holder == from {
					e.holder, e.slot = into, tab.at(i).slot
					newer.set(i, e)
				}
			}
		}
	}
}
