package node

import (
	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// mapRegions is how many regions one look at a replica's tables covers.
const mapRegions = 16

// Map is attach.Mapper.Map: the replica on this node is asked, if it is in sync. Without
// one all is data, which is true, and slow for who copies the volume.
//
// A write that no replica's owner has acknowledged may be on some replicas only. Whether it
// happened is open until its region is read for the first time, which makes the replicas
// alike; an answer that was given before is as good as either.
func (b *backend) Map(q *attach.Question) {
	r := b.h.resident()
	if r == nil {
		all(q)
		return
	}
	from := block.Region(q.Offset / block.RegionSize)
	r.store.Changed(0, b.generation, from, mapRegions, func(list []block.Extent, next block.Region, err error) {
		switch {
		case err != nil: // reading will tell
			all(q)
		case b.h.over || !b.h.coord.Serving(b.h.n.loop.Now()): // another node may have written meanwhile
			b.h.whenServing(func(err error) {
				if err != nil {
					q.End(err)
					return
				}
				b.Map(q)
			})
		default:
			extents(q, list, min(q.Offset+q.Length, int64(next)*block.RegionSize))
			q.End(nil)
		}
	})
}

// all answers that everything may be data.
func all(q *attach.Question) {
	q.Extents = append(q.Extents, attach.Extent{Length: q.Length})
	q.End(nil)
}

// extents answers a question, as far as end, with what is data.
func extents(q *attach.Question, data []block.Extent, end int64) {
	at := q.Offset
	add := func(to int64, hole bool) {
		if to = min(to, end); to > at && len(q.Extents) < cap(q.Extents) {
			q.Extents = append(q.Extents, attach.Extent{Length: to - at, Hole: hole})
			at = to
		}
	}
	for _, e := range data {
		add(int64(e.Start)*block.Size, true)
		add(int64(e.End())*block.Size, false)
	}
	add(end, true)
}

// resident returns the volume's replica on this node, if it is in sync and open, or nil.
func (h *head) resident() *resident {
	for _, m := range h.coord.Record().Members {
		if m.Node == h.n.o.Node && m.State == spec.InSync {
			if r := h.n.residents[m.Replica]; r != nil && r.closing == nil {
				return r
			}
		}
	}
	return nil
}
