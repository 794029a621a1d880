package store

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Usage says where a replica's space goes, exactly, in bytes of data (multiples of
// block.Size; tables, journal and reserved space not counted).
type Usage struct {
	Stored      int64             `json:"stored"`      // by all live generations together, each block version once
	Generations []GenerationUsage `json:"generations"` // snapshots, then the live one, ascending
}

// GenerationUsage is one generation's part. Used = Exclusive + what it shares.
type GenerationUsage struct {
	Generation block.Generation `json:"generation"`
	Used       int64            `json:"used"`      // bytes of data that it shows
	Exclusive  int64            `json:"exclusive"` // of these, the ones that its deletion frees
}

// Shared returns the bytes that other generations show too.
func (u GenerationUsage) Shared() int64 { return u.Used - u.Exclusive }

// Usage counts from the tables of the whole replica; it reads those that are not in
// memory.
func (r *Replica) Usage(done func(Usage, error)) {
	r.spawn("usage", func(t *task) {
		u, err := t.usage()
		done(u, fault.Wrap("store.Usage", err))
	})
}

func (t *task) usage() (Usage, error) {
	r := t.r
	t.lock(&r.reclaim.lock) // no file is merged or removed meanwhile
	defer t.unlock(&r.reclaim.lock)
	gens := append(slices.Clone(r.man.Snapshots), r.man.Generation)
	u := Usage{Generations: make([]GenerationUsage, len(gens))}
	for i, g := range gens {
		u.Generations[i].Generation = g
	}
	views := make([]*table, len(gens))
	for n := range block.Region(r.regions.count) {
		if c := r.chunks[n.Chunk()]; c == nil || len(c.gens) == 0 {
			continue
		}
		err := func() error {
			for i, g := range gens {
				tab, err := t.loadView(n, g)
				if err != nil {
					return err
				}
				if views[i] = tab; tab != emptyTable {
					tab.pins++
					defer func() { tab.pins-- }()
				}
			}
			u.count(views)
			return nil
		}()
		if err != nil {
			return u, err
		}
	}
	return u, nil
}

// count adds one region, given its view in each generation. A version of a block is
// seen by consecutive generations.
func (u *Usage) count(views []*table) {
	for i := range block.PerRegion {
		for from := 0; from < len(views); {
			e := views[from].at(i)
			to := from + 1
			for to < len(views) && views[to].holders[i] == e.holder {
				to++
			}
			if e.state == data {
				u.Stored += block.Size
				for g := from; g < to; g++ {
					u.Generations[g].Used += block.Size
				}
				if to == from+1 {
					u.Generations[from].Exclusive += block.Size
				}
			}
			from = to
		}
	}
}

// Changed lists the extents, ascending, that were written or zeroed after generation
// since and up to generation gen, looking at limit regions from region from on. It
// returns the region to go on with; done when that is the number of regions. With since
// 0 it lists what has data. It may list a block that was written with what it held.
func (r *Replica) Changed(since, gen block.Generation, from block.Region, limit int, done func(list []block.Extent, next block.Region, err error)) {
	r.spawn("changed", func(t *task) {
		list, next, err := t.changed(since, gen, from, limit)
		done(list, next, fault.Wrap("store.Changed", err))
	})
}

func (t *task) changed(since, gen block.Generation, from block.Region, limit int) (list []block.Extent, next block.Region, err error) {
	r := t.r
	for _, g := range []block.Generation{since, gen} {
		if g != 0 && !r.man.live(g) {
			return nil, from, fault.Errorf("store.Changed", fault.NotFound, "generation %d does not exist", g)
		}
	}
	gen = r.shown(gen)
	t.lock(&r.reclaim.lock)
	defer t.unlock(&r.reclaim.lock)
	for next = from; int(next) < r.regions.count && int(next-from) < limit; next++ {
		tab, err := t.loadView(next, gen)
		if err != nil {
			return list, next, err
		}
		if tab.gen <= since {
			continue
		}
		for i := range block.PerRegion {
			e := tab.at(i)
			if e.holder <= since || since == 0 && e.state != data {
				continue
			}
			b := next.Start() + block.Index(i)
			if len(list) > 0 && list[len(list)-1].End() == b {
				list[len(list)-1].Count++
			} else {
				list = append(list, block.Extent{Start: b, Count: 1})
			}
		}
	}
	return list, next, nil
}
