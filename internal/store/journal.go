package store

import (
	"cmp"
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// journal is the ring of mappings that no table on disk has yet. Blocks are numbered
// from 1; block n lies at n modulo the ring's length. One block is being written at a
// time, and takes all records that came up meanwhile.
type journal struct {
	file    host.File
	opened  bool
	blocks  uint64 // length of the ring
	start   uint64 // first block of this session
	next    uint64 // number of the block that is being filled
	written uint64 // blocks up to this one are on disk
	proven  uint64 // of these, the ones whose proof is on disk too
	last    uint64 // of the written ones, the last with records
	durable uint64 // vouched for by a durable marker
	tail    uint64 // blocks before this one are not needed

	filling  *journalBlock
	inflight *journalBlock
	pending  []*journalBlock // written, not proven, ascending
	spare    []*journalBlock

	unsynced bool    // blocks were written since the last sync
	prove    bool    // somebody waits for proof: write a block even without records
	waiters  reqList // requests that wait for proof, or for room
	flusher  *task   // waits for data to arrive
	op       host.Op
	buf      []byte

	marking *task // waits for its marker blocks

	replay   replayMap // what an earlier process left and no table has yet
	settling bool      // a task loads those tables
}

// journalBlock is a block on its way to the disk and to being proven.
type journalBlock struct {
	number      uint64
	records     []mapping
	fresh       []freshRun
	outstanding int         // records whose data has not arrived
	waiting     []*transfer // that wait for the block to be on disk
	proof       uint64      // the data of blocks up to this one had arrived when it was sent
}

// freshRun is a run of blocks whose mapping is not proven.
type freshRun struct {
	table        *table
	first, count int
}

// logged is a record that was found in the journal, with its block's number.
type logged struct {
	mapping
	number uint64
}

type replayMap map[tableKey][]logged

func (m replayMap) of(key fileKey) []logged {
	var all []logged
	for i := range block.RegionsPerChunk {
		all = append(all, m[tableKey{block.Region(int(key.chunk)*block.RegionsPerChunk + i), key.gen}]...)
	}
	return all
}

func (m replayMap) keys() []tableKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b tableKey) int {
		return cmp.Or(cmp.Compare(a.region, b.region), cmp.Compare(a.gen, b.gen))
	})
}

func (j *journal) init(r *Replica, file host.File, blocks uint64, next, durable, tail uint64) {
	j.file, j.blocks = file, blocks
	j.start, j.next, j.written, j.last, j.proven, j.durable, j.tail = next, next, next-1, next-1, next-1, durable, tail
	j.buf = host.Buffer(2 * block.Size)
	j.filling = &journalBlock{number: next}
	j.op.Done = func(*host.Op) { r.journalWritten() }
}

// ringReserve is how many blocks are kept back for what must be written when the ring
// takes no more records: a proof, and the markers of the flush and of the save that
// make room again.
const ringReserve = 8

// room returns how many more blocks with records the ring takes.
func (j *journal) room() int { return int(j.blocks) - int(j.next-j.tail) - ringReserve }

// log adds a record for t to the block that is being filled and returns that block.
// The caller has made sure of room.
func (r *Replica) log(m mapping, t *table) *journalBlock {
	b := r.journal.filling
	if len(b.records) == mappingsMax {
		panic(fault.Bug("store: more records than roomFor granted"))
	}
	b.records = append(b.records, m)
	if t.first == 0 {
		t.first = b.number
	}
	t.last = b.number
	return b
}

// roomFor reports whether records more fit into the journal now; if not q is put in
// line.
func (r *Replica) roomFor(records int, q *Request) bool {
	j := &r.journal
	if len(j.filling.records)+records <= mappingsMax && j.room() > 0 {
		if j.room() < int(j.blocks)/2 {
			r.saver.kick(r)
		}
		return true
	}
	j.waiters.push(q)
	if j.room() <= 0 {
		r.saver.kick(r)
	}
	r.writeJournal()
	return false
}

// arrivedThrough returns the last block up to which all data has arrived.
func (j *journal) arrivedThrough() uint64 {
	for _, b := range j.pending {
		if b.outstanding > 0 {
			return b.number - 1
		}
	}
	return j.written
}

// writeJournal sends the block being filled, unless one is in flight or there is no
// reason to.
func (r *Replica) writeJournal() {
	j := &r.journal
	if j.inflight != nil || r.broken != nil {
		return
	}
	proof := j.prove && j.arrivedThrough() > j.proven
	if len(j.filling.records) == 0 && !proof && j.marking == nil {
		return
	}
	if j.next-j.tail >= j.blocks {
		panic(fault.Bug("store: the journal would overwrite block %d, which is needed", j.tail))
	}
	j.prove = false
	b := j.filling
	j.inflight = b
	j.encode(j.buf[:block.Size], r, b)
	j.next++
	j.op.Kind, j.op.File, j.op.Offset, j.op.Buf = host.OpWrite, j.file, int64(b.number%j.blocks)*block.Size, j.buf[:block.Size]
	j.filling = j.block(j.next)
	r.submit(&j.op)
}

func (j *journal) encode(buf []byte, r *Replica, b *journalBlock) {
	b.proof = j.arrivedThrough()
	encodeJournalBlock(buf, r.man.Volume, journalHead{
		number: b.number, session: r.session, boot: r.opts.Boot,
		proven: b.proof, durable: j.durable, tail: j.tail, start: j.start,
	}, b.records)
}

func (j *journal) block(number uint64) *journalBlock {
	if n := len(j.spare); n > 0 {
		b := j.spare[n-1]
		j.spare = j.spare[:n-1]
		b.number = number
		return b
	}
	return &journalBlock{number: number}
}

// journalWritten goes on after a block has reached the disk.
func (r *Replica) journalWritten() {
	j := &r.journal
	b := j.inflight
	j.inflight = nil
	if j.op.Err != nil {
		r.fail(j.op.Err)
	} else {
		j.written = b.number
		if len(b.records) > 0 {
			j.last = b.number
		}
		j.unsynced = true
		r.settleProof(b.proof)
	}
	j.pending = append(j.pending, b)
	waiting := b.waiting
	b.waiting = b.waiting[len(b.waiting):]
	for _, x := range waiting {
		x.logged(j.op.Err)
	}
	b.waiting = waiting[:0]
	if t := j.marking; t != nil {
		j.marking = nil
		t.wake()
	}
	r.rerun(&j.waiters)
	r.writeJournal()
}

// settleProof notes that the proof of blocks up to number is on disk: their blocks may
// be overwritten in place from now on.
func (r *Replica) settleProof(number uint64) {
	j := &r.journal
	j.proven = max(j.proven, number)
	n := 0
	for n < len(j.pending) && j.pending[n].number <= j.proven {
		b := j.pending[n]
		for _, f := range b.fresh {
			f.table.clearUnproven(f.first, f.count)
			f.table.pins--
		}
		clear(b.fresh)
		b.fresh, b.records = b.fresh[:0], b.records[:0]
		j.spare = append(j.spare, b)
		n++
	}
	j.pending = slices.Delete(j.pending, 0, n)
}

// arrived notes that the data of one of b's records is on disk.
func (r *Replica) arrived(b *journalBlock) {
	b.outstanding--
	j := &r.journal
	if b.outstanding > 0 {
		return
	}
	if j.prove {
		r.writeJournal()
	}
	if t := j.flusher; t != nil {
		j.flusher = nil
		t.wake()
	}
}

// awaitProof puts q in line until the mappings that are not proven now are.
func (r *Replica) awaitProof(q *Request) {
	r.journal.waiters.push(q)
	r.journal.prove = true
	r.writeJournal()
}

// awaitArrival waits until the data of all blocks up to number has arrived.
func (t *task) awaitArrival(number uint64) {
	j := &t.r.journal
	for t.r.broken == nil && j.arrivedThrough() < number {
		j.flusher = t
		t.park()
	}
}

// mark writes a marker that vouches for the blocks up to number, whose records and
// data are durable, twice, so that one bad block does not lose it, and makes it
// durable.
func (t *task) mark(number uint64) error {
	j := &t.r.journal
	before := j.durable
	j.durable = number
	for range 2 {
		first := j.next // the first block that will say so: not the one in flight
		for j.written < first && t.r.broken == nil {
			j.marking = t
			t.r.writeJournal()
			t.park()
		}
	}
	err := t.r.broken
	if err == nil {
		_, err = t.do(host.Op{Kind: host.OpSync, File: j.file})
	}
	if err != nil {
		j.durable = before
		return t.r.fail(err)
	}
	return nil
}

// replayInto adds to a table from disk what the journal says beyond it, and reports
// whether that was anything.
func replayInto(t *table, records []logged) bool {
	for _, m := range records {
		if m.number <= t.covered {
			continue
		}
		base := int(m.first) % block.PerRegion
		for i := range int(m.count) {
			t.apply(base+i, m.mapping, i)
		}
		if t.first == 0 {
			t.first = m.number
		}
		t.last = max(t.last, m.number)
	}
	return t.first != 0
}

// apply enters block i of a record at place. The checksum is not in the record itself:
// the region is dirty, and takes it from the data.
func (t *table) apply(place int, m mapping, i int) {
	switch m.kind {
	case mapData:
		e := entry{state: data, slot: m.slot + uint16(i), holder: m.gen}
		if old := t.at(place); old.state == data && old.holder == m.gen {
			e.sum = old.sum
		}
		t.set(place, e)
	case mapZero:
		t.zero(place, m.gen)
	}
}

// zero makes block i, if it has data, read as zeros from generation gen on.
func (t *table) zero(i int, gen block.Generation) {
	if t.holdsNothing(i) {
		return
	}
	e := t.at(i)
	if e.state == data && e.holder == gen {
		e.state = punched
	} else {
		e.state, e.slot = zeroed, 0
	}
	e.holder, e.sum = gen, block.ZeroSum
	t.set(i, e)
}
