package store

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// transfer is one disk operation of a request: a run of blocks of one region that are
// neighbours in the volume and in a chunk file.
type transfer struct {
	op     host.Op
	ops    [1]*host.Op // &op, for send
	r      *Replica
	q      *Request
	table  *table
	file   *file
	first  int // block in region
	count  int
	slot   uint16
	fresh  bool          // a first write: its mapping is journalled
	zero   bool          // a zeroing: journalled, and its slots are punched
	record *journalBlock // where it is
	sums   []block.Sum   // the part of the request's
	parts  int           // data, and record when fresh
	err    error
	next   *transfer
}

func (r *Replica) transfer() *transfer {
	x := r.free
	if x == nil {
		x = &transfer{r: r}
		x.op.Done = func(*host.Op) { x.done() }
		x.ops[0] = &x.op
		return x
	}
	r.free = x.next
	x.next = nil
	return x
}

func (x *transfer) release() {
	r := x.r
	x.q, x.table, x.file, x.record, x.sums, x.err, x.op.Buf = nil, nil, nil, nil, nil, nil, nil
	x.next = r.free
	r.free = x
}

// issue sends a transfer of the blocks [at, at+count) of q, which lie in t from first
// on, in f from slot on.
func (r *Replica) issue(q *Request, kind host.Kind, t *table, f *file, first, count, at int, slot uint16) *transfer {
	x := r.transfer()
	x.q, x.table, x.file, x.first, x.count, x.slot, x.fresh, x.zero = q, t, f, first, count, slot, false, false
	x.sums = q.Sums[at : at+count]
	x.parts = 1
	x.op.Kind, x.op.File, x.op.Offset = kind, f.handle, slotOffset(slot)
	x.op.Buf = q.Data[at*block.Size : (at+count)*block.Size]
	t.pins++
	f.refs++
	q.left++
	return x
}

// send hands the operation to the disk. Submit(&x.op) would allocate.
func (x *transfer) send() { x.r.disk.Submit(x.ops[:]...) }

func (x *transfer) done() {
	r := x.r
	x.file.refs--
	if x.op.Kind == host.OpRead {
		x.read()
		return
	}
	x.file.unsynced = true // again: a sync may have begun since it was issued
	if x.op.Err != nil {
		x.err = fault.E("store.Write", fault.KindOf(x.op.Err), r.man.Volume, x.op.Err)
		if !fault.Is(x.op.Err, fault.NoSpace) || !x.fresh {
			x.err = r.fail(x.op.Err) // what the blocks hold now is not known
		}
	}
	if x.fresh {
		x.dataArrived()
	}
	x.part()
}

// dataArrived tells the journal block of a first write that the data is on disk, or
// takes the mapping back.
func (x *transfer) dataArrived() {
	r := x.r
	if x.err != nil && r.broken == nil {
		if !x.cancel() {
			x.err = r.fail(x.err)
		}
	}
	r.arrived(x.record)
}

// cancel journals that the mapping of a first write that failed does not count. It
// must be in the block that proves the record, or in an earlier one.
func (x *transfer) cancel() bool {
	r := x.r
	if len(r.journal.filling.records) == mappingsMax || r.journal.room() <= -ringReserve/2 {
		return false
	}
	r.log(x.mapping(mapCancel), x.table)
	r.writeJournal()
	return true
}

func (x *transfer) mapping(kind mappingKind) mapping {
	region := x.table.region
	return mapping{
		kind: kind, count: uint16(x.count), chunk: region.Chunk(), gen: x.table.gen,
		first: uint16(region.InChunk()*block.PerRegion + x.first), slot: x.slot, sum: sumOfSums(x.sums),
	}
}

// logged tells a first write that its record is on disk.
func (x *transfer) logged(err error) {
	if err != nil && x.err == nil {
		x.err = err
	}
	x.part()
}

// part ends one of the parts of a write; after the last one the table learns of it.
func (x *transfer) part() {
	if x.parts--; x.parts > 0 {
		return
	}
	r, t, q, err := x.r, x.table, x.q, x.err
	if err == nil {
		for i := range x.count {
			if x.zero {
				t.zero(x.first+i, t.gen)
			}
		}
		for i, sum := range x.sums {
			if x.fresh {
				t.set(x.first+i, entry{state: data, slot: x.slot + uint16(i), holder: t.gen, sum: sum})
			} else {
				t.sums[x.first+i] = sum
			}
		}
		r.touch(t)
	}
	t.pins--
	if x.fresh || x.zero {
		t.mapping--
		if t.hold && t.mapping == 0 {
			r.saver.ready()
		}
	}
	x.release()
	r.part(q, err)
}

// read compares what was read with its checksums.
func (x *transfer) read() {
	r, t, q := x.r, x.table, x.q
	var err error
	switch {
	case x.op.Err != nil:
		err = fault.E("store.Read", fault.KindOf(x.op.Err), r.man.Volume, x.op.Err)
	default:
		clear(x.op.Buf[x.op.N:]) // beyond the end of the file are zeros
		for i := range x.sums {
			sum := block.Checksum(x.op.Buf[i*block.Size : (i+1)*block.Size])
			if want := t.sums[x.first+i]; sum != want && !r.adopt(t, x.first+i, sum) {
				err = r.corrupt("store.Read", r.shown(q.Generation), t.region.Start()+block.Index(x.first+i), "data",
					"checksum %08x, want %08x", uint32(sum), uint32(want))
				break
			}
			x.sums[i] = sum
		}
	}
	t.pins--
	x.release()
	r.part(q, err)
}

func (r *Replica) shown(gen block.Generation) block.Generation {
	if gen == 0 {
		return r.man.Generation
	}
	return gen
}

// adopt settles a mismatch of block i in favour of the data, where a crash can have
// left the checksum behind: in a region that was dirty when the replica was opened, if
// the block's file was written to since the region became dirty.
func (r *Replica) adopt(t *table, i int, sum block.Sum) bool {
	rg := r.regions.at(t.region)
	if !rg.suspect || t.holders[i] < rg.since {
		return false
	}
	t.sums[i] = sum
	r.touch(t)
	return true
}
