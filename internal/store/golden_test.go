package store

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

var update = flag.Bool("update", false, "write what the operations are now to testdata")

// transcript is what a replica asks of its disk, verb by verb.
type transcript struct {
	*rig
	text strings.Builder
}

// does writes down the operations of one verb, until nothing is in flight.
func (x *transcript) does(title string, what func()) {
	x.text.WriteString("\n# " + title + "\n")
	what()
	for x.disk.InFlight() > 0 {
		x.disk.Poll(-1)
	}
}

// TestOperationsOfEachVerb compares the disk operations of the main verbs, in their order,
// with those that were written down: an fsync that moves is a visible change.
func TestOperationsOfEachVerb(t *testing.T) {
	x := &transcript{}
	d := simdisk.New(simdisk.Options{Seed: 1, InOrder: true, Trace: func(line string) { x.text.WriteString(line + "\n") }})
	x.rig = &rig{t: t, disk: d, dir: "v", opts: Options{Boot: 1, JournalBlocks: 64}}
	t.Cleanup(func() { x.drop() })
	must := x.must
	x.text.WriteString("What a replica asks of its disk. To accept a change: go test ./internal/store -run OperationsOfEachVerb -update\n")
	x.does("create", func() {
		must(x.await(func(done func(error)) {
			Create(d, "v", Spec{Volume: testVolume, Size: 2 * block.RegionSize}, x.opts, done)
		}))
	})
	x.does("open", func() { must(x.open()) })
	x.does("write to a clean region of a chunk without a file", func() { x.write(0, 2, 1) })
	x.does("write to a dirty region, blocks that were never written", func() { x.write(8, 2, 1) })
	x.does("write in place", func() { x.write(8, 2, 2) })
	x.does("write to another region of the chunk", func() { x.write(block.PerRegion, 1, 3) })
	x.does("read", func() { x.expect(0, 8, 2, 2) })
	x.does("flush after first writes", func() { x.flush() })
	x.does("write in place, then flush", func() { x.write(8, 2, 4); x.flush() })
	x.does("flush of nothing", func() { x.flush() })
	x.does("zero", func() { x.zero(9, 1) })
	x.does("clean", func() { x.flush(); x.r.Clean(x.r.Mark()) })
	x.does("write in place to a region that became clean", func() { x.write(8, 1, 5) })
	gen := block.Generation(0)
	x.does("snapshot", func() { gen = x.snapshot() })
	x.does("write after a snapshot", func() { x.write(8, 1, 6) })
	x.does("read as of the snapshot", func() { x.expect(gen, 8, 1, 5) })
	x.does("clone", func() {
		must(x.await(func(done func(error)) { x.r.Clone(gen, "clone", cloneSpec("clone1"), done) }))
	})
	x.does("delete the snapshot", func() { x.deleteSnapshot(gen) })
	x.does("promise an epoch", func() { must(x.await(func(done func(error)) { x.r.Promise(7, done) })) })
	x.does("grow", func() { must(x.await(func(done func(error)) { x.r.Grow(130*block.RegionSize, done) })) })
	x.does("close", func() { must(x.close()) })
	x.does("open again, read", func() { must(x.open()); x.expect(0, 8, 1, 6) })
	x.write(0, 1, 7)
	x.write(20, 1, 8)
	x.r.Abandon()
	d = d.Kill()
	x.disk = d
	x.does("open after a kill, read, read the checksum", func() {
		must(x.open())
		x.expect(0, 20, 1, 8)
		must(x.do(&Request{Verb: Verify, Extent: block.Extent{Count: 1}, Sums: make([]block.Sum, 1)}))
	})
	x.r.Abandon()
	x.disk = d.Kill()
	x.r = nil
	x.does("delete", func() { must(x.await(func(done func(error)) { Delete(x.disk, "v", done) })) })

	const file = "testdata/operations.txt"
	if *update {
		must(os.MkdirAll("testdata", 0o755))
		must(os.WriteFile(file, []byte(x.text.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	must(err)
	if got := x.text.String(); got != string(want) {
		t.Errorf("the operations differ from %s, first in:\n%s", file, firstDifference(got, string(want)))
	}
}

// firstDifference returns the first verb whose operations differ.
func firstDifference(got, want string) string {
	wants := strings.Split(want, "\n# ")
	for i, verb := range strings.Split(got, "\n# ") {
		if i >= len(wants) || verb != wants[i] {
			return verb
		}
	}
	return "verbs are missing"
}
