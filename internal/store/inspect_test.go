package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// inspect opens the rig's replica to be looked at, calls look, and closes it again.
func (g *rig) inspect(look func(i *Inspection)) {
	g.t.Helper()
	var i *Inspection
	g.must(g.await(func(done func(error)) {
		Inspect(g.disk, g.dir, g.opts, func(got *Inspection, err error) { i = got; done(err) })
	}))
	look(i)
	g.must(g.await(func(done func(error)) { i.Close(func() { done(nil) }) }))
}

// check returns what Check finds.
func (g *rig) check() (report CheckReport) {
	g.t.Helper()
	g.inspect(func(i *Inspection) {
		g.must(g.await(func(done func(error)) {
			i.Check(func(int, int) bool { return true }, func(got CheckReport, err error) { report = got; done(err) })
		}))
	})
	return report
}

// locate returns where a block lies.
func (g *rig) locate(b block.Index, gen block.Generation) (place Place) {
	g.t.Helper()
	g.inspect(func(i *Inspection) {
		g.must(g.await(func(done func(error)) {
			i.Locate(b, gen, func(got Place, err error) { place = got; done(err) })
		}))
	})
	return place
}

// readFile returns the block at offset of a file of the replica.
func (g *rig) readFile(name string, offset int64) []byte {
	g.t.Helper()
	op := host.Op{Kind: host.OpOpen, Path: g.dir + "/" + name, Flags: host.ReadOnly}
	g.must(host.Do(g.disk, &op))
	read := host.Op{Kind: host.OpRead, File: op.File, Offset: offset, Buf: make([]byte, block.Size)}
	g.must(host.Do(g.disk, &read))
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpClose, File: op.File}))
	return read.Buf
}

// blocksOnDisk returns the first blocks of the volume, found by the tables alone.
func (g *rig) blocksOnDisk(blocks int) []byte {
	g.t.Helper()
	data := make([]byte, blocks*block.Size)
	g.inspect(func(i *Inspection) {
		for n := range block.Region((blocks + block.PerRegion - 1) / block.PerRegion) {
			var info TableInfo
			g.must(g.await(func(done func(error)) {
				i.Table(n, 0, func(got TableInfo, err error) { info = got; done(err) })
			}))
			for _, run := range info.Runs {
				for k := range run.Count {
					if b := int(run.First) + k; run.State == "data" && b < blocks {
						copy(data[b*block.Size:], g.readFile(i.fileName(fileKey{n.Chunk(), run.Holder}), slotOffset(run.Slot+uint16(k))))
					}
				}
			}
		}
	})
	return data
}

// Whatever a replica went through, deaths included, a check before it is opened again
// finds no damage, leaves the disk as it is, and shows what is then read.
func TestCheckFindsNothingWrongAfterDeaths(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { t.Parallel(); livesWithChecks(t, seed) })
	}
}

func livesWithChecks(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	d := sim(seed)
	o := Options{Boot: 1, TablesMax: 8 + rnd.IntN(8), FilesMax: 8, JournalBlocks: []int{16, 32, 1024}[rnd.IntN(3)]}
	blocks := []int{200, 1020}[rnd.IntN(2)]
	g := newRig(t, d, 3*block.RegionSize, o)
	for life := range 6 {
		g.live(rnd, blocks)
		how := rnd.IntN(3)
		switch how {
		case 0: // closed: the disk is at rest
			for d.InFlight() > 0 {
				d.Poll(-1)
			}
			g.must(g.close())
		case 1: // the process died
			g.r.Abandon()
			d = d.Kill()
		case 2: // the machine did
			g.r.Abandon()
			d = d.Crash([]simdisk.Keep{simdisk.KeepNone, simdisk.KeepSome, simdisk.KeepAll}[rnd.IntN(3)])
			g.opts.Boot++
		}
		g.disk = d
		before, ops := d.Dump(), d.Ops()
		for _, f := range g.check().Findings {
			if f.Damage {
				t.Errorf("life %d, death %d: %v", life, how, f)
			}
		}
		shown := g.blocksOnDisk(blocks)
		if d.Dump() != before || d.Ops() != ops {
			t.Fatalf("life %d, death %d: the check changed the disk", life, how)
		}
		g.must(g.open())
		for n := 0; n < blocks; n += 200 {
			q := readOf(0, block.Index(n), min(200, blocks-n))
			g.must(g.do(q))
			if !bytes.Equal(q.Data, shown[n*block.Size:][:len(q.Data)]) {
				t.Fatalf("life %d, death %d: blocks from %d on are not what the inspection showed", life, how, n)
			}
		}
	}
}

// live does random things to the first blocks of the replica, many at once.
func (g *rig) live(rnd *rand.Rand, blocks int) {
	busy := make([]bool, blocks)
	inFlight := 0
	submit := func(q *Request) {
		e := q.Extent
		for b := e.Start; b < e.End(); b++ {
			if busy[b] {
				return // requests that overlap are the caller's mistake
			}
		}
		set := func(to bool) {
			for b := e.Start; b < e.End(); b++ {
				busy[b] = to
			}
		}
		set(true)
		inFlight++
		g.submit(q, func(err error) {
			if err != nil {
				g.t.Error(err)
			}
			set(false)
			inFlight--
		})
	}
	for n := range rnd.IntN(400) {
		count := 1 + rnd.IntN(8)
		at := block.Index(rnd.IntN(blocks - count))
		switch k := rnd.IntN(100); {
		case k < 50:
			submit(writeOf(at, count, uint64(n+1)))
		case k < 60:
			submit(&Request{Verb: Zero, Extent: block.Extent{Start: at, Count: uint64(count)}})
		case k < 65:
			submit(&Request{Verb: Flush})
		case k < 66 && len(g.r.Manifest().Snapshots) < 5:
			g.snapshot()
		case k < 67 && len(g.r.Manifest().Snapshots) < 5: // and what comes next meets it half done
			gen := g.r.Manifest().Generation
			g.must(g.await(func(done func(error)) { g.r.Prepare(gen, done) }))
			g.must(g.await(func(done func(error)) { g.r.Seal(gen, done) }))
		case k < 69 && len(g.r.Manifest().Snapshots) > 2:
			gens := g.r.Manifest().Snapshots
			g.must(g.await(func(done func(error)) { g.r.DeleteSnapshot(gens[rnd.IntN(len(gens))], done) }))
		case k < 72:
			g.r.Clean(g.r.Mark())
		default:
			g.disk.Poll(0)
		}
	}
	for inFlight > 0 && rnd.IntN(2) == 0 {
		g.disk.Poll(-1)
	}
}

func TestBlocksLieWhereLocateSays(t *testing.T) {
	d := sim(3)
	g := newRig(t, d, 130*mib, Options{Boot: 1})
	g.write(5, 3, 11)
	a := g.snapshot()
	g.write(6, 1, 12)
	g.write(block.PerChunk+7, 2, 13)
	g.zero(7, 1)
	check := func(ended string) {
		t.Helper()
		for _, c := range []struct {
			b     block.Index
			gen   block.Generation
			state string
			file  string
			tag   uint64
		}{
			{4, 0, "absent", "", 0},
			{5, 0, "data", "chunks/00000000.000001", 11},
			{6, 0, "data", "chunks/00000000.000002", 12},
			{6, a, "data", "chunks/00000000.000001", 11},
			{7, 0, "zeroed", "", 0},
			{7, a, "data", "chunks/00000000.000001", 11},
			{block.PerChunk + 8, 0, "data", "chunks/00000001.000002", 13},
			{block.PerChunk + 8, a, "absent", "", 0},
		} {
			place := g.locate(c.b, c.gen)
			if place.State != c.state || place.File != c.file {
				t.Errorf("%s: block %d, generation %d is at %+v, want %s in %q", ended, c.b, c.gen, place, c.state, c.file)
				continue
			}
			if c.file == "" {
				continue
			}
			content := g.readFile(place.File, place.Offset)
			if tag, err := tagOf(content); err != nil || tag != c.tag {
				t.Errorf("%s: at the place of block %d, generation %d is tag %d, %v; want %d", ended, c.b, c.gen, tag, err, c.tag)
			}
			if !place.Suspect && place.Sum != block.Checksum(content) {
				t.Errorf("%s: block %d, generation %d: checksum %08x", ended, c.b, c.gen, uint32(place.Sum))
			}
			if place.Suspect != (ended == "killed") {
				t.Errorf("%s: block %d, generation %d: suspect is %v", ended, c.b, c.gen, place.Suspect)
			}
		}
	}
	g.r.Abandon()
	d = d.Kill()
	g.disk = d
	check("killed") // nothing but the journal says where they are
	g.must(g.open())
	g.r.Clean(g.r.Mark()) // settles what the death left
	g.must(g.close())
	check("closed")
}

func TestTableShowsRunsOfARegion(t *testing.T) {
	g := newRig(t, sim(4), 6*mib, Options{})
	g.write(0, 3, 1)
	g.snapshot()
	g.write(10, 2, 2)
	g.write(1, 1, 3)
	g.zero(11, 1)
	g.must(g.close())
	var info TableInfo
	var err error
	g.inspect(func(i *Inspection) {
		get := func(n block.Region, gen block.Generation) {
			_ = g.await(func(done func(error)) {
				i.Table(n, gen, func(got TableInfo, e error) { info, err = got, e; done(nil) })
			})
		}
		get(0, 0)
		want := []TableRun{{0, 1, "data", 1, 0}, {1, 1, "data", 2, 2}, {2, 1, "data", 1, 2}, {3, 7, "absent", 0, 0},
			{10, 1, "data", 2, 0}, {11, 1, "punched", 2, 1}, {12, 1012, "absent", 0, 0}}
		if err != nil || info.Table != 2 || info.Generation != 2 || info.Sequence == 0 || info.Replayed || fmt.Sprint(info.Runs) != fmt.Sprint(want) {
			t.Errorf("the live table is %+v, %v; want %v", info, err, want)
		}
		get(0, 1)
		if err != nil || info.Table != 1 || info.Generation != 1 || len(info.Runs) != 2 {
			t.Errorf("the snapshot's table is %+v, %v", info, err)
		}
		get(1, 0)
		if err != nil || info.Table != 0 || len(info.Runs) != 0 {
			t.Errorf("a region that was never written is %+v, %v", info, err)
		}
		if get(2, 0); !fault.Is(err, fault.Invalid) {
			t.Errorf("a region beyond the end: %v", err)
		}
		if get(0, 7); !fault.Is(err, fault.NotFound) {
			t.Errorf("a generation that does not exist: %v", err)
		}
	})
}

// Every bit that is flipped in metadata is found: as damage, or as what nothing needs. The
// check never panics, whatever is flipped.
func TestCheckReportsFlippedBits(t *testing.T) {
	base := sim(5)
	g := newRig(t, base, 130*mib, Options{})
	g.write(0, 40, 1)
	g.snapshot()
	g.write(20, 40, 2)
	g.write(block.PerChunk, 8, 3)
	g.must(g.close())
	for _, c := range []struct {
		file  string
		bytes int64 // of it that can be flipped
		what  string
	}{
		{"regions", 2 * recordSize, "region record"},
		{"journal", 3 * block.Size, "journal"},
		{"chunks/00000000.000001", 2 * tableSize, "block table"},
		{"chunks/00000000.000002", 2 * tableSize, "block table"},
	} {
		found := 0
		rnd := rand.New(rand.NewPCG(9, 9))
		for range 100 {
			d := base.Clone()
			if d.FlipBit("v/"+c.file, rnd.Int64N(c.bytes*8)) != nil {
				continue // a hole
			}
			g.disk = d
			report := g.check()
			named := false
			for _, f := range report.Findings {
				named = named || f.What == c.what && (f.File == c.file) && f.Cure != ""
			}
			if !named {
				t.Fatalf("a flipped bit in %s is reported as %v", c.file, report.Findings)
			}
			found++
		}
		if found < 40 {
			t.Errorf("only %d flips in %s hit data", found, c.file)
		}
	}
}

func TestCheckReportsWhatIsMissingOrStrange(t *testing.T) {
	base := sim(6)
	g := newRig(t, base, 130*mib, Options{})
	g.write(0, 40, 1)
	g.write(block.PerChunk, 8, 3)
	g.snapshot()
	g.write(20, 10, 2)
	g.must(g.close())
	remove := func(path string) func(*simdisk.Disk) error {
		return func(d *simdisk.Disk) error { return host.Do(d, &host.Op{Kind: host.OpRemove, Path: path}) }
	}
	create := func(path string) func(*simdisk.Disk) error {
		return func(d *simdisk.Disk) error {
			return host.Do(d, &host.Op{Kind: host.OpOpen, Path: path, Flags: host.Create})
		}
	}
	cut := func(path string, size int64) func(*simdisk.Disk) error {
		return func(d *simdisk.Disk) error {
			op := host.Op{Kind: host.OpOpen, Path: path}
			if err := host.Do(d, &op); err != nil {
				return err
			}
			return host.Do(d, &host.Op{Kind: host.OpTruncate, File: op.File, Length: size})
		}
	}
	for name, c := range map[string]struct {
		do     func(*simdisk.Disk) error
		damage bool
		texts  []string
	}{
		"lock":             {remove("v/lock"), true, []string{"lock in lock", "missing"}},
		"regions":          {remove("v/regions"), true, []string{"region table", "missing"}},
		"short regions":    {cut("v/regions", 0), true, []string{"it has 0 bytes, the volume needs 4096"}},
		"journal":          {remove("v/journal"), true, []string{"journal", "missing"}},
		"short journal":    {cut("v/journal", 4096), true, []string{"journal", "it has 4096 bytes"}},
		"chunk":            {remove("v/chunks/00000001.000001"), true, []string{"blocks 16384+1024", "table of generation 1", "no chunk file"}},
		"older chunk file": {remove("v/chunks/00000000.000001"), true, []string{"00000000.000002", "file of generation 1 is missing"}},
		"newer chunk file": {remove("v/chunks/00000000.000002"), true, []string{"region record", "table of generation 2", "newest is of 1"}},
		"short chunk file": {cut("v/chunks/00000000.000001", slotOffset(30)), true, []string{"slots behind the end"}},
		"stray":            {create("v/notes.txt"), false, []string{"stray file in notes.txt"}},
		"stray chunk":      {create("v/chunks/core"), false, []string{"stray file in chunks/core"}},
		"future chunk":     {create("v/chunks/00000000.000009"), true, []string{"beyond generation 2"}},
		"half a manifest":  {create("v/replica.json.new"), false, []string{"change of replica.json was interrupted"}},
		"half a merge":     {create("v/chunks/00000000.000002.merge"), false, []string{"merge of chunk files was interrupted"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := base.Clone()
			if err := c.do(d); err != nil {
				t.Fatal(err)
			}
			g := &rig{t: t, disk: d, dir: "v"}
			report := g.check()
			if (report.Damaged > 0) != c.damage || len(report.Findings) == 0 {
				t.Errorf("%d of the findings are damage, want any: %v", report.Damaged, c.damage)
			}
			all := ""
			for _, f := range report.Findings {
				all += f.String() + "\n"
				if f.Cure == "" {
					t.Errorf("%v has no cure", f)
				}
			}
			for _, text := range c.texts {
				if !strings.Contains(all, text) {
					t.Errorf("%q is missing in:\n%s", text, all)
				}
			}
		})
	}
}

func TestInspectRefusesWhatItCantLookAt(t *testing.T) {
	d := sim(7)
	g := newRig(t, d, mib, Options{})
	look := func(dir string) error {
		return g.await(func(done func(error)) {
			Inspect(d, dir, Options{}, func(i *Inspection, err error) { done(err) })
		})
	}
	if err := look("v"); !fault.Is(err, fault.Busy) {
		t.Errorf("an open replica: %v", err)
	}
	g.must(g.close())
	for range 2 { // the first one gave the lock back
		g.inspect(func(i *Inspection) {
			if err := look("v"); !fault.Is(err, fault.Busy) {
				t.Errorf("an inspected replica: %v", err)
			}
			if m := i.Manifest(); m.Volume != testVolume || m.Size != mib {
				t.Errorf("manifest %+v", m)
			}
		})
	}
	if err := look("nowhere"); !fault.Is(err, fault.NotFound) {
		t.Errorf("nothing: %v", err)
	}
	g.must(host.Do(d, &host.Op{Kind: host.OpMkdir, Path: "empty"}))
	if err := look("empty"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an empty directory: %v", err)
	}
	g.must(d.FlipBit("v/replica.json", 100))
	if err := look("v"); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a damaged manifest: %v", err)
	}
	if err := look("v"); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a damaged manifest keeps the lock: %v", err)
	}
}

// The files of deleted generations are punched, merged and removed in many steps; at none
// of them is what a crash leaves taken for damage.
func TestCheckUnderstandsInterruptedReclaim(t *testing.T) {
	base := sim(8)
	o := Options{Boot: 1}
	g := newRig(t, base, 4*mib, o)
	want := make([]byte, 100*block.Size)
	for at := range obsoleteMax + 4 {
		q := writeOf(block.Index(5*at), 5, uint64(at+1))
		copy(want[q.Extent.Start.Offset():], q.Data)
		g.must(g.do(q))
		g.snapshot()
	}
	g.r.Clean(g.r.Mark())
	g.must(g.close())
	run := func(d *simdisk.Disk) (err error) {
		g := &rig{t: t, disk: d, dir: "v", opts: o}
		if err = g.open(); err != nil {
			return err
		}
		for _, gen := range g.r.Manifest().Snapshots {
			if err = g.await(func(done func(error)) { g.r.DeleteSnapshot(gen, done) }); err != nil {
				return err
			}
			if err = g.await(g.r.Reclaimed); err != nil {
				return err
			}
		}
		return g.close()
	}
	whole := base.Clone()
	first := whole.Ops()
	g.must(run(whole))
	merges := 0
	for n := first; n <= whole.Ops(); n++ {
		d := base.Clone()
		d.CrashAfter(n)
		simdisk.Survives(func() { g.must(run(d)) })
		for _, keep := range []simdisk.Keep{simdisk.KeepNone, simdisk.KeepSome, simdisk.KeepAll} {
			g := &rig{t: t, disk: d.Clone().Crash(keep), dir: "v", opts: Options{Boot: 2}}
			for _, f := range g.check().Findings {
				if f.Damage {
					t.Fatalf("crash after %d operations: %v", n, f)
				}
				if strings.Contains(f.Detail, "after it was complete") {
					merges++
				}
			}
			if got := g.blocksOnDisk(100); !bytes.Equal(got, want) {
				t.Fatalf("crash after %d operations: the blocks are not what was written", n)
			}
		}
	}
	if merges == 0 {
		t.Error("no crash came in the middle of a merge")
	}
}
