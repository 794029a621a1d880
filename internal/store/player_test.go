package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// player plays a random workload on a replica and its model. It does not wait for one
// thing before it starts the next, but for what would touch the same blocks.
type player struct {
	*story
	rand     *rand.Rand
	sizeMax  int64
	snapsMax int
}

// writesPerFlush and the like are how often a player does things, in a thousand.
var odds = []struct {
	of   int
	what func(p *player)
}{
	{300, (*player).write}, {90, (*player).zero}, {150, (*player).read}, {60, (*player).flush},
	{10, (*player).snapshot}, {12, (*player).delete}, {15, (*player).clean}, {4, (*player).promise},
	{3, (*player).grow}, {3, (*player).clone}, {3, (*player).look}, {10, (*player).askSums},
}

// step starts one thing, or drives the disk a little.
func (p *player) step() {
	k := p.rand.IntN(1000)
	for _, o := range odds {
		if k -= o.of; k < 0 {
			o.what(p)
			return
		}
	}
	p.disk.Poll(0)
}

// place draws an extent: often near a hot spot, sometimes large.
func (p *player) place() block.Extent {
	blocks := int(p.m.size / block.Size)
	n := 1 + p.rand.IntN(4)
	switch p.rand.IntN(40) {
	case 0:
		n = 1 + p.rand.IntN(RequestMax/block.Size)
	case 1, 2, 3, 4:
		n = 1 + p.rand.IntN(64)
	}
	n = min(n, blocks)
	at := p.rand.IntN(blocks - n + 1)
	if p.rand.IntN(2) == 0 {
		at = min(p.rand.IntN(32), at)
	}
	return block.Extent{Start: block.Index(at), Count: uint64(n)}
}

func (p *player) write() {
	e := p.place()
	if !p.m.free(e) {
		return
	}
	tag := p.m.newTag()
	p.m.begin(e, tag)
	p.change(writeOf(e.Start, int(e.Count), tag))
}

func (p *player) zero() {
	e := p.place()
	if p.rand.IntN(20) == 0 {
		e.Count = min(e.Count*100, uint64(p.m.size/block.Size)-uint64(e.Start))
	}
	if !p.m.free(e) {
		return
	}
	p.m.begin(e, 0)
	p.change(&Request{Verb: Zero, Extent: e})
}

// change submits a write or zeroing that the model knows of.
func (p *player) change(q *Request) {
	p.busy++
	if debugTrace {
		fmt.Println("START", q.Verb, q.Extent, p.m.stamp)
	}
	p.submit(q, func(err error) {
		if debugTrace {
			fmt.Println("DONE", q.Verb, q.Extent, err)
		}
		p.busy--
		switch {
		case err == nil:
			p.m.end(q.Extent)
		case p.excused != nil && p.excused(err):
			p.m.failed(q.Extent)
			if p.r.Err() == nil {
				p.readBack(q.Extent)
			}
		default:
			p.fail("%v %v: %w", q.Verb, q.Extent, err)
		}
	})
}

// readBack learns what a failed change has done.
func (p *player) readBack(e block.Extent) {
	from, _ := p.m.in(e)
	failed := p.m.history[from][len(p.m.history[from])-2].stamp
	left := 0
	for b := e.Start; b < e.End(); b += RequestMax / block.Size {
		left++
		p.readPart(e.Clip(block.Extent{Start: b, Count: RequestMax / block.Size}), func() {
			if left--; left == 0 {
				delete(p.m.open, failed)
			}
		})
	}
}

// readPart reads part, until it succeeds, and lets the model learn from it.
func (p *player) readPart(part block.Extent, done func()) {
	q := readOf(0, part.Start, int(part.Count))
	p.m.hold(part, +1)
	p.busy++
	p.submit(q, func(err error) {
		p.busy--
		p.m.hold(part, -1)
		switch {
		case err == nil:
			p.learn(q)
			done()
		case p.r.Err() != nil:
		case p.excused != nil && p.excused(err):
			p.readPart(part, done)
		default:
			p.fail("read back %v: %w", part, err)
		}
	})
}

func (p *player) learn(q *Request) {
	from, to := p.m.in(q.Extent)
	for i := from; i < to; i++ {
		if err := p.m.learn(i, q.Data[(i-from)*block.Size:(i-from+1)*block.Size], killed); err != nil {
			p.fail("read back: %w", err)
			return
		}
	}
	p.m.countSeen(from, to)
}

func (p *player) read() {
	e := p.place()
	gens := append(p.m.generations(), 0)
	gen := gens[p.rand.IntN(len(gens))]
	if gen == 0 && !p.m.free(e) {
		return
	}
	from, to := p.m.in(e)
	want := make([][]uint64, to-from)
	for i := range want {
		if gen != 0 {
			want[i] = p.m.snapshots[gen][from+i]
			continue
		}
		for _, v := range p.m.shown(from + i) {
			want[i] = append(want[i], v.tag)
		}
	}
	if gen == 0 {
		p.m.hold(e, +1)
	}
	p.busy++
	q := readOf(gen, e.Start, int(e.Count))
	if e.Count > RequestMax/block.Size {
		panic("too large a read")
	}
	p.submit(q, func(err error) {
		p.busy--
		if gen == 0 {
			p.m.hold(e, -1)
		}
		switch {
		case err == nil:
			p.compare(q, want)
		case p.excused != nil && p.excused(err):
		case gen != 0 && fault.Is(err, fault.NotFound) && !p.exists(gen): // deleted meanwhile
		default:
			p.fail("read of generation %d, %v: %w", gen, e, err)
		}
	})
}

// exists reports whether gen is a snapshot that is not being deleted.
func (p *player) exists(gen block.Generation) bool {
	return p.m.snapshots[gen] != nil && p.m.maybe.delete != gen
}

// compare checks what a read has got. A block in doubt may show sectors of several writes.
func (p *player) compare(q *Request, want [][]uint64) {
	from, _ := p.m.in(q.Extent)
	for i, allowed := range want {
		data := q.Data[i*block.Size : (i+1)*block.Size]
		step := block.Size
		if q.Generation == 0 && p.m.doubt[from+i] {
			step = 512
		}
		for s := 0; s < block.Size; s += step {
			if tag, err := tagOf(data[s : s+step]); err != nil || !slices.Contains(allowed, tag) {
				p.fail("read of generation %d, block %d: tag %d (%v), want one of %d", q.Generation, int(q.Extent.Start)+i, tag, err, allowed)
				return
			}
		}
		if q.Sums[i] != block.Checksum(data) {
			p.fail("read of generation %d, block %d: wrong checksum", q.Generation, int(q.Extent.Start)+i)
		}
	}
}

func (p *player) flush() { p.startFlush(func() {}) }

func (p *player) snapshot() {
	if p.m.maybe.snapshot == 0 && len(p.m.snapshots) < p.snapsMax && len(p.m.doubt) == 0 {
		if p.rand.IntN(2) == 0 {
			p.startSeal(func() {})
			return
		}
		p.startSnapshot()
	}
}

func (p *player) delete() {
	if gens := p.m.generations(); p.m.maybe.delete == 0 && len(gens) > 0 {
		p.startDelete(gens[p.rand.IntN(len(gens))])
	}
}

func (p *player) clean() { p.startClean() }

func (p *player) promise() {
	if p.m.maybe.promise == 0 {
		p.startPromise(max(1, p.m.promised+block.Epoch(p.rand.IntN(3)))) // 0 is none
	}
}

func (p *player) grow() {
	if p.m.maybe.size == 0 && p.m.size < p.sizeMax {
		p.startGrow(min(p.sizeMax, p.m.size+int64(p.rand.IntN(2*block.PerRegion))*block.Size))
	}
}

func (p *player) clone() {
	if gens := p.m.generations(); len(gens) > 0 && p.m.maybe.delete == 0 && len(p.clones) < 3 {
		p.startClone(gens[p.rand.IntN(len(gens))])
	}
}

// look asks for what takes long, and believes the answer if it comes.
func (p *player) look() {
	switch p.rand.IntN(3) {
	case 0:
		done := p.started("usage", func() {})
		p.r.Usage(func(_ Usage, err error) { done(err) })
	case 1:
		gens := append([]block.Generation{0}, p.m.generations()...)
		since := gens[p.rand.IntN(len(gens))]
		done := p.started("changed", func() {})
		p.r.Changed(since, 0, 0, 100, func(_ []block.Extent, _ block.Region, err error) {
			if fault.Is(err, fault.NotFound) && !p.exists(since) {
				err = nil
			}
			done(err)
		})
	case 2:
		done := p.started("scrub", func() {})
		p.r.Scrub(func(_ int, resume func(bool)) { resume(true) }, func(s ScrubReport, err error) {
			if len(s.Bad) > 0 && err == nil && p.excused == nil {
				err = s.Bad[0]
			}
			done(err)
		})
	}
}

func (p *player) excuse(err error) error {
	if err != nil && p.excused != nil && p.excused(err) {
		return nil
	}
	return err
}

// askSums asks for checksums of blocks that nobody writes to.
func (p *player) askSums() {
	e := p.place()
	if !p.m.free(e) {
		return
	}
	p.m.hold(e, +1)
	p.busy++
	q := &Request{Verb: Verify, Extent: e, Sums: make([]block.Sum, e.Count)}
	p.submit(q, func(err error) {
		p.busy--
		p.m.hold(e, -1)
		if err = p.excuse(err); err != nil {
			p.fail("verify %v: %w", e, err)
		}
	})
}

// life is a replica through many processes, by a seed.
type life struct {
	t    *testing.T
	seed uint64
	rand *rand.Rand
	disk *simdisk.Disk
	*story
}

// debugTrace has every disk operation printed.
var debugTrace = os.Getenv("HOLDFAST_STORE_TRACE") != ""

func newLife(t *testing.T, seed uint64) *life {
	l := &life{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 7))}
	l.disk = simdisk.New(simdisk.Options{Seed: seed})
	if debugTrace {
		l.disk.SetTrace(func(line string) { fmt.Println(line) })
	}
	o := Options{Boot: 1, TablesMax: 8 + l.rand.IntN(8), FilesMax: 8, JournalBlocks: []int{16, 32, 1024}[l.rand.IntN(3)]}
	size := int64([]int{200, 1100, 3 * block.PerRegion}[l.rand.IntN(3)]) * block.Size
	l.story = &story{rig: newRig(t, l.disk, size, o), m: newModel(size, allOf(size+2*block.RegionSize)), clones: map[string]cloned{}}
	return l
}

func (l *life) player() *player {
	return &player{story: l.story, rand: rand.New(rand.NewPCG(l.rand.Uint64(), 1)),
		sizeMax: int64(len(l.m.at)) * block.Size, snapsMax: 1 + l.rand.IntN(12)}
}

// fatal ends the test, and says how to see it again.
func (l *life) fatal(format string, args ...any) {
	l.t.Helper()
	name, _, _ := cutLast(l.t.Name(), "/")
	l.t.Fatalf("%v\nreplay: HOLDFAST_STORE_TRACE=1 go test ./internal/store -run '^%s$/^%d$'", fmt.Errorf(format, args...), name, l.seed)
}

func cutLast(s, sep string) (before, after string, found bool) {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i:i+1] == sep {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// seeds runs f for a number of seeds, and for many more when there is time.
func seeds(t *testing.T, count, longCount int, f func(t *testing.T, seed uint64)) {
	if long {
		count = longCount
	}
	for seed := range uint64(count) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			f(t, seed)
		})
	}
}

// die ends the process, in the middle of whatever it does, or after a close.
func (l *life) die(how death) {
	if how == closed {
		c := l.m.coverage()
		if err := l.close(); err != nil {
			l.fatal("close: %w", err)
		}
		l.m.flushed(c)
		return
	}
	l.r.Abandon()
	if how == killed {
		l.disk = l.disk.Kill()
	} else {
		l.disk = l.disk.Crash([]simdisk.Keep{simdisk.KeepNone, simdisk.KeepSome, simdisk.KeepAll}[l.rand.IntN(3)])
		l.opts.Boot++
	}
	l.rig.disk = l.disk
	l.m.clearBusy()
}

func (m *model) clearBusy() { clear(m.busy) }

func TestRandomWorkloadWithDeaths(t *testing.T) {
	seeds(t, 120, 3000, func(t *testing.T, seed uint64) { newLife(t, seed).live(400, 6) })
}

// live plays up to steps steps, lives times, each time ended by a death at any moment.
func (l *life) live(steps, lives int) {
	for n := range lives {
		if debugTrace {
			fmt.Println("=== life", n)
		}
		how := death(l.rand.IntN(3))
		if l.rand.IntN(4) == 0 {
			l.disk.SetOdds(simdisk.Odds{Stall: 0.05, StallMax: 1e6})
		}
		p := l.player()
		count := l.rand.IntN(steps)
		if how != closed && l.rand.IntN(2) == 0 {
			l.disk.CrashAfter(l.disk.Ops() + l.rand.IntN(300)) // in the middle of waiting
		}
		alive := simdisk.Survives(func() {
			for i := 0; i < count && p.failed == nil && !l.disk.Dead(); i++ {
				p.step()
			}
			if how == closed && p.failed == nil {
				_ = p.rest()
			}
		})
		if p.failed != nil {
			l.fatal("life %d: %w", n, p.failed)
		}
		if !alive && how == closed {
			how = killed
		}
		l.disk.CrashAfter(-1)
		l.die(how)
		l.disk.Heal()
		if how == killed {
			for range l.rand.IntN(3) {
				l.shortLife(p)
			}
		}
		if err := l.reopen(how); err != nil {
			l.fatal("life %d ended by %v: %w", n, how, err)
		}
		if err := l.decide(l.m); err != nil {
			l.fatal("life %d ended by %v: %w", n, how, err)
		}
		l.useClones()
	}
}

// shortLife is a process that writes a little, where it is known what there is, and is
// killed: before anybody has looked at anything, which puts much in order.
func (l *life) shortLife(p *player) {
	l.must(l.open())
	if !l.m.settleControl(l.r.Manifest()) {
		l.fatal("the manifest is %v: %w", l.r.Manifest(), error(nil))
	}
	for range l.rand.IntN(4) {
		e := p.place()
		from, to := l.m.in(e)
		known := true
		for i := from; i < to; i++ {
			known = known && l.m.acked[i] == len(l.m.history[i]) && !l.m.doubt[i]
		}
		if !known {
			continue
		}
		tag := l.m.newTag()
		l.m.begin(e, tag)
		l.must(l.do(writeOf(e.Start, int(e.Count), tag)))
		l.m.end(e)
	}
	l.die(killed)
}

// useClones writes to clones, deletes some, and so finds out whether the origin notices.
func (l *life) useClones() {
	for _, name := range slices.Sorted(maps.Keys(l.clones)) {
		c := l.clones[name]
		if l.rand.IntN(3) == 0 {
			delete(l.clones, name)
			if err := l.await(func(done func(error)) { Delete(l.disk, name, done) }); err != nil {
				l.fatal("delete clone %s: %w", name, err)
			}
			continue
		}
		g := &rig{t: l.t, disk: l.disk, opts: l.opts, dir: name}
		if err := g.open(); err != nil {
			l.fatal("clone %s: open: %w", name, err)
		}
		for range l.rand.IntN(5) {
			i := l.rand.IntN(len(l.m.at))
			if int64(l.m.at[i]) < g.r.Manifest().Size/block.Size {
				tag := l.m.newTag()
				l.m.stamp++
				if err := g.do(writeOf(l.m.at[i], 1, tag)); err != nil {
					l.fatal("clone %s: write: %w", name, err)
				}
				c.shown[i] = []uint64{tag}
			}
		}
		if err := g.close(); err != nil {
			l.fatal("clone %s: close: %w", name, err)
		}
	}
}
