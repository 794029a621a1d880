package store

import (
	"testing"
	"unsafe"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// flip changes one bit of a file.
func (g *rig) flip(name string, offset int64, bit int) {
	g.t.Helper()
	op := host.Op{Kind: host.OpOpen, Path: g.dir + "/" + name}
	g.must(host.Do(g.disk, &op))
	file, one := op.File, make([]byte, 1)
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpRead, File: file, Offset: offset, Buf: one}))
	one[0] ^= 1 << bit
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpWrite, File: file, Offset: offset, Buf: one}))
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpSync, File: file}))
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpClose, File: file}))
}

// damaged is a closed replica of two regions with a snapshot, generation 1, whose first
// region was damaged: first blocks have tag 1 there, and 2 in the live generation.
func damagedRegion(t *testing.T, what string) *rig {
	g := newRig(t, sim(1), 2*block.RegionSize, Options{Boot: 1})
	g.write(0, 8, 1)
	g.write(block.PerRegion, 4, 7)
	g.snapshot()
	g.write(0, 4, 2)
	g.must(g.close())
	switch what {
	case "table":
		for k := range uint32(2) {
			g.flip("chunks/00000000.000002", tableOffset(0, k)+tableSums+3, 1)
		}
	case "record":
		g.flip("regions", 2, 1)
	}
	g.must(g.open())
	return g
}

func (g *rig) reset(n block.Region) error {
	return g.await(func(done func(error)) { g.r.Reset(n, done) })
}

func (g *rig) corruptRead(gen block.Generation, b block.Index, count int) {
	g.t.Helper()
	for i := range count {
		if err := g.do(readOf(gen, b+block.Index(i), 1)); !fault.Is(err, fault.Corrupt) || asBadBlock(err) == nil {
			g.t.Errorf("a read of block %d of generation %d gives %v", int(b)+i, gen, err)
		}
	}
}

func TestResetRegionIsFilledAgain(t *testing.T) {
	for _, what := range []string{"table", "record"} {
		t.Run(what, func(t *testing.T) {
			g := damagedRegion(t, what)
			g.corruptRead(0, 0, 9)
			if err := g.do(writeOf(0, 1, 3)); !fault.Is(err, fault.Corrupt) {
				t.Errorf("a write to the damaged region gives %v", err)
			}
			g.must(g.reset(0))
			check := func(zeroed, written int) {
				t.Helper()
				g.expect(0, 0, zeroed, 0)
				g.expect(0, block.Index(zeroed), written-zeroed, 5)
				g.corruptRead(0, block.Index(written), 9-written)
				g.corruptRead(0, block.PerRegion-1, 1)
				if err := g.do(&Request{Verb: Verify, Extent: block.Extent{Count: 9}, Sums: make([]block.Sum, 9)}); !fault.Is(err, fault.Corrupt) {
					t.Errorf("Verify gives %v", err)
				}
				g.expect(0, block.PerRegion, 4, 7)
				if what == "record" {
					g.corruptRead(1, 0, 1)
				} else {
					g.expect(1, 0, 8, 1)
				}
			}
			check(0, 0)
			if info := g.r.Regions(0, 1); !info[0].Dirty {
				t.Errorf("the region is not dirty: %+v", info)
			}
			g.write(0, 6, 5)
			g.zero(0, 2)
			check(2, 6)
			if s, err := g.scrub(); err != nil || len(s.Bad)+int(s.More) < block.PerRegion-6 {
				t.Errorf("a scrub finds %d bad, and %v", len(s.Bad)+int(s.More), err)
			}
			g.must(g.close())
			if g.check().Damaged == 0 {
				t.Error("a check finds no damage")
			}
			g.must(g.open())
			check(2, 6)
			gen := g.snapshot()
			g.write(6, 100, 6)
			g.zero(106, block.PerRegion-106)
			g.expect(0, 6, 20, 6)
			g.corruptRead(gen, 6, 2)
			g.deleteSnapshot(gen)
			if s, err := g.scrub(); what == "table" && (err != nil || len(s.Bad) > 0) {
				t.Errorf("filled again, it is bad: %v, %v", s, err)
			}
			g.must(g.reset(0)) // nothing
			g.expect(0, 6, 20, 6)
			g.must(g.close())
		})
	}
}

func TestResetLeavesHealthyRegionsAlone(t *testing.T) {
	g := damagedRegion(t, "")
	g.must(g.reset(0))
	g.must(g.reset(1))
	g.expect(0, 0, 4, 2)
	g.expect(0, 4, 4, 1)
	g.expect(1, 0, 8, 1)
	if err := g.reset(2); !fault.Is(err, fault.Invalid) {
		t.Errorf("reset of a region that does not exist: %v", err)
	}
}

func TestCloneOfWhatIsLostIsRefused(t *testing.T) {
	g := damagedRegion(t, "record")
	for range 2 {
		err := g.await(func(done func(error)) { g.r.Clone(1, "clone", cloneSpec("clone1"), done) })
		if !fault.Is(err, fault.Corrupt) {
			t.Errorf("a clone of what is lost: %v", err)
		}
		g.must(g.reset(0))
	}
}

// TestCrashDuringResetBelievesNothing crashes a reset at every disk operation: what is
// found then is still damaged, or lost, and can be reset.
func TestCrashDuringResetBelievesNothing(t *testing.T) {
	for _, what := range []string{"table", "record"} {
		t.Run(what, func(t *testing.T) {
			g := damagedRegion(t, what)
			base := g.disk.(*simdisk.Disk)
			d := &stepDisk{Disk: base}
			g.r.Abandon()
			d.Disk = base.Kill()
			g.disk = d
			g.must(g.open())
			crashes := 0
			d.before = func() {
				for _, e := range endings {
					crashes++
					after, o := e.end(d.Clone(), g.opts)
					c := &rig{t: t, disk: after, opts: o, dir: "v"}
					c.must(c.open())
					c.corruptRead(0, 0, 9)
					c.expect(0, block.PerRegion, 4, 7)
					if err := c.do(readOf(1, 0, 8)); err == nil {
						c.expect(1, 0, 8, 1)
					}
					c.must(c.reset(0))
					c.write(0, 1, 9)
					c.expect(0, 0, 1, 9)
					c.corruptRead(0, 1, 8)
					c.must(c.close())
				}
			}
			err := g.reset(0)
			d.before = nil
			g.must(err)
			if crashes < 20 {
				t.Errorf("only %d crashes", crashes)
			}
			g.drop()
		})
	}
}

// Memory is bounded by what doc.go says.
func TestRegionsTakeNoMoreMemoryThanIsWritten(t *testing.T) {
	if size := unsafe.Sizeof(region{}); size > 72 {
		t.Errorf("a region takes %d bytes", size)
	}
}
