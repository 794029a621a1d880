package store

import (
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// verify compares the replica, which was opened after a death, with the model, which
// learns from it what became of what was in flight.
//
// Blocks that show parts of two writes, or zeros which may be data, are left in doubt.
func (g *rig) verify(m *model, d death) error {
	if man := g.r.Manifest(); !m.settleControl(man) {
		return fmt.Errorf("manifest %+v; want generation %d, snapshots %v, size %d, promised %d", man, m.gen, m.generations(), m.size, m.promised)
	}
	for _, gen := range m.generations() {
		if err := g.verifySnapshot(m.at, gen, m.snapshots[gen]); err != nil {
			return err
		}
	}
	if err := g.verifyLive(m, d); err != nil {
		return err
	}
	for _, gen := range m.deleted {
		if err := g.do(readOf(gen, m.at[0], 1)); !fault.Is(err, fault.NotFound) {
			return fmt.Errorf("a read of generation %d, which was deleted: %v", gen, err)
		}
	}
	if err := g.verifyRegions(m); err != nil {
		return err
	}
	return g.verifyScrub()
}

// runs calls f for each run of neighbours among the blocks of at that lie in a volume of
// size bytes, at most 64 at a time.
func runs(at []block.Index, size int64, f func(first, count int) error) error {
	end, _ := slices.BinarySearch(at, block.Index(size/block.Size))
	for i := 0; i < end; {
		n := 1
		for n < 64 && i+n < end && at[i+n] == at[i]+block.Index(n) {
			n++
		}
		if err := f(i, n); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// verifySnapshot reads a snapshot, and notes what it shows in want.
func (g *rig) verifySnapshot(at []block.Index, gen block.Generation, want [][]uint64) error {
	return runs(at, g.r.Manifest().Size, func(first, count int) error {
		q := readOf(gen, at[first], count)
		if err := g.do(q); err != nil {
			return fmt.Errorf("snapshot %d: %w", gen, err)
		}
		for i := range count {
			tag, err := tagOf(q.Data[i*block.Size : (i+1)*block.Size])
			if err != nil || !slices.Contains(want[first+i], tag) {
				return fmt.Errorf("snapshot %d block %d: tag %d (%v), want one of %d", gen, at[first+i], tag, err, want[first+i])
			}
			want[first+i] = []uint64{tag} // a new slice: others have the old one
		}
		return nil
	})
}

// verifyLive reads the live generation. Sectors of a block that was being written, or was
// not durable, may be of different writes.
func (g *rig) verifyLive(m *model, d death) error {
	return runs(m.at, m.size, func(first, count int) error {
		q := readOf(0, m.at[first], count)
		if err := g.do(q); err != nil {
			return err
		}
		for i := range count {
			data := q.Data[i*block.Size : (i+1)*block.Size]
			if q.Sums[i] != block.Checksum(data) {
				return fmt.Errorf("block %d: the checksum that came with it is wrong", m.at[first+i])
			}
			if err := m.learn(first+i, data, d); err != nil {
				return err
			}
		}
		return g.verifySums(q)
	})
}

// verifySums asks for the checksums of what was read. Of data with the sum of zeros Verify
// says another one, that nobody takes for a hole's: the read must say the sum of zeros.
func (g *rig) verifySums(read *Request) error {
	v := &Request{Verb: Verify, Extent: read.Extent, Sums: make([]block.Sum, len(read.Sums))}
	if err := g.do(v); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	same := func(verified, read block.Sum) bool {
		return verified == read || verified == ^block.ZeroSum && read == block.ZeroSum
	}
	if !slices.EqualFunc(v.Sums, read.Sums, same) {
		return fmt.Errorf("blocks %v: Verify says %08x, a read %08x", read.Extent, v.Sums, read.Sums)
	}
	return nil
}

// learn takes what the i-th block shows after a death.
func (m *model) learn(i int, data []byte, d death) error {
	allowed := m.survivors(i, d)
	var seen []version
	for s := 0; s < block.Size; s += 512 {
		tag, err := tagOf(data[s : s+512])
		k := slices.IndexFunc(allowed, func(v version) bool { return v.tag == tag })
		if err != nil || k < 0 {
			return fmt.Errorf("block %d sector %d: tag %d (%v), allowed %v (history %v, acked %d)", m.at[i], s/512, tag, err, allowed, m.history[i], m.acked[i])
		}
		if !slices.Contains(seen, allowed[k]) {
			seen = append(seen, allowed[k])
		}
	}
	if len(seen) == 1 {
		m.settle(i, seen[0], d)
		zeroed := func(v version) bool { return v.tag == 0 && v.stamp > 0 }
		written := func(v version) bool { return v.tag != 0 }
		if seen[0].tag == 0 && slices.ContainsFunc(allowed, zeroed) && slices.ContainsFunc(allowed, written) {
			m.doubt[i] = true
		}
		return nil
	}
	for _, v := range seen { // any of them may be what a further death leaves
		m.settle(i, v, killed)
	}
	m.acked[i] = len(m.history[i]) - len(seen) + 1
	m.doubt[i] = true
	return nil
}

// decide makes doubtful blocks certain again, by writing them anew.
func (g *rig) decide(m *model) error {
	doubt := slices.Sorted(maps.Keys(m.doubt))
	for _, i := range doubt {
		e := block.Extent{Start: m.at[i], Count: 1}
		tag := m.newTag()
		m.begin(e, tag)
		if err := g.do(writeOf(e.Start, 1, tag)); err != nil {
			return err
		}
		m.end(e)
	}
	if len(doubt) > 0 {
		c := m.coverage()
		if err := g.do(&Request{Verb: Flush}); err != nil {
			return err
		}
		m.flushed(c)
	}
	return nil
}

// verifyRegions checks that every region which was written since it was allowed to be
// clean is dirty, and says the epoch of the last write, or a later one. What a write did
// that was not acknowledged counts if it is seen.
func (g *rig) verifyRegions(m *model) error {
	m.countSeen(0, len(m.history))
	clear(m.open)
	infos := map[block.Region]RegionInfo{}
	for _, info := range g.r.Regions(0, 1<<30) {
		infos[info.Region] = info
	}
	for n, r := range m.regions {
		if info := infos[n]; r.written > r.clean && (!info.Dirty || info.Epoch < max(r.epoch, m.stamped)) {
			return fmt.Errorf("region %d: %+v, but it was written, by epoch %d (%+v, stamped %d)", n, info, r.epoch, r, m.stamped)
		}
	}
	return nil
}

// verifyScrub has the replica look for damage where there is none.
func (g *rig) verifyScrub() error {
	s, err := g.scrub()
	if err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	if len(s.Bad) > 0 {
		return fmt.Errorf("scrub: %d bad, the first: %w", len(s.Bad), s.Bad[0])
	}
	return nil
}

func (g *rig) scrub() (s ScrubReport, err error) {
	err = g.await(func(done func(error)) {
		g.r.Scrub(func(_ int, resume func(bool)) { resume(true) }, func(got ScrubReport, err error) { s = got; done(err) })
	})
	return s, err
}

// verifyUsage compares what is told of generations with what they show. A content is told
// by its tag: two blocks with the same tag are the same version.
func (g *rig) verifyUsage(m *model) error {
	gens := append(m.generations(), m.gen)
	tags := make([][]uint64, len(gens))
	for k, gen := range gens {
		shown := m.view()
		if k < len(gens)-1 {
			shown = m.snapshots[gen]
		}
		for i := range shown {
			tags[k] = append(tags[k], shown[i][0])
		}
	}
	want := Usage{Generations: make([]GenerationUsage, len(gens))}
	for k, gen := range gens {
		want.Generations[k].Generation = gen
	}
	for i := range m.at {
		for from := 0; from < len(gens); {
			to := from + 1
			for to < len(gens) && tags[to][i] == tags[from][i] {
				to++
			}
			if tags[from][i] != 0 {
				want.Stored += block.Size
				for k := from; k < to; k++ {
					want.Generations[k].Used += block.Size
				}
				if to == from+1 {
					want.Generations[from].Exclusive += block.Size
				}
			}
			from = to
		}
	}
	got, err := g.usage()
	if err != nil {
		return err
	}
	if got.Stored != want.Stored || !slices.Equal(got.Generations, want.Generations) {
		return fmt.Errorf("usage %+v, want %+v", got, want)
	}
	for to := range gens {
		for from := -1; from < to; from++ {
			since, before := block.Generation(0), make([]uint64, len(m.at))
			if from >= 0 {
				since, before = gens[from], tags[from]
			}
			if err := g.verifyChanged(m, since, gens[to], before, tags[to]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *rig) usage() (u Usage, err error) {
	err = g.await(func(done func(error)) { g.r.Usage(func(got Usage, err error) { u = got; done(err) }) })
	return u, err
}

// verifyChanged checks that what differs between two generations is listed, and of the
// rest only what was zeroed again.
func (g *rig) verifyChanged(m *model, since, gen block.Generation, before, after []uint64) error {
	var list []block.Extent
	for from := block.Region(0); int(from) < block.Regions(m.size); {
		err := g.await(func(done func(error)) {
			g.r.Changed(since, gen, from, 2, func(l []block.Extent, next block.Region, err error) {
				list, from = append(list, l...), next
				done(err)
			})
		})
		if err != nil {
			return err
		}
	}
	for i, b := range m.at {
		listed := slices.ContainsFunc(list, func(e block.Extent) bool { return e.Overlaps(block.Extent{Start: b, Count: 1}) })
		if differs := before[i] != after[i]; differs && !listed || listed && !differs && (since == 0 || after[i] != 0) {
			return fmt.Errorf("changed from %d to %d: block %d, tags %d and %d, listed %v", since, gen, b, before[i], after[i], listed)
		}
	}
	return nil
}
