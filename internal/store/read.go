package store

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// read issues q's transfers once all tables and files it needs are there.
func (r *Replica) read(q *Request) {
	gen := r.shown(q.Generation)
	for n := q.Extent.FirstRegion(); n <= q.Extent.LastRegion(); n++ {
		t := r.view(n, gen, q)
		if t == nil || !r.filesReady(q, n, t) {
			return
		}
	}
	r.begin(q)
	for n := q.Extent.FirstRegion(); n <= q.Extent.LastRegion(); n++ {
		r.readRegion(q, n, r.view(n, gen, q))
	}
	q.letGo()
	r.part(q, nil)
}

// within returns the part of q that lies in region n: the first block in the region,
// how many, and the first one's place in q.
func (q *Request) within(n block.Region) (first, count, at int) {
	e := q.Extent.Clip(block.Extent{Start: n.Start(), Count: block.PerRegion})
	return e.Start.InRegion(), int(e.Count), int(e.Start - q.Extent.Start)
}

// filesReady reports whether every file that holds a block of q in region n is open;
// if not, q is in line for one of them, or was failed.
func (r *Replica) filesReady(q *Request, n block.Region, t *table) bool {
	first, count, _ := q.within(n)
	var last block.Generation
	for i := first; i < first+count; i++ {
		e := t.at(i)
		if e.state != data || e.holder == last {
			continue
		}
		last = e.holder
		if r.file(fileKey{n.Chunk(), e.holder}, q) == nil {
			return false
		}
	}
	return true
}

// readRegion issues the transfers of q in region n.
func (r *Replica) readRegion(q *Request, n block.Region, t *table) {
	first, count, at := q.within(n)
	for i := 0; i < count; {
		e := t.at(first + i)
		run := 1
		if e.state != data {
			for i+run < count && t.at(first+i+run).state != data {
				run++
			}
			clear(q.Data[(at+i)*block.Size : (at+i+run)*block.Size])
			for k := range run {
				q.Sums[at+i+k] = block.ZeroSum
			}
			i += run
			continue
		}
		for i+run < count {
			next := t.at(first + i + run)
			if next.state != data || next.holder != e.holder || int(next.slot) != int(e.slot)+run {
				break
			}
			run++
		}
		f := r.files.byKey[fileKey{n.Chunk(), e.holder}]
		x := r.issue(q, host.OpRead, t, f, first+i, run, at+i, e.slot)
		x.send()
		i += run
	}
}

// verify answers with the checksums in the tables.
func (r *Replica) verify(q *Request) {
	gen := r.shown(q.Generation)
	for n := q.Extent.FirstRegion(); n <= q.Extent.LastRegion(); n++ {
		t := r.view(n, gen, q)
		if t == nil {
			return
		}
		if rg := r.regions.peek(n); rg != nil && rg.suspect {
			r.settle(n, rg, q)
			return
		}
		first, count, at := q.within(n)
		for i := range count {
			q.Sums[at+i] = block.ZeroSum
			if e := t.at(first + i); e.state == data {
				q.Sums[at+i] = e.sum
			}
		}
	}
	r.end(q, nil)
}
