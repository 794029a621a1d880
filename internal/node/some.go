package node

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/store"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// some is what an op needs for a message that names scattered blocks.
type some struct {
	parts  []store.Request // one a run of blocks
	left   int             // of parts, that are not done
	failed error           // the first
	picked wire.Blocks     // of one read that covers all of them; else none
}

func (s *some) reset() {
	for i := range s.parts {
		q := &s.parts[i]
		q.Data, q.Sums, q.Err = nil, nil, nil
	}
	s.parts, s.failed, s.picked = s.parts[:0], nil, wire.Blocks{}
}

// dense reports whether one read of all that lies between the blocks is quicker than a
// read of each run: a disk gives 32 KiB in about the time of 4 KiB.
func dense(b *wire.Blocks) bool { return uint64(b.Count())*8 >= b.Span().Count }

// takeBlocks makes parts of what is to be read or written, run by run, from or to data.
func (o *op) takeBlocks(verb store.Verb, b *wire.Blocks, gen block.Generation, data []byte, sums []block.Sum) {
	s := &o.some
	at := 0
	for e := b.Next(0); !e.Empty(); e = b.Next(e.End()) {
		q := o.part(len(s.parts))
		q.Verb, q.Extent, q.Generation = verb, e, gen
		q.Data, q.Sums = data[at*block.Size:][:e.Bytes()], sums[at:][:e.Count]
		at += int(e.Count)
	}
	s.left = len(s.parts) // they do not move any more
}

// beginParts gives the parts to the store.
func (o *op) beginParts() {
	for i, parts := 0, o.some.parts; i < len(parts); i++ {
		o.r.store.Submit(&parts[i])
	}
}

// part makes room for part i, the next one. It keeps what the store allocated for it.
func (o *op) part(i int) *store.Request {
	s := &o.some
	if i < cap(s.parts) {
		s.parts = s.parts[:i+1]
	} else {
		s.parts = append(s.parts, store.Request{})
	}
	q := &s.parts[i]
	if q.Done == nil {
		q.Done = o.partStored
	}
	return q
}

// partStored is what the store calls for a part.
func (o *op) partStored(q *store.Request) {
	s := &o.some
	if q.Err != nil && s.failed == nil {
		s.failed = q.Err
	}
	if s.left--; s.left > 0 {
		return
	}
	switch {
	case s.failed != nil:
		o.finish(nil, s.failed)
	case q.Verb == store.Read:
		o.finish(&o.readDone, nil)
	default:
		o.finish(&o.done, nil)
	}
}

// pick moves the blocks to the beginning of data, which has all that lies between them.
func pick(b *wire.Blocks, data []byte, sums []block.Sum) ([]byte, []block.Sum) {
	n := 0
	for e := b.Next(0); !e.Empty(); e = b.Next(e.End()) {
		at := int(e.Start - b.Start)
		copy(data[n*block.Size:], data[at*block.Size:][:e.Bytes()])
		copy(sums[n:], sums[at:][:e.Count])
		n += int(e.Count)
	}
	return data[:n*block.Size], sums[:n]
}
