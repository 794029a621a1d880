package store

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// RequestMax is the most bytes that one Read or Write may move: what the kernel sends
// at a time.
const RequestMax = 1 << 20

// write issues q's transfers once its regions are marked dirty, its tables are in
// memory, its chunks have a live file with room, and the journal has room. A write that
// needs more records than a journal block has goes in steps.
func (r *Replica) write(q *Request) {
	q.step = q.rest()
	if !r.intendAll(q, q.step.FirstRegion(), q.step.LastRegion()) {
		return
	}
	var all, inChunk need
	chunk := q.step.Start.Chunk()
	for n := q.step.FirstRegion(); n <= q.step.LastRegion(); n++ {
		t := r.liveTable(n, q)
		if t == nil {
			return
		}
		if n.Chunk() != chunk { // only a request that crosses into a second chunk
			if !r.prepared(chunk, inChunk.slots, q) || !r.liveFile(chunk, q) {
				return
			}
			chunk, inChunk = n.Chunk(), need{}
		}
		x, whole, ok := r.survey(q, n, t, mappingsMax-all.records)
		if !ok {
			return
		}
		all.add(x)
		inChunk.add(x)
		if !whole {
			break
		}
	}
	if !r.prepared(chunk, inChunk.slots, q) || !r.liveFile(chunk, q) {
		return
	}
	if all.records > 0 && !r.roomFor(all.records, q) {
		return
	}
	r.beginWrite(q)
	for n := q.step.FirstRegion(); n <= q.step.LastRegion(); n++ {
		r.writeRegion(q, n)
	}
	if all.records > 0 {
		r.writeJournal()
	}
	q.letGo()
	r.part(q, nil)
}

// need is what first writes take: slots in the chunk file, records in the journal.
type need struct{ slots, records int }

func (n *need) add(x need) {
	n.slots += x.slots
	n.records += x.records
}

// liveFile reports whether the live file of chunk n is open; if not q is in line.
func (r *Replica) liveFile(n block.Chunk, q *Request) bool {
	return r.file(fileKey{n, r.man.Generation}, q) != nil
}

// inPlace reports whether a write of block i goes to the slot that it has.
func (t *table) inPlace(i int) bool {
	return state(t.slots[i]>>14) == data && t.holders[i] == t.gen
}

// keepsSlot reports whether block i was zeroed and goes back to the slot it had.
func (t *table) keepsSlot(i int) bool {
	return state(t.slots[i]>>14) == punched && t.holders[i] == t.gen
}

// place is how a block that is to be written finds its slot.
type place uint8

const (
	placeOwn  place = iota // in place
	placeBack              // the slot that it had before it was zeroed, journalled
	placeNew               // a new slot, journalled
)

// next returns the blocks of t from first on, at most count, that can be written by one
// operation: how they find their slots, and how many they are. Those with slots have
// consecutive ones.
func (t *table) next(first, count int) (p place, run int) {
	p = t.place(first)
	for run = 1; run < count && t.place(first+run) == p; run++ {
		if p != placeNew && t.slots[first+run] != t.slots[first]+uint16(run) {
			break
		}
	}
	return p, run
}

func (t *table) place(i int) place {
	switch {
	case t.inPlace(i):
		return placeOwn
	case t.keepsSlot(i):
		return placeBack
	}
	return placeNew
}

// survey counts what q's step needs in region n, and ends the step where it would need
// more than records; whole is false then. ok is false after it has put q in line for a
// block whose mapping is not proven, or for a table that is being saved.
func (r *Replica) survey(q *Request, n block.Region, t *table, records int) (x need, whole, ok bool) {
	first, count, _ := q.within(n)
	for i := range count {
		if t.isUnproven(first + i) {
			r.awaitProof(q)
			return x, false, false
		}
	}
	whole = true
	for i := 0; i < count; {
		p, run := t.next(first+i, count-i)
		if p != placeOwn {
			if x.records == records {
				q.step.Count = uint64(n.Start() + block.Index(first+i) - q.step.Start)
				whole = false
				break
			}
			x.records++
		}
		if p == placeNew {
			x.slots += run
		}
		i += run
	}
	if x.records > 0 && t.hold {
		t.waiters.push(q)
		return x, false, false
	}
	return x, whole, true
}

// writeRegion issues the transfers of q's step in region n.
func (r *Replica) writeRegion(q *Request, n block.Region) {
	t := r.regions.at(n).table
	c := r.chunk(n.Chunk())
	f := r.files.byKey[fileKey{n.Chunk(), t.gen}]
	f.unsynced = true
	first, count, at := q.within(n)
	for i := 0; i < count; {
		p, length := t.next(first+i, count-i)
		u := run{table: t, file: f, first: first + i, count: length, at: at + i, slot: t.at(first + i).slot}
		switch p {
		case placeOwn:
			r.issue(q, host.OpWrite, u).send()
		case placeNew:
			u.slot = uint16(c.next)
			c.next += length
			r.firstWrite(q, u)
		default:
			r.firstWrite(q, u)
		}
		i += length
	}
}

// firstWrite issues the first write of blocks in a generation: its data, and the
// journal record of the slots it got, side by side.
func (r *Replica) firstWrite(q *Request, u run) {
	x := r.issue(q, host.OpWrite, u)
	t := u.table
	x.fresh = true
	x.parts = 2
	t.mapping++
	x.record = r.log(x.mapping(mapData), t)
	x.record.outstanding++
	x.record.waiting = append(x.record.waiting, x)
	x.record.fresh = append(x.record.fresh, freshRun{t, u.first, u.count})
	t.pins++
	for i := range u.count {
		t.setUnproven(u.first + i)
	}
	x.send()
}
