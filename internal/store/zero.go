package store

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// zero makes q's extent read as zeros, region by region: regions without data cost
// nothing, so that the discard of a whole sparse volume is quick.
func (r *Replica) zero(q *Request) {
	for q.cursor < q.Extent.End() {
		n := q.cursor.Region()
		q.step = q.rest().Clip(block.Extent{Start: n.Start(), Count: block.PerRegion})
		t := r.view(n, r.man.Generation, q)
		if t == nil {
			return
		}
		first, count := zeroRange(q, n, t)
		if count == 0 {
			q.cursor = q.step.End()
			continue
		}
		if !r.intendAll(q, n, n) {
			return
		}
		if t = r.liveTable(n, q); t == nil {
			return
		}
		if !r.prepared(n.Chunk(), 0, q) || !r.liveFile(n.Chunk(), q) {
			return
		}
		if t.hold {
			t.waiters.push(q)
			return
		}
		for i := first; i < first+count; i++ {
			if t.isUnproven(i) {
				r.awaitProof(q)
				return
			}
		}
		if !r.roomFor(1, q) {
			return
		}
		r.beginWrite(q)
		r.zeroRegion(q, t, first, count)
		r.writeJournal()
		q.letGo()
		r.part(q, nil)
		return
	}
	r.end(q, nil)
}

// zeroRange returns the part of q in region n from its first block that does not read as
// zeros to its last one.
func zeroRange(q *Request, n block.Region, t *table) (first, count int) {
	if t == emptyTable {
		return 0, 0
	}
	first, count, _ = q.within(n)
	for count > 0 && t.holdsNothing(first) {
		first, count = first+1, count-1
	}
	for count > 0 && t.holdsNothing(first+count-1) {
		count--
	}
	return first, count
}

// zeroRegion journals the zeroing of blocks in t, and punches the slots they have in
// the live generation's file. What older generations hold is theirs.
func (r *Replica) zeroRegion(q *Request, t *table, first, count int) {
	f := r.files.byKey[fileKey{t.region.Chunk(), t.gen}]
	x := r.newTransfer(q, run{table: t, file: f, first: first, count: count})
	x.zero = true
	t.mapping++
	x.record = r.log(x.mapping(mapZero), t)
	x.record.waiting = append(x.record.waiting, x)
	for i := first; i < first+count; {
		run := 1
		if t.inPlace(i) {
			for i+run < first+count && t.inPlace(i+run) && int(t.slots[i+run]&slotMask) == int(t.slots[i]&slotMask)+run {
				run++
			}
			r.punch(x, f, t.slots[i]&slotMask, run)
		}
		i += run
	}
}

// punch gives the space of slots back, as one more part of x. Where that is not
// possible, or takes space that is not there, they keep it.
func (r *Replica) punch(x *transfer, f *file, slot uint16, slots int) {
	f.refs++
	f.unsynced = true
	x.parts++
	r.submit(&host.Op{Kind: host.OpPunch, File: f.handle, Offset: slotOffset(slot), Length: int64(slots) * block.Size,
		Done: func(op *host.Op) {
			f.refs--
			f.unsynced = true
			if op.Err != nil && !fault.Is(op.Err, fault.Unsupported) && !fault.Is(op.Err, fault.NoSpace) {
				x.err = r.fail(fault.Wrap("store.Zero", op.Err))
			}
			x.part()
		}})
}
