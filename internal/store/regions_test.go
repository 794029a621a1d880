package store

import (
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// traced is a rig that remembers what its disk was asked.
type traced struct {
	*rig
	lines []string
}

func newTraced(t *testing.T, size int64) *traced {
	x := &traced{}
	d := simdisk.New(simdisk.Options{Seed: 1, Trace: func(line string) { x.lines = append(x.lines, line) }})
	x.rig = newRig(t, d, size, Options{Boot: 1})
	return x
}

// count returns how many operations since the last call began with prefix.
func (x *traced) count(prefix string) (n int) {
	for _, line := range x.lines {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	x.lines = nil
	return n
}

func (x *traced) dirty() (n int) {
	for _, info := range x.r.Regions(0, 1<<20) {
		if info.Dirty {
			n++
		}
	}
	return n
}

func TestWritesToCleanRegionsShareACommit(t *testing.T) {
	x := newTraced(t, 64*block.RegionSize)
	x.count("")
	left := 0
	for n := range block.Index(32) {
		left++
		x.submit(writeOf(n*2*block.PerRegion, 1, 1), func(err error) { x.must(err); left-- })
	}
	for left > 0 {
		mustPoll(x.disk)
	}
	if n := x.count("sync v/regions"); n > 2 {
		t.Errorf("%d commits for writes that came together", n)
	}
}

func TestSequentialWriterFindsItsRegionsMarked(t *testing.T) {
	x := newTraced(t, 64*block.RegionSize)
	const step = RequestMax / block.Size
	x.write(0, step, 1)
	if n := x.dirty(); n != 1 {
		t.Errorf("%d regions are dirty after one write", n)
	}
	x.write(step, step, 1)
	x.write(2*step, step, 1)
	if n := x.dirty(); n != 1+aheadRegions {
		t.Errorf("%d regions are dirty after three writes in a row, want %d more than one", n, aheadRegions)
	}
}

// TestOpeningATebibyteReadsNoData opens a volume of 1 TiB that was closed, and one whose
// process was killed, of which only what the journal knows is looked at.
func TestOpeningATebibyteReadsNoData(t *testing.T) {
	x := newTraced(t, 1<<40)
	for n := range block.Index(50) {
		x.write(n*block.PerChunk*300, 4, 1)
	}
	x.must(x.close())
	x.count("")
	x.must(x.open())
	if n := x.count("read v/chunks"); n > 0 {
		t.Errorf("%d reads of chunk files", n)
	}
	x.write(0, 1, 2)
	x.r.Abandon()
	x.disk = x.disk.(*simdisk.Disk).Kill()
	x.count("")
	x.must(x.open())
	for x.disk.InFlight() > 0 {
		x.disk.Poll(-1)
	}
	if n := x.count("read v/chunks"); n > 2 {
		t.Errorf("%d reads of chunk files after a kill", n)
	}
	x.expect(0, 0, 1, 2)
	x.expect(0, 49*block.PerChunk*300, 4, 1)
}

// Whoever fills another replica of a clone from this one asks for its regions: what the
// clone has from its origin has no record of its own.
func TestRegionsOfACloneAreThoseOfItsOriginToo(t *testing.T) {
	g := newRig(t, sim(1), 4*block.ChunkSize, Options{})
	g.must(g.await(func(done func(error)) { g.r.Promise(3, done) }))
	g.write(2*block.PerRegion, 4, 7)
	gen := g.snapshot()
	g.must(g.await(func(done func(error)) { g.r.Clone(gen, "clone", cloneSpec("clone1"), done) }))
	g.drop()
	g.dir = "clone"
	g.must(g.open())
	g.expect(0, 2*block.PerRegion, 4, 7)
	g.must(g.await(func(done func(error)) { g.r.Promise(5, done) }))
	g.write(3*block.PerChunk, 1, 8)
	epochs := map[block.Region]block.Epoch{}
	for from := block.Region(0); ; {
		list := g.r.Regions(from, 5)
		if len(list) == 0 {
			break
		}
		for _, info := range list {
			epochs[info.Region] = info.Epoch
		}
		from = list[len(list)-1].Region + 1
	}
	if e, ok := epochs[2]; !ok || e != 0 {
		t.Errorf("the region that comes from the origin is not listed: %v", epochs)
	}
	if e := epochs[3*block.RegionsPerChunk]; e != 5 {
		t.Errorf("the region that the clone wrote has epoch %d: %v", e, epochs)
	}
	if _, ok := epochs[block.RegionsPerChunk]; ok {
		t.Errorf("a region is listed that nobody ever wrote: %v", epochs)
	}
}

// A snapshot is as large as its volume was then: a clone of it is, too, although the volume
// has grown since.
func TestCloneOfWhatAVolumeWasBeforeItGrew(t *testing.T) {
	const size = block.ChunkSize + block.RegionSize
	g := newRig(t, sim(1), size, Options{})
	g.must(g.await(func(done func(error)) { g.r.Promise(3, done) }))
	g.write(block.PerChunk, 4, 7)
	gen := g.snapshot()
	g.must(g.await(func(done func(error)) { g.r.Grow(4*block.ChunkSize, done) }))
	g.write(block.PerChunk+block.PerRegion, 4, 8)
	g.write(3*block.PerChunk, 4, 9)
	later := g.snapshot()
	small := Spec{Volume: cloneSpec("c").Volume, Replica: cloneSpec("c").Replica, Size: size}
	if err := g.await(func(done func(error)) { g.r.Clone(later, "clone", small, done) }); !fault.Is(err, fault.Invalid) {
		t.Errorf("a clone that is smaller than its snapshot: %v", err)
	}
	g.must(g.await(func(done func(error)) { g.r.Clone(gen, "clone", small, done) }))
	g.drop()
	g.dir = "clone"
	g.must(g.open())
	g.must(g.await(func(done func(error)) { g.r.Promise(5, done) }))
	g.expect(0, block.PerChunk, 4, 7)
	if got := g.r.Manifest().Size; got != size {
		t.Errorf("the clone has %d bytes", got)
	}
	g.must(g.await(func(done func(error)) { g.r.Grow(4*block.ChunkSize, done) }))
	g.expect(0, block.PerChunk+block.PerRegion, 4, 0)
	g.expect(0, 3*block.PerChunk, 4, 0)
	g.write(3*block.PerChunk, 4, 10)
	g.expect(0, 3*block.PerChunk, 4, 10)
}
