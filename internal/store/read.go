package store

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// filesPerStep is how many files a read uses at once. A request for blocks of many
// generations goes in steps, so that a few requests can't use up the open files.
const filesPerStep = 4

// read issues q's transfers once all tables and files it needs are there.
func (r *Replica) read(q *Request) {
	gen := r.shown(q.Generation)
	q.step = q.rest()
	files := filesPerStep
	for n := q.step.FirstRegion(); n <= q.step.LastRegion(); n++ {
		t := r.view(n, gen, q)
		if t == nil {
			return
		}
		if err := r.lostIn(q, n, t); err != nil {
			r.end(q, err)
			return
		}
		ok := false
		if files, ok = r.filesReady(q, n, t, files); !ok {
			return
		}
	}
	r.begin(q)
	for n := q.step.FirstRegion(); n <= q.step.LastRegion(); n++ {
		r.readRegion(q, n, r.view(n, gen, q))
	}
	q.cursor = q.step.End()
	q.letGo()
	r.part(q, nil)
}

// lostIn returns an error if a block of q's step in region n is lost.
func (r *Replica) lostIn(q *Request, n block.Region, t *table) error {
	first, count, _ := q.within(n)
	for i := first; i < first+count; i++ {
		if t.isLost(i) {
			return r.lostBlock("store.Read", r.shown(q.Generation), n.Start()+block.Index(i))
		}
	}
	return nil
}

func (r *Replica) lostBlock(op string, gen block.Generation, b block.Index) error {
	return r.corrupt(op, gen, b, "block", "it was lost with the metadata of its region, and was not written since")
}

// filesReady reports whether every file that holds a block of q's step in region n is
// open; if not, q is in line for one of them, or was failed. It ends the step where
// more files than that would be needed, and returns how many are left.
func (r *Replica) filesReady(q *Request, n block.Region, t *table, files int) (left int, ok bool) {
	first, count, _ := q.within(n)
	var last block.Generation
	for i := first; i < first+count; i++ {
		e := t.at(i)
		if e.state != data || e.holder == last {
			continue
		}
		if files == 0 {
			q.step.Count = uint64(n.Start() + block.Index(i) - q.step.Start)
			return 0, true
		}
		files--
		last = e.holder
		if r.file(fileKey{n.Chunk(), e.holder}, q) == nil {
			return 0, false
		}
	}
	return files, true
}

// readRegion issues the transfers of q's step in region n.
func (r *Replica) readRegion(q *Request, n block.Region, t *table) {
	first, count, at := q.within(n)
	for i := 0; i < count; {
		e := t.at(first + i)
		length := t.sameRun(first+i, count-i)
		if e.state == data {
			f := r.files.byKey[fileKey{n.Chunk(), e.holder}]
			r.issue(q, host.OpRead, run{table: t, file: f, first: first + i, count: length, at: at + i, slot: e.slot}).send()
		} else {
			clear(q.Data[(at+i)*block.Size : (at+i+length)*block.Size])
			for k := range length {
				q.Sums[at+i+k] = block.ZeroSum
			}
		}
		i += length
	}
}

// sameRun returns how many blocks from first on, at most count, are read as one: all
// without data, or all in consecutive slots of one file.
func (t *table) sameRun(first, count int) int {
	e, run := t.at(first), 1
	for run < count {
		next := t.at(first + run)
		if next.state == data != (e.state == data) ||
			e.state == data && (next.holder != e.holder || int(next.slot) != int(e.slot)+run) {
			break
		}
		run++
	}
	return run
}

// verify answers with the checksums in the tables. Of a block with data that has the sum
// of zeros it says another one: one in 2^32 that are not zeros has it, and one that is may
// be moved as data.
func (r *Replica) verify(q *Request) {
	gen := r.shown(q.Generation)
	q.step = q.Extent
	for n := q.step.FirstRegion(); n <= q.step.LastRegion(); n++ {
		t := r.view(n, gen, q)
		if t == nil {
			return
		}
		if rg := r.regions.peek(n); rg != nil && rg.suspect {
			r.settle(n, rg, q)
			return
		}
		if err := r.lostIn(q, n, t); err != nil {
			r.end(q, err)
			return
		}
		first, count, at := q.within(n)
		for i := range count {
			q.Sums[at+i] = block.ZeroSum
			if e := t.at(first + i); e.state == data {
				q.Sums[at+i] = e.sum
				if e.sum == block.ZeroSum { // who copies by sums must not take it for a hole
					q.Sums[at+i] = ^block.ZeroSum
				}
			}
		}
	}
	r.end(q, nil)
}
