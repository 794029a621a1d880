package store

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
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
				tab.pins++
				defer func() { tab.pins-- }()
				views[i] = tab
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

// ScrubReport is what a scrub found.
type ScrubReport struct {
	Blocks int64       `json:"blocks"` // data blocks read and compared
	Tables int64       `json:"tables"` // block tables read
	Bad    []*BadBlock `json:"bad"`    // what is damaged, at most scrubBadMax
	More   int64       `json:"more"`   // damaged, beyond those listed
}

const scrubBadMax = 1000

func (s *ScrubReport) note(err error) error {
	bad := asBadBlock(err)
	if bad == nil {
		return err
	}
	if len(s.Bad) < scrubBadMax {
		s.Bad = append(s.Bad, bad)
	} else {
		s.More++
	}
	return nil
}

// Scrub reads every block of every live generation, and every table, and compares
// checksums. After each step it calls pace with the bytes it read, and goes on when
// resume is called, which may be at once: that is how the caller limits the rate and
// stops it (resume(false)). Damage is reported, not an error; err is for what kept the
// scrub from going on.
func (r *Replica) Scrub(pace func(bytes int, resume func(goOn bool)), done func(ScrubReport, error)) {
	r.spawn("scrub", func(t *task) {
		var s ScrubReport
		err := t.scrub(&s, pace)
		done(s, fault.Wrap("store.Scrub", err))
	})
}

func (t *task) scrub(s *ScrubReport, pace func(int, func(bool))) error {
	r := t.r
	buf := host.Buffer(settleStep * block.Size)
	step := func(bytes int) bool {
		answered, goOn := false, false
		pace(bytes, func(ok bool) {
			answered, goOn = true, ok
			t.wake()
		})
		for !answered {
			t.park()
		}
		return goOn && r.broken == nil
	}
	for n := range block.Region(r.regions.count) {
		rg := r.regions.peek(n)
		if c := r.chunks[n.Chunk()]; (c == nil || len(c.gens) == 0) && (rg == nil || rg.record == record{} && rg.bad == nil) {
			continue
		}
		if rg != nil && rg.bad != nil {
			if err := s.note(rg.bad); err != nil {
				return err
			}
			continue
		}
		var last *table
		for _, g := range append(slices.Clone(r.man.Snapshots), r.man.Generation) {
			if !r.man.live(g) {
				continue
			}
			tab, err := t.loadView(n, g)
			if err != nil {
				if err = s.note(err); err != nil {
					return err
				}
				continue
			}
			if tab == last || tab == emptyTable {
				continue
			}
			last = tab
			s.Tables++
			tab.pins++
			goOn, err := t.scrubTable(s, tab, g, buf, step)
			tab.pins--
			if err != nil || !goOn {
				return err
			}
		}
	}
	return r.broken
}

// scrubTable reads the blocks that tab's generation wrote; what older ones wrote is
// read with their tables, or, when their generation is gone, with the oldest that has
// them.
func (t *task) scrubTable(s *ScrubReport, tab *table, gen block.Generation, buf []byte, step func(int) bool) (bool, error) {
	r := t.r
	older := block.Generation(0) // the next older live generation: it covered what it holds
	for _, g := range r.man.Snapshots {
		if g < gen {
			older = g
		}
	}
	for i := 0; i < block.PerRegion; {
		e := tab.at(i)
		if e.state != data || e.holder <= older {
			i++
			continue
		}
		run := 1
		for i+run < block.PerRegion && run < settleStep {
			x := tab.at(i + run)
			if x.state != data || x.holder != e.holder || int(x.slot) != int(e.slot)+run {
				break
			}
			run++
		}
		f, err := t.file(fileKey{tab.region.Chunk(), e.holder})
		if err != nil {
			return false, err
		}
		var was [settleStep]entry
		for k := range run {
			was[k] = tab.at(i + k)
		}
		op, err := t.do(host.Op{Kind: host.OpRead, File: f.handle, Offset: slotOffset(e.slot), Buf: buf[:run*block.Size]})
		f.refs--
		for k := range run {
			b := tab.region.Start() + block.Index(i+k)
			switch sum := block.Sum(0); {
			case err != nil:
				if s.note(r.corrupt("store.Scrub", gen, b, "data", "unreadable: %v", err)) != nil {
					return false, err
				}
			default:
				if k == 0 {
					clear(buf[op.N:])
				}
				sum = block.Checksum(buf[k*block.Size : (k+1)*block.Size])
				rg := r.regions.at(tab.region)
				// Written while it was read: its own checksum went with it.
				busy := gen == r.man.Generation && (rg.writes > 0 || tab.at(i+k) != was[k])
				if sum != was[k].sum && !busy && !r.adopt(tab, i+k, sum) {
					if err := s.note(r.corrupt("store.Scrub", gen, b, "data", "checksum %08x, want %08x", uint32(sum), uint32(was[k].sum))); err != nil {
						return false, err
					}
				}
			}
			s.Blocks++
		}
		if !step(run * block.Size) {
			return false, nil
		}
		i += run
	}
	return true, nil
}
