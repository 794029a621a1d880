package store

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// rig is a replica on a disk, and the patience to wait for it.
type rig struct {
	t    testing.TB
	disk host.Disk
	opts Options
	dir  string
	r    *Replica
}

var testVolume = block.VolumeID{1, 2, 3}

func newRig(t testing.TB, disk host.Disk, size int64, o Options) *rig {
	t.Helper()
	g := &rig{t: t, disk: disk, opts: o, dir: "v"}
	t.Cleanup(func() {
		g.drop()
		g.r, g.disk = nil, nil // a parallel test's cleanups stay in memory until the last one ends
	})
	g.must(g.await(func(done func(error)) { Create(disk, g.dir, Spec{Volume: testVolume, Size: size}, o, done) }))
	g.must(g.open())
	return g
}

func (g *rig) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// await runs f and drives the disk until done is called.
func (g *rig) await(f func(done func(error))) (err error) {
	finished := false
	f(func(e error) { finished, err = true, e })
	for !finished {
		if g.disk.Poll(-1) == 0 && g.disk.InFlight() == 0 && !finished {
			g.t.Fatalf("nothing is in flight and the call is not done; tasks: %v", g.taskNames())
		}
	}
	return err
}

func (g *rig) taskNames() (names []string) {
	if r := g.r; r != nil {
		for name, l := range map[string]*reqList{"commit": &r.regions.waiters, "journal": &r.journal.waiters, "saver": &r.saver.waiters, "flusher": &r.flusher.waiters, "thaw": &r.thaw} {
			if !l.empty() {
				names = append(names, fmt.Sprintf("requests wait for %s", name))
			}
		}
		for _, t := range r.tables.list {
			if !t.waiters.empty() {
				names = append(names, fmt.Sprintf("requests wait for table of %d, hold %v, mapping %d", t.region, t.hold, t.mapping))
			}
		}
		for _, c := range r.chunks {
			if !c.waiters.empty() {
				names = append(names, fmt.Sprintf("requests wait for chunk, preparing %v growing %v", c.preparing, c.growing))
			}
		}
		for n, rg := range r.regions.waiting {
			names = append(names, fmt.Sprintf("requests wait for region %d: loading %v settling %v", n, rg.loading, rg.rarely().settling))
		}
		j := &r.journal
		names = append(names, fmt.Sprintf("journal next %d tail %d written %d proven %d durable %d room %d; saver %+v idle %v; broken %v", j.next, j.tail, j.written, j.proven, j.durable, j.room(), r.saver.again, r.saver.idle, r.broken))
		for t := range g.r.tasks {
			names = append(names, t.name)
		}
	}
	return names
}

func (g *rig) open() error {
	return g.await(func(done func(error)) {
		Open(g.disk, g.dir, g.opts, func(r *Replica, err error) {
			g.r = r
			done(err)
		})
	})
}

// drop forgets the replica, if one is open: its tasks would stay in memory for ever.
func (g *rig) drop() {
	if g.r != nil {
		g.r.Abandon()
	}
}

func (g *rig) close() error { return g.await(g.r.Close) }

// submit starts a request; its Done is called by some later Poll.
func (g *rig) submit(q *Request, done func(error)) {
	q.Done = func(q *Request) { done(q.Err) }
	g.r.Submit(q)
}

func (g *rig) do(q *Request) error {
	return g.await(func(done func(error)) { g.submit(q, done) })
}

// pattern fills blocks with a tag: every 8 bytes of a block hold it.
func pattern(count int, tag uint64) (data []byte, sums []block.Sum) {
	data = host.Buffer(count * block.Size)
	for i := 0; i < len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], tag)
	}
	sums = make([]block.Sum, count)
	block.Checksums(sums, data)
	return data, sums
}

func writeOf(b block.Index, count int, tag uint64) *Request {
	data, sums := pattern(count, tag)
	return &Request{Verb: Write, Extent: block.Extent{Start: b, Count: uint64(count)}, Data: data, Sums: sums}
}

func readOf(gen block.Generation, b block.Index, count int) *Request {
	return &Request{Verb: Read, Generation: gen, Extent: block.Extent{Start: b, Count: uint64(count)},
		Data: host.Buffer(count * block.Size), Sums: make([]block.Sum, count)}
}

func (g *rig) write(b block.Index, count int, tag uint64) {
	g.t.Helper()
	g.must(g.do(writeOf(b, count, tag)))
}
func (g *rig) zero(b block.Index, count int) {
	g.t.Helper()
	g.must(g.do(&Request{Verb: Zero, Extent: block.Extent{Start: b, Count: uint64(count)}}))
}
func (g *rig) flush() { g.t.Helper(); g.must(g.do(&Request{Verb: Flush})) }

// tags reads blocks and returns the tag of each; a block with more than one is fatal.
func (g *rig) tags(gen block.Generation, b block.Index, count int) []uint64 {
	g.t.Helper()
	q := readOf(gen, b, count)
	g.must(g.do(q))
	var tags []uint64
	for i := range count {
		tag, err := tagOf(q.Data[i*block.Size : (i+1)*block.Size])
		g.must(err)
		tags = append(tags, tag)
	}
	return tags
}

func tagOf(b []byte) (uint64, error) {
	tag := binary.LittleEndian.Uint64(b)
	for i := 8; i < len(b); i += 8 {
		if x := binary.LittleEndian.Uint64(b[i:]); x != tag {
			return 0, fmt.Errorf("tag %d at byte %d, %d at the start", x, i, tag)
		}
	}
	return tag, nil
}

func (g *rig) expect(gen block.Generation, b block.Index, count int, tag uint64) {
	g.t.Helper()
	if count == 0 {
		return
	}
	for i, got := range g.tags(gen, b, count) {
		if got != tag {
			g.t.Fatalf("generation %d block %d: tag %d, want %d", gen, int(b)+i, got, tag)
		}
	}
}

func (g *rig) snapshot() block.Generation {
	g.t.Helper()
	gen := g.r.Manifest().Generation
	g.must(g.await(func(done func(error)) { g.r.Snapshot(gen, done) }))
	return gen
}

func sim(seed uint64) *simdisk.Disk { return simdisk.New(simdisk.Options{Seed: seed}) }
