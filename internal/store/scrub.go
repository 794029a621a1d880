package store

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

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
// scrub from going on. A Close ends it.
func (r *Replica) Scrub(pace func(bytes int, resume func(goOn bool)), done func(ScrubReport, error)) {
	r.spawn("scrub", func(t *task) {
		x := &scrubber{t: t, r: r, pace: pace}
		err := x.run()
		done(x.report, fault.Wrap("store.Scrub", err))
	})
}

// scrubber is one scrub.
type scrubber struct {
	t      *task
	r      *Replica
	pace   func(int, func(bool))
	buf    []byte
	report ScrubReport
}

func (x *scrubber) run() error {
	r := x.r
	for n := block.Region(0); int(n) < r.regions.count; n++ {
		rg := r.regions.peek(n)
		c := r.chunks[n.Chunk()]
		switch {
		case rg != nil && rg.bad() != nil:
			if err := x.report.note(rg.bad()); err != nil {
				return err
			}
		case c != nil && len(c.gens) > 0 || rg != nil && rg.record != record{}:
			if goOn, err := x.region(n); err != nil || !goOn {
				return err
			}
		}
	}
	return r.broken
}

// region scrubs a region as of each live generation, oldest first: what an older one
// shows too was read with that one.
func (x *scrubber) region(n block.Region) (goOn bool, err error) {
	shown := block.Generation(0) // generation of the table that was scrubbed last
	older := block.Generation(0) // the generation that it was scrubbed as of
	for _, g := range append(slices.Clone(x.r.man.Snapshots), x.r.man.Generation) {
		table := block.Generation(0)
		for at := 0; at < block.PerRegion; {
			read := 0
			if table, at, read, err = x.step(scrubStep{n, g, older, shown, at}); err != nil {
				return false, err
			}
			if read > 0 && !x.goOn(read) {
				return false, x.r.broken
			}
		}
		if table != 0 {
			shown, older = table, g
		}
	}
	return true, nil
}

// scrubStep is where a scrub is: block at of the region as of gen. What holders up to
// older have was read as of that generation, and so was the table of generation shown.
type scrubStep struct {
	region block.Region
	gen    block.Generation
	older  block.Generation
	shown  block.Generation
	at     int
}

// step reads the next run of blocks and returns where to go on, and how many bytes it
// read. No file is merged, punched or removed meanwhile.
func (x *scrubber) step(s scrubStep) (table block.Generation, next, read int, err error) {
	t, r := x.t, x.r
	t.lock(&r.reclaim.lock)
	defer t.unlock(&r.reclaim.lock)
	if !r.man.live(s.gen) {
		return 0, block.PerRegion, 0, nil
	}
	tab, err := t.loadView(s.region, s.gen)
	if err != nil {
		return 0, block.PerRegion, 0, x.report.note(err)
	}
	if tab == emptyTable || tab.gen == s.shown {
		return 0, block.PerRegion, 0, nil
	}
	if s.at == 0 {
		x.report.Tables++
		if err := x.noteLost(tab, s); err != nil {
			return 0, block.PerRegion, 0, err
		}
	}
	first, count := tab.runAbove(s.at, s.older)
	if count == 0 {
		return tab.gen, block.PerRegion, 0, nil
	}
	tab.pins++
	defer func() { tab.pins-- }()
	return tab.gen, first + count, count * block.Size, x.compare(tab, s.gen, first, count)
}

// noteLost reports the blocks of a table that were lost after generation older.
func (x *scrubber) noteLost(tab *table, s scrubStep) error {
	for i := range block.PerRegion {
		if tab.isLost(i) && tab.holders[i] > s.older {
			if err := x.report.note(x.r.lostBlock("store.Scrub", s.gen, s.region.Start()+block.Index(i))); err != nil {
				return err
			}
		}
	}
	return nil
}

// runAbove returns the next blocks from at on, at most settleStep, that were written
// after generation older and lie in consecutive slots of one file.
func (t *table) runAbove(at int, older block.Generation) (first, count int) {
	for first = at; first < block.PerRegion; first++ {
		if e := t.at(first); e.state == data && e.holder > older {
			return first, t.sameRun(first, min(settleStep, block.PerRegion-first))
		}
	}
	return first, 0
}

// compare reads blocks in consecutive slots and compares them with their checksums. A
// block that is being written, or was written meanwhile, is let be: its checksum comes
// with it.
func (x *scrubber) compare(tab *table, gen block.Generation, first, count int) error {
	t, r := x.t, x.r
	e := tab.at(first)
	f, err := t.file(fileKey{tab.region.Chunk(), e.holder})
	if err != nil {
		return err
	}
	defer func() { f.refs-- }()
	var was [settleStep]entry
	for k := range count {
		was[k] = tab.at(first + k)
	}
	rg := r.regions.at(tab.region)
	writes := rg.writes
	if len(x.buf) < count*block.Size {
		x.buf = host.Buffer(count * block.Size)
	}
	b := x.buf[:count*block.Size]
	op, err := t.do(host.Op{Kind: host.OpRead, File: f.handle, Offset: slotOffset(e.slot), Buf: b})
	if err == nil {
		clear(b[op.N:])
	}
	for k := range count {
		x.report.Blocks++
		at := tab.region.Start() + block.Index(first+k)
		if err != nil {
			if err := x.report.note(r.corrupt("store.Scrub", gen, at, "data", "unreadable: %v", err)); err != nil {
				return err
			}
			continue
		}
		sum := block.Checksum(b[k*block.Size : (k+1)*block.Size])
		busy := tab.at(first+k) != was[k] || writes+rg.writes > 0 && tab.inPlace(first+k)
		if sum != was[k].sum && !busy && !r.adopt(tab, first+k, sum) {
			if err := x.report.note(r.corrupt("store.Scrub", gen, at, "data", "checksum %08x, want %08x", uint32(sum), uint32(was[k].sum))); err != nil {
				return err
			}
		}
	}
	return nil
}

// goOn tells the caller how much was read, and waits for leave to go on.
func (x *scrubber) goOn(bytes int) bool {
	t, r := x.t, x.r
	answered, goOn := false, false
	x.pace(bytes, func(ok bool) {
		answered, goOn = true, ok
		t.wake()
	})
	for !answered && r.closer == nil {
		t.park()
	}
	return goOn && r.broken == nil
}
