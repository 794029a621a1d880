package store

import (
	"fmt"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// run is a part of a request that one disk operation can serve: blocks of one region
// that are neighbours in the volume and in a chunk file.
type run struct {
	table *table
	file  *file
	first int // block in region
	count int
	at    int // place of the first one in the request
	slot  uint16
}

// transfer is one disk operation of a request.
type transfer struct {
	run
	op     host.Op
	r      *Replica
	q      *Request
	fresh  bool          // a first write: its mapping is journalled
	zero   bool          // a zeroing: journalled, and its slots are punched
	record *journalBlock // where it is
	sums   []block.Sum   // the part of the request's
	parts  int           // data, and record when fresh
	err    error
	next   *transfer
}

// newTransfer returns a transfer of u for q, and counts it.
func (r *Replica) newTransfer(q *Request, u run) *transfer {
	x := r.free
	if x == nil {
		x = &transfer{r: r}
		x.op.Done = func(*host.Op) { x.done() }
	} else {
		r.free = x.next
		x.next = nil
	}
	x.run, x.q, x.fresh, x.zero, x.parts = u, q, false, false, 1
	u.table.pins++
	q.left++
	return x
}

// release ends what newTransfer began.
func (x *transfer) release() {
	r := x.r
	x.table.pins--
	x.run = run{}
	x.q, x.record, x.sums, x.err, x.op.Buf = nil, nil, nil, nil, nil
	x.next = r.free
	r.free = x
}

// issue prepares the transfer of u between q's buffer and the file; send starts it.
func (r *Replica) issue(q *Request, kind host.Kind, u run) *transfer {
	x := r.newTransfer(q, u)
	x.sums = q.Sums[u.at : u.at+u.count]
	x.op.Kind, x.op.File, x.op.Offset = kind, u.file.handle, slotOffset(u.slot)
	x.op.Buf = q.Data[u.at*block.Size : (u.at+u.count)*block.Size]
	u.file.refs++
	return x
}

func (x *transfer) send() { x.r.submit(&x.op) }

// submit hands one op to the disk without making a slice for it.
func (r *Replica) submit(op *host.Op) {
	if r.abandoned {
		return
	}
	r.one[0] = op
	r.disk.Submit(r.one[:]...)
}

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
	if c := r.chunk(x.table.region.Chunk()); c.ready == x.table.gen && c.next == int(x.slot)+x.count && !x.table.keepsSlot(x.first) {
		c.next = int(x.slot) // nobody has got a slot since
	}
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
		x.enter()
		r.touch(t)
	}
	if x.fresh || x.zero {
		t.mapping--
		if t.hold && t.mapping == 0 {
			r.saver.ready()
		}
	}
	x.release()
	r.part(q, err)
}

// enter tells the table what was written.
func (x *transfer) enter() {
	t := x.table
	x.r.know(x.r.regions.at(t.region), t.gen, x.first, x.count)
	switch {
	case x.zero:
		x.bury()
		for i := range x.count {
			t.zero(x.first+i, t.gen)
		}
	case x.fresh:
		x.bury()
		for i, sum := range x.sums {
			t.set(x.first+i, entry{state: data, slot: x.slot + uint16(i), holder: t.gen, sum: sum})
		}
	default:
		copy(t.sums[x.first:], x.sums)
	}
}

// bury notes whose blocks x replaces.
func (x *transfer) bury() {
	t := x.table
	for i := x.first; i < x.first+x.count; {
		e, n := t.at(i), 1
		for i+n < x.first+x.count && t.at(i+n).state == e.state && t.holders[i+n] == e.holder {
			n++
		}
		if e.state == data {
			x.r.died(t.region.Chunk(), e.holder, n)
		}
		i += n
	}
}

// read compares what was read with its checksums.
func (x *transfer) read() {
	r, q := x.r, x.q
	var err error
	if x.op.Err != nil {
		err = fault.E("store.Read", fault.KindOf(x.op.Err), r.man.Volume, x.op.Err)
	} else {
		err = x.verify()
	}
	x.release()
	r.part(q, err)
}

func (x *transfer) verify() error {
	r, t, gen := x.r, x.table, x.q.Generation
	clear(x.op.Buf[x.op.N:]) // beyond the end of the file are zeros
	for i := range x.sums {
		sum := block.Checksum(x.op.Buf[i*block.Size : (i+1)*block.Size])
		if want := t.sums[x.first+i]; sum != want && !r.adopt(t, x.first+i, sum) {
			if gen != 0 && !r.man.live(gen) {
				return r.deleted(gen) // while it was read, and its space is being freed
			}
			return r.corrupt("store.Read", r.shown(gen), t.region.Start()+block.Index(x.first+i), "data",
				"checksum %08x, want %08x", uint32(sum), uint32(want))
		}
		x.sums[i] = sum
	}
	return nil
}

func (r *Replica) deleted(gen block.Generation) error {
	return fault.E("store.Read", fault.NotFound, r.man.Volume, fmt.Errorf("generation %d was deleted", gen))
}

func (r *Replica) shown(gen block.Generation) block.Generation {
	if gen == 0 {
		return r.man.Generation
	}
	return gen
}

// adopt settles a mismatch of block i in favour of the data, where a crash can have
// left the checksum behind: in a region that was dirty when the replica was opened, if
// the block's file was written to since the region became dirty. What was written since
// the replica was opened is never given up: a sync that fails may bring back what the disk
// had before, which must not be taken for what was written.
func (r *Replica) adopt(t *table, i int, sum block.Sum) bool {
	if !r.doubtful(r.regions.at(t.region), t.holders[i], i) {
		return false
	}
	t.sums[i] = sum
	r.touch(t)
	return true
}
