package store

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

const mib = 1 << 20

func TestWhatWasWrittenIsRead(t *testing.T) {
	g := newRig(t, sim(1), 130*mib, Options{})
	g.expect(0, 0, 256, 0)
	g.write(5, 3, 11)
	g.write(1020, 10, 12)            // across a region
	g.write(block.PerChunk-4, 8, 13) // across a chunk
	g.write(6, 1, 14)                // in place
	g.flush()
	g.zero(1021, 2)
	check := func() {
		t.Helper()
		g.expect(0, 5, 1, 11)
		g.expect(0, 6, 1, 14)
		g.expect(0, 7, 1, 11)
		g.expect(0, 1020, 1, 12)
		g.expect(0, 1021, 2, 0)
		g.expect(0, 1023, 7, 12)
		g.expect(0, block.PerChunk-4, 8, 13)
		g.expect(0, 8, 20, 0)
	}
	check()
	g.must(g.close())
	g.must(g.open())
	check()
	g.write(1021, 1, 15)
	g.expect(0, 1021, 1, 15)
	g.must(g.close())
}

func TestSnapshotsStayAsTheyWere(t *testing.T) {
	g := newRig(t, sim(2), 8*mib, Options{})
	g.write(0, 100, 1)
	a := g.snapshot()
	g.write(10, 10, 2)
	b := g.snapshot()
	g.zero(12, 4)
	g.write(50, 1, 3)
	check := func() {
		t.Helper()
		g.expect(a, 0, 100, 1)
		g.expect(b, 0, 10, 1)
		g.expect(b, 10, 10, 2)
		g.expect(b, 20, 80, 1)
		g.expect(0, 12, 4, 0)
		g.expect(0, 16, 4, 2)
		g.expect(0, 50, 1, 3)
	}
	check()
	g.must(g.close())
	g.must(g.open())
	check()
	var u Usage
	g.must(g.await(func(done func(error)) { g.r.Usage(func(got Usage, err error) { u = got; done(err) }) }))
	t.Logf("%+v", u)
	if u.Stored != (100+10+1)*block.Size || u.Generations[0].Exclusive != 10*block.Size ||
		u.Generations[1].Exclusive != 4*block.Size || u.Generations[2].Exclusive != block.Size {
		t.Errorf("usage %+v", u)
	}
	g.must(g.await(func(done func(error)) { g.r.DeleteSnapshot(a, done) }))
	g.must(g.await(g.r.Reclaimed))
	g.expect(b, 0, 10, 1)
	g.expect(b, 10, 10, 2)
	g.must(g.await(func(done func(error)) { g.r.DeleteSnapshot(b, done) }))
	g.must(g.await(g.r.Reclaimed))
	g.expect(0, 0, 10, 1)
	g.expect(0, 12, 4, 0)
	g.expect(0, 16, 4, 2)
	g.expect(0, 50, 1, 3)
	g.must(g.close())
	g.must(g.open())
	g.expect(0, 0, 10, 1)
	g.expect(0, 12, 4, 0)
	g.expect(0, 16, 4, 2)
}

// Goroutines that each have a replica share the table of what was never written.
func TestNobodyChangesTheTableOfWhatWasNeverWritten(t *testing.T) {
	g := newRig(t, sim(3), 8*mib, Options{})
	g.write(0, 1, 1)
	a := g.snapshot()
	was := *emptyTable
	for range 2 {
		g.expect(a, block.PerRegion, 4, 0)
		g.expect(0, block.PerRegion, 4, 0)
		u, err := g.usage()
		g.must(err)
		g.must(g.verifyScrub())
		if u.Stored != block.Size {
			t.Errorf("%+v", u)
		}
	}
	if *emptyTable != was {
		t.Error("it was changed")
	}
}
