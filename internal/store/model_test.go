package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// model is what a replica must hold. A block's history is what was written to it since
// it was last known to be durable: the first is durable, the last is what a read shows.
type model struct {
	blocks    int
	history   [][]uint64 // of the live generation
	acked     []int      // how many of a block's history are acknowledged
	snapshots map[block.Generation][]uint64
	nextTag   uint64
	gone      []int // how much of each block's history was dropped as durable
}

func newModel(blocks int) *model {
	m := &model{blocks: blocks, snapshots: map[block.Generation][]uint64{}, history: make([][]uint64, blocks), acked: make([]int, blocks), gone: make([]int, blocks), nextTag: 1}
	for i := range m.history {
		m.history[i], m.acked[i] = []uint64{0}, 1
	}
	return m
}

func (m *model) tag() uint64 { m.nextTag++; return m.nextTag }

func (m *model) begin(b, n int, tag uint64) {
	for i := b; i < b+n; i++ {
		m.history[i] = append(m.history[i], tag)
	}
}

func (m *model) ack(b, n int) {
	for i := b; i < b+n; i++ {
		m.acked[i] = len(m.history[i])
	}
}

// durableUpTo returns, for a flush that begins now, what it will make durable.
func (m *model) durableUpTo() []int { return slices.Clone(m.acked) }

func (m *model) flushed(upTo []int) {
	for i, n := range upTo {
		drop := n - 1
		m.history[i] = m.history[i][drop:]
		m.acked[i] -= drop
		m.gone[i] += drop
	}
}

// settle makes what was seen after a restart the truth.
func (m *model) settle(b int, seen uint64, durable bool) {
	if durable {
		m.gone[b] += len(m.history[b]) - 1
		m.history[b] = []uint64{seen}
	} else {
		m.history[b] = []uint64{m.history[b][0], seen}
	}
	m.acked[b] = len(m.history[b])
}

// death is how a replica's process ended.
type death int

const (
	closed death = iota // it was closed
	killed              // the process died, the machine did not
	power               // the machine lost power
)

// mayBe lists what block b may hold after a death.
func (m *model) mayBe(b int, d death) []uint64 {
	switch d {
	case closed:
		return m.history[b][len(m.history[b])-1:]
	case killed:
		return m.history[b][m.acked[b]-1:]
	}
	return m.history[b]
}

// verify compares the replica with the model after a death. Sectors of a block that was
// being written, or was not durable, may be of different writes.
func (g *rig) verify(m *model, d death) error {
	gens := slices.Sorted(maps.Keys(m.snapshots))
	for _, gen := range gens {
		for b := 0; b < m.blocks; b += 64 {
			n := min(64, m.blocks-b)
			q := readOf(gen, block.Index(b), n)
			if err := g.do(q); err != nil {
				return fmt.Errorf("snapshot %d: %w", gen, err)
			}
			for i := range n {
				tag, err := tagOf(q.Data[i*block.Size : (i+1)*block.Size])
				if err != nil || tag != m.snapshots[gen][b+i] {
					return fmt.Errorf("snapshot %d block %d: tag %d (%v), want %d", gen, b+i, tag, err, m.snapshots[gen][b+i])
				}
			}
		}
	}
	torn := false
	for b := 0; b < m.blocks; b += 64 {
		n := min(64, m.blocks-b)
		q := readOf(0, block.Index(b), n)
		if err := g.do(q); err != nil {
			return err
		}
		for i := range n {
			allowed := m.mayBe(b+i, d)
			data := q.Data[i*block.Size : (i+1)*block.Size]
			for s := 0; s < block.Size; s += 512 {
				tag, err := tagOf(data[s : s+512])
				if err != nil || !slices.Contains(allowed, tag) {
					return fmt.Errorf("block %d sector %d: tag %d (%v), allowed %v (history %v, acked %d)", b+i, s/512, tag, err, allowed, m.history[b+i], m.acked[b+i])
				}
			}
			if q.Sums[i] != block.Checksum(data) {
				return fmt.Errorf("block %d: the checksum that came with it is wrong", b+i)
			}
			seen := binary.LittleEndian.Uint64(data)
			if _, err := tagOf(data); err != nil {
				// Torn, and nobody was promised it: write it anew so that the model is simple.
				seen = m.tag()
				if err := g.do(writeOf(block.Index(b+i), 1, seen)); err != nil {
					return err
				}
				torn = true
			}
			// What is there after the loss of power is durable: it was on the medium.
			m.settle(b+i, seen, d != killed)
		}
	}
	if torn {
		return g.do(&Request{Verb: Flush})
	}
	return nil
}

// player runs a random workload against replica and model.
type player struct {
	*rig
	m        *model
	rand     *rand.Rand
	busy     []bool // blocks that a request in flight touches
	inflight int
	reading  map[block.Generation]int
	errs     []error
	noSpace  bool // NoSpace is a legal answer
}

func newPlayer(g *rig, m *model, seed uint64) *player {
	return &player{rig: g, m: m, rand: rand.New(rand.NewPCG(seed, 1)), busy: make([]bool, m.blocks), reading: map[block.Generation]int{}}
}

func (p *player) free(b, n int) bool { return !slices.Contains(p.busy[b:b+n], true) }

func (p *player) setBusy(b, n int, v bool) {
	for i := b; i < b+n; i++ {
		p.busy[i] = v
	}
}

func (p *player) fail(err error) { p.errs = append(p.errs, err) }

// step submits one random request, or drives the disk a little.
func (p *player) step() {
	b, n := p.place()
	switch k := p.rand.IntN(100); {
	case k < 40:
		p.write(b, n)
	case k < 50:
		p.zero(b, n)
	case k < 65:
		p.read(b, n)
	case k < 75:
		p.flush()
	case k < 76:
		p.snap()
	case k < 78:
		p.unsnap()
	case k < 80:
		p.r.Clean(p.r.Mark())
	default:
		p.disk.Poll(0)
	}
}

// place draws an extent: often near a hot spot, sometimes large.
func (p *player) place() (b, n int) {
	n = 1 + p.rand.IntN(4)
	if p.rand.IntN(8) == 0 {
		n = 1 + p.rand.IntN(64)
	}
	if p.rand.IntN(2) == 0 {
		return p.rand.IntN(min(32, p.m.blocks-n)), n
	}
	return p.rand.IntN(p.m.blocks - n), n
}

func (p *player) write(b, n int) {
	if !p.free(b, n) {
		return
	}
	tag := p.m.tag()
	p.setBusy(b, n, true)
	p.m.begin(b, n, tag)
	p.inflight++
	p.submit(writeOf(block.Index(b), n, tag), func(err error) {
		p.inflight--
		p.setBusy(b, n, false)
		if err != nil {
			if !(p.noSpace && fault.Is(err, fault.NoSpace)) {
				p.fail(fmt.Errorf("write %d+%d: %w", b, n, err))
			}
			for i := b; i < b+n; i++ { // it may have happened in part
				h := p.m.history[i]
				p.m.history[i] = append(h[:len(h)-1], h[p.m.acked[i]-1], tag, h[p.m.acked[i]-1])
			}
			return
		}
		p.m.ack(b, n)
	})
}

func (p *player) zero(b, n int) {
	if !p.free(b, n) {
		return
	}
	p.setBusy(b, n, true)
	p.m.begin(b, n, 0)
	p.inflight++
	p.submit(&Request{Verb: Zero, Extent: block.Extent{Start: block.Index(b), Count: uint64(n)}}, func(err error) {
		p.inflight--
		p.setBusy(b, n, false)
		if err != nil {
			p.fail(fmt.Errorf("zero %d+%d: %w", b, n, err))
			return
		}
		p.m.ack(b, n)
	})
}

func (p *player) read(b, n int) {
	gen := block.Generation(0)
	if len(p.m.snapshots) > 0 && p.rand.IntN(2) == 0 {
		gens := slices.Sorted(maps.Keys(p.m.snapshots))
		gen = gens[p.rand.IntN(len(gens))]
	}
	if gen == 0 && !p.free(b, n) {
		return
	}
	want := make([]uint64, n)
	for i := range want {
		if gen != 0 {
			want[i] = p.m.snapshots[gen][b+i]
		} else {
			want[i] = p.m.history[b+i][p.m.acked[b+i]-1]
		}
	}
	if gen == 0 {
		p.setBusy(b, n, true)
	}
	p.inflight++
	p.reading[gen]++
	q := readOf(gen, block.Index(b), n)
	p.submit(q, func(err error) {
		p.inflight--
		p.reading[gen]--
		if gen == 0 {
			p.setBusy(b, n, false)
		}
		if err != nil {
			p.fail(fmt.Errorf("read %d: %d+%d: %w", gen, b, n, err))
			return
		}
		for i := range want {
			if tag, err := tagOf(q.Data[i*block.Size : (i+1)*block.Size]); err != nil || tag != want[i] {
				p.fail(fmt.Errorf("read generation %d block %d: tag %d (%v), want %d", gen, b+i, tag, err, want[i]))
			}
		}
	})
}

func (p *player) flush() {
	upTo := p.m.durableUpTo()
	for i := range upTo {
		upTo[i] += p.m.gone[i] // counted from the beginning: flushes may overlap
	}
	p.inflight++
	p.submit(&Request{Verb: Flush}, func(err error) {
		p.inflight--
		if err != nil {
			p.fail(fmt.Errorf("flush: %w", err))
			return
		}
		for i := range upTo {
			upTo[i] = max(1, upTo[i]-p.m.gone[i])
		}
		p.m.flushed(upTo)
	})
}

func (p *player) snap() {
	if len(p.m.snapshots) > 4 {
		return
	}
	p.drain()
	gen := p.rig.snapshot()
	p.m.flushed(p.m.durableUpTo())
	shot := make([]uint64, p.m.blocks)
	for i := range shot {
		shot[i] = p.m.history[i][0]
	}
	p.m.snapshots[gen] = shot
}

func (p *player) unsnap() {
	gens := slices.Sorted(maps.Keys(p.m.snapshots))
	if len(gens) == 0 {
		return
	}
	gen := gens[p.rand.IntN(len(gens))]
	if p.reading[gen] > 0 {
		return
	}
	if err := p.await(func(done func(error)) { p.r.DeleteSnapshot(gen, done) }); err != nil {
		p.fail(err)
		return
	}
	delete(p.m.snapshots, gen)
}

// drain waits for the requests in flight.
func (p *player) drain() {
	for p.inflight > 0 && p.r.Err() == nil {
		if p.disk.Poll(-1) == 0 && p.disk.InFlight() == 0 && p.inflight > 0 {
			p.t.Fatalf("%d requests hang; tasks: %v", p.inflight, p.taskNames())
		}
	}
}

var debugTrace = os.Getenv("STORE_TRACE") != ""

func TestRandomWorkloadWithDeaths(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { t.Parallel(); randomLife(t, seed, 400, 6) })
	}
}

// randomLife runs a workload of steps steps, lives times, each ended by a death drawn
// at random at a random moment.
func randomLife(t *testing.T, seed uint64, steps, lives int) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	d := sim(seed)
	if debugTrace {
		d.SetTrace(func(s string) { fmt.Println(s) })
	}
	o := Options{Boot: 1, TablesMax: 8 + rnd.IntN(8), FilesMax: 8, JournalBlocks: []int{16, 32, 1024}[rnd.IntN(3)]}
	blocks := []int{200, 1100, 3 * block.PerRegion}[rnd.IntN(3)]
	g := newRig(t, d, int64(blocks)*block.Size, o)
	m := newModel(blocks)
	for life := range lives {
		p := newPlayer(g, m, rnd.Uint64())
		n := rnd.IntN(steps)
		for range n {
			p.step()
			if len(p.errs) > 0 {
				t.Fatalf("life %d: %v", life, p.errs)
			}
		}
		how := death(rnd.IntN(3))
		switch how {
		case closed:
			p.drain()
			if len(p.errs) > 0 {
				t.Fatalf("life %d: %v", life, p.errs)
			}
			g.must(g.close())
		case killed:
			g.r.Abandon()
			d = d.Kill()
		case power:
			g.r.Abandon()
			d = d.Crash([]simdisk.Keep{simdisk.KeepNone, simdisk.KeepSome, simdisk.KeepAll}[rnd.IntN(3)])
			g.opts.Boot++
		}
		g.disk = d
		if debugTrace {
			fmt.Println("=== life", life, "ended by", how)
		}
		if err := g.open(); err != nil {
			t.Fatalf("life %d ended by %v: open: %v", life, how, err)
		}
		if err := g.verify(m, how); err != nil {
			t.Fatalf("life %d ended by %v: %v", life, how, err)
		}
	}
}

var _ host.Disk = (*simdisk.Disk)(nil)
