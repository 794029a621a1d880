package store

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// RequestMax is the most bytes that one Read or Write may move: what the kernel sends
// at a time, and few enough that a write's records fit into one journal block.
const RequestMax = 1 << 20

// write issues q's transfers once its regions are marked dirty, its tables are in
// memory, its chunks have a live file with room, and the journal has room.
func (r *Replica) write(q *Request) {
	if !r.intendAll(q, q.Extent.FirstRegion(), q.Extent.LastRegion()) {
		return
	}
	fresh, records := 0, 0
	chunk := q.Extent.Start.Chunk()
	for n := q.Extent.FirstRegion(); n <= q.Extent.LastRegion(); n++ {
		t := r.liveTable(n, q)
		if t == nil {
			return
		}
		f, runs, ok := r.survey(q, n, t)
		if !ok {
			return
		}
		if n.Chunk() != chunk { // only a request that crosses into a second chunk
			if !r.prepared(chunk, fresh, q) || !r.liveFile(chunk, q) {
				return
			}
			chunk, fresh = n.Chunk(), 0
		}
		fresh += f
		records += runs
	}
	if !r.prepared(chunk, fresh, q) || !r.liveFile(chunk, q) {
		return
	}
	if records > 0 && !r.roomFor(records, q) {
		return
	}
	r.beginWrite(q, q.Extent.FirstRegion(), q.Extent.LastRegion())
	for n := q.Extent.FirstRegion(); n <= q.Extent.LastRegion(); n++ {
		r.writeRegion(q, n)
	}
	if records > 0 {
		r.writeJournal()
	}
	q.letGo()
	r.part(q, nil)
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

// survey counts the new slots and the journal records that q needs in region n. It
// reports false after having put q in line for a block whose mapping is not proven, or
// for a table that is being saved.
func (r *Replica) survey(q *Request, n block.Region, t *table) (fresh, runs int, ok bool) {
	first, count, _ := q.within(n)
	in := false
	for i := first; i < first+count; i++ {
		if t.isUnproven(i) {
			r.awaitProof(q)
			return 0, 0, false
		}
		switch {
		case t.inPlace(i):
			in = false
		case t.keepsSlot(i):
			runs++
			in = false
		default:
			fresh++
			if !in {
				runs++
			}
			in = true
		}
	}
	if runs > 0 && t.hold {
		t.waiters.push(q)
		return 0, 0, false
	}
	return fresh, runs, true
}

// writeRegion issues the transfers of q in region n.
func (r *Replica) writeRegion(q *Request, n block.Region) {
	t := r.regions.at(n).table
	c := r.chunk(n.Chunk())
	f := r.files.byKey[fileKey{n.Chunk(), t.gen}]
	f.unsynced = true
	first, count, at := q.within(n)
	for i := 0; i < count; {
		e := t.at(first + i)
		run := 1
		switch {
		case t.inPlace(first + i):
			for i+run < count && t.inPlace(first+i+run) && int(t.slots[first+i+run]&slotMask) == int(e.slot)+run {
				run++
			}
			x := r.issue(q, host.OpWrite, t, f, first+i, run, at+i, e.slot)
			x.send()
		case t.keepsSlot(first + i):
			r.firstWrite(q, t, f, first+i, 1, at+i, e.slot)
		default:
			for i+run < count && !t.inPlace(first+i+run) && !t.keepsSlot(first+i+run) {
				run++
			}
			r.firstWrite(q, t, f, first+i, run, at+i, uint16(c.next))
			c.next += run
		}
		i += run
	}
}

// firstWrite issues the first write of blocks in a generation: its data, and the
// journal record of the slots it got, side by side.
func (r *Replica) firstWrite(q *Request, t *table, f *file, first, count, at int, slot uint16) {
	x := r.issue(q, host.OpWrite, t, f, first, count, at, slot)
	x.fresh = true
	x.parts = 2
	t.mapping++
	x.record = r.log(x.mapping(mapData), t)
	x.record.outstanding++
	x.record.waiting = append(x.record.waiting, x)
	x.record.fresh = append(x.record.fresh, freshRun{t, first, count})
	t.pins++
	for i := range count {
		t.setUnproven(first + i)
	}
	x.send()
}
