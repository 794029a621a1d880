package simdisk_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

func TestFullDiskTakesOverwritesAndHealsWhenSpaceIsFreed(t *testing.T) {
	p := start(t, simdisk.Options{Capacity: 10 * 4096})
	space := func() int64 { return p.must(&host.Op{Kind: host.OpSpace}).Space.Free / 4096 }
	f := p.create("file")
	p.write(f, 0, fill('a', 6*4096))
	p.must(&host.Op{Kind: host.OpAllocate, File: f, Offset: 6 * 4096, Length: 2 * 4096})
	if space() != 2 {
		t.Fatalf("%d pages free, want 2", space())
	}
	p.fails(fault.NoSpace, &host.Op{Kind: host.OpAllocate, File: f, Offset: 8 * 4096, Length: 3 * 4096})
	if space() != 2 {
		t.Fatal("an allocation that failed took space")
	}
	p.fails(fault.NoSpace, &host.Op{Kind: host.OpWrite, File: f, Offset: 8 * 4096, Buf: fill('b', 3*4096)})
	if space() != 0 {
		t.Fatalf("%d pages free after a write that filled the disk, want 0", space())
	}
	p.fails(fault.NoSpace, &host.Op{Kind: host.OpWrite, File: f, Offset: 1 << 20, Buf: []byte("x")})
	p.write(f, 5000, fill('c', 4*4096)) // over what is there and what was reserved
	p.sync(f)
	p.punch(f, 0, 2*4096)
	p.write(f, 1<<20, []byte("x"))
	g := p.create("other")
	p.write(g, 0, fill('d', 4096))
	p.fails(fault.NoSpace, &host.Op{Kind: host.OpWrite, File: g, Offset: 4096, Buf: []byte("x")})
	p.remove("other")
	if space() != 0 {
		t.Error("a removed file that is open gave its space back")
	}
	p.close(g)
	if space() != 1 {
		t.Errorf("%d pages free, want 1", space())
	}
	p.truncate(f, 4096*3)
	p.SetCapacity(3 * 4096)
	p.fails(fault.NoSpace, &host.Op{Kind: host.OpWrite, File: f, Offset: 4 * 4096, Buf: fill('e', 3*4096)})
	p.SetCapacity(1 << 20)
	p.write(f, 4*4096, fill('e', 3*4096))
	p.check()
}

func TestAllocatedIsExact(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	want := func(pages int64) {
		t.Helper()
		if got := p.stat(f).Allocated; got != pages*4096 {
			t.Fatalf("%d bytes allocated, want %d pages", got, pages)
		}
	}
	p.write(f, 4095, []byte("ab"))
	want(2)
	p.write(f, 1<<30, []byte("x"))
	want(3)
	p.punch(f, 4096, 4096)
	want(2)
	p.punch(f, 1, 4094) // parts of a page
	want(2)
	p.must(&host.Op{Kind: host.OpAllocate, File: f, Offset: 4096, Length: 64 << 20})
	want(2 + 64<<20/4096)
	p.write(f, 4096, fill('x', 1<<20)) // into what is reserved
	want(2 + 64<<20/4096)
	p.truncate(f, 4097)
	want(2)
	p.check()
}

func TestFailedSyncDropsWhatLaterSyncsDoNotBringBack(t *testing.T) {
	seenAfter := map[byte]bool{}
	for seed := range uint64(20) {
		p := start(t, simdisk.Options{Seed: seed})
		f := p.create("file")
		p.write(f, 0, fill('a', 4*4096))
		p.syncAll()
		p.write(f, 0, fill('b', 2*4096))
		p.write(f, 3*4096, fill('b', 4096))
		p.Inject(simdisk.Rule{Kind: host.OpSync, Effect: simdisk.Fail})
		p.fails(fault.Media, &host.Op{Kind: host.OpSync, File: f})
		seenAfter[p.read("file")[0]] = true // the cache may still have it

		p.write(f, 4096, fill('c', 1)) // written again, as a whole page of the cache
		p.write(f, 2*4096, fill('d', 4096))
		p.punch(f, 3*4096, 4096)
		second := p.read("file")[4096+1]
		p.sync(f)
		for _, keep := range keeps {
			want := slices.Concat(fill('a', 4096), []byte{'c'}, fill(second, 4095), fill('d', 4096), fill(0, 4096))
			p.crash(seed, keep).expect("file", want)
		}
	}
	if !seenAfter['a'] || !seenAfter['b'] {
		t.Errorf("after failed syncs files held %v, want both the old and the new", seenAfter)
	}
}

func TestWhatIsDoneAfterAFailedSyncIsDurableAfterTheNext(t *testing.T) {
	for name, redo := range map[string]func(p process, f host.File){
		"Write":    func(p process, f host.File) { p.write(f, 0, fill('c', 2*4096)) },
		"Punch":    func(p process, f host.File) { p.punch(f, 0, 2*4096) },
		"Truncate": func(p process, f host.File) { p.truncate(f, 0); p.truncate(f, 2*4096) },
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(10) {
				p := start(t, simdisk.Options{Seed: seed})
				f := p.create("file")
				p.write(f, 0, fill('a', 2*4096))
				p.syncAll()
				p.write(f, 0, fill('b', 4096))
				p.punch(f, 4096, 4096)
				p.Inject(simdisk.Rule{Kind: host.OpSync, Effect: simdisk.Fail})
				p.fails(fault.Media, &host.Op{Kind: host.OpSync, File: f})
				redo(p.on(p.Clone()), f) // which changes nothing for p
				lost := p.on(p.Clone())
				lost.sync(f)
				lost.crash(seed, simdisk.KeepAll).expect("file", fill('a', 2*4096))

				redo(p, f)
				p.sync(f)
				if got, want := p.crash(seed, simdisk.KeepNone).Dump(), p.Dump(); got != want {
					t.Fatalf("seed %d left\n%swant\n%s", seed, got, want)
				}
			}
		})
	}
}

func TestFailedSyncAllDropsEveryFile(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.write(p.create("a"), 0, []byte("a"))
	p.write(p.create("b"), 0, []byte("b"))
	p.Inject(simdisk.Rule{Kind: host.OpSyncAll, Effect: simdisk.Fail})
	p.fails(fault.Media, &host.Op{Kind: host.OpSyncAll})
	p.syncAll()
	after := p.crash(0, simdisk.KeepAll)
	after.expect("a", []byte{0})
	after.expect("b", []byte{0})
}

func TestRulesStrikeWhatTheyName(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("d")
	f, g := p.create("d/x.1"), p.create("d/y.1")
	p.Inject(simdisk.Rule{Kind: host.OpWrite, Path: "d/x.*", Skip: 1, Times: 2, Effect: simdisk.Fail})
	p.Inject(simdisk.Rule{Kind: host.OpRead, Times: -1, Effect: simdisk.Fail, Error: fault.Denied})
	write := func(f host.File) error {
		return host.Do(p.Disk, &host.Op{Kind: host.OpWrite, File: f, Buf: []byte("x")})
	}
	var got []bool
	for range 5 {
		got = append(got, write(f) != nil, write(g) != nil)
	}
	if want := []bool{false, false, true, false, true, false, false, false, false, false}; !slices.Equal(got, want) {
		t.Errorf("writes failed as %v, want %v", got, want)
	}
	for range 3 {
		p.fails(fault.Denied, &host.Op{Kind: host.OpRead, File: g, Buf: make([]byte, 1)})
	}
	p.Heal()
	p.must(&host.Op{Kind: host.OpRead, File: g, Buf: make([]byte, 1)})
}

func TestFailedNameChangeChangesNothing(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.create("a")
	p.Inject(simdisk.Rule{Path: "a", Kind: host.OpRename, Effect: simdisk.Fail})
	p.fails(fault.Media, &host.Op{Kind: host.OpRename, Path: "a", To: "b"})
	p.expectNames("a")
	p.Inject(simdisk.Rule{Kind: host.OpSyncDir, Effect: simdisk.Fail})
	p.fails(fault.Media, &host.Op{Kind: host.OpSyncDir, Path: "."})
	p.crash(0, simdisk.KeepNone).expectNames()
	p.syncDir(".")
	p.crash(0, simdisk.KeepNone).expectNames("a")
}

func TestLostWriteIsAcknowledgedAndNeverThere(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 4096))
	p.Inject(simdisk.Rule{Effect: simdisk.Lose, Times: 2})
	p.write(f, 0, fill('b', 4096))
	p.write(f, 4096, fill('b', 4096))
	p.syncAll()
	want := append(fill('a', 4096), make([]byte, 4096)...)
	p.expect("file", want)
	p.crash(0, simdisk.KeepAll).expect("file", want)
	if got := p.stat(f).Allocated; got != 8192 {
		t.Errorf("%d bytes allocated", got)
	}
	p.check()
}

func TestMisdirectedWriteLandsElsewhereInTheFile(t *testing.T) {
	places := map[int]bool{}
	for seed := range uint64(100) {
		p := start(t, simdisk.Options{Seed: seed})
		f := p.create("file")
		p.write(f, 0, fill('a', 4*4096))
		p.Inject(simdisk.Rule{Kind: host.OpWrite, Effect: simdisk.Misdirect})
		p.write(f, 4096, fill('b', 4096))
		data := p.read("file")
		at := bytes.IndexByte(data, 'b')
		if len(data) != 4*4096 || at%4096 != 0 || at == 4096 || bytes.Count(data, []byte("b")) != 4096 {
			t.Fatalf("seed %d: landed at %d of %d bytes", seed, at, len(data))
		}
		places[at] = true
		p.check()
	}
	if len(places) != 3 {
		t.Errorf("writes landed only at %v", places)
	}
}

func TestFlippedBitIsInTheFileForGood(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill(0, 8192))
	p.write(f, 1<<20, []byte{1})
	p.syncAll()
	c := p.on(p.Clone())
	if err := p.FlipBit("file", 5000*8+3); err != nil {
		t.Fatal(err)
	}
	after := p.crash(0, simdisk.KeepNone)
	for _, q := range []process{p, after} {
		if data := q.read("file"); data[5000] != 8 || bytes.Count(data, []byte{0}) != 1<<20-1 {
			t.Error("the bit is not flipped, or others are")
		}
		q.check()
	}
	if bytes.ContainsRune(c.read("file"), 8) {
		t.Error("the clone has the flip")
	}
	for path, bit := range map[string]int64{"file": 100_000 * 8, "no": 0, "../x": 0, "file ": -1} {
		if err := p.FlipBit(path, bit); err == nil {
			t.Errorf("flipped bit %d of %s", bit, path)
		}
	}
	if err := p.FlipBit("file", (1<<20+1)*8); err == nil {
		t.Error("flipped a bit beyond the end")
	}

	path, bit, ok := p.Rot()
	if !ok || path != "file" || p.FlipBit(path, bit) != nil {
		t.Errorf("rot gave %q %d %v", path, bit, ok)
	}
}

func TestFlipIsInWhatIsDurableToo(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 512))
	p.syncAll()
	p.write(f, 0, fill('e', 512))
	if err := p.FlipBit("file", 1); err != nil {
		t.Fatal(err)
	}
	p.expect("file", append([]byte{'g'}, fill('e', 511)...))
	p.crash(0, simdisk.KeepNone).expect("file", append([]byte{'c'}, fill('a', 511)...))
}

func TestRotOnReadIsTracedAndStays(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 8192))
	p.syncAll()
	var trace []string
	p.SetTrace(func(line string) { trace = append(trace, line) })
	p.SetOdds(simdisk.Odds{Rot: 1})
	buf := make([]byte, 512)
	p.must(&host.Op{Kind: host.OpRead, File: f, Offset: 4096, Buf: buf})
	p.Heal()
	if bytes.Equal(buf, fill('a', 512)) || len(trace) != 2 || !strings.HasPrefix(trace[0], "rot file bit=") {
		t.Errorf("the read found no rot, or the trace does not tell: %q", trace)
	}
	want := slices.Concat(fill('a', 4096), buf, fill('a', 4096-512))
	p.expect("file", want)
	p.crash(0, simdisk.KeepNone).expect("file", want)
}

func TestReadFileRefusesWhatIsNoFile(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("d")
	for path, kind := range map[string]fault.Kind{"d": fault.Invalid, "no": fault.NotFound, "../x": fault.Invalid} {
		if _, err := p.ReadFile(path); !fault.Is(err, kind) {
			t.Errorf("reading %s gave %v", path, err)
		}
	}
}

func TestFlipInACleanPageIsNoUnsyncedWrite(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 4096))
	p.syncAll()
	if err := p.FlipBit("file", 0); err != nil {
		t.Fatal(err)
	}
	want := p.read("file")
	p.write(f, 8192, []byte("x"))
	for seed := range uint64(20) {
		if got := p.crash(seed, simdisk.KeepSome).read("file"); !bytes.Equal(got[:4096], want) {
			t.Fatal("a crash took the flip back")
		}
	}
}

func TestStalledOperationsWaitForTheirTimeOrRelease(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.Inject(simdisk.Rule{Path: "late", Effect: simdisk.Stall, Delay: time.Minute})
	p.Inject(simdisk.Rule{Path: "stuck", Effect: simdisk.Stall})
	var order []string
	for _, path := range []string{"stuck", "late", "prompt"} {
		p.Submit(&host.Op{Kind: host.OpMkdir, Path: path, Done: func(op *host.Op) { order = append(order, op.Path) }})
	}
	p.Poll(-1)
	if p.Poll(40*time.Second) != 0 || p.Poll(0) != 0 {
		t.Fatalf("done too early: %q", order)
	}
	if p.Poll(40*time.Second) != 1 || p.Poll(time.Hour) != 0 {
		t.Fatalf("done: %q", order)
	}
	p.Release()
	p.Poll(-1)
	if !slices.Equal(order, []string{"prompt", "late", "stuck"}) || p.InFlight() != 0 {
		t.Errorf("done: %q", order)
	}
}

func TestWaitingForEverForAStallIsABug(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.Inject(simdisk.Rule{Effect: simdisk.Stall})
	p.Submit(&host.Op{Kind: host.OpMkdir, Path: "d"})
	defer func() {
		if err, _ := recover().(error); !fault.Is(err, fault.Internal) {
			t.Errorf("panicked with %v", err)
		}
	}()
	p.Poll(-1)
}

func TestStallsUnderASimulatorAreEvents(t *testing.T) {
	s := newSimulation(simdisk.Options{})
	s.Inject(simdisk.Rule{Path: "late", Effect: simdisk.Stall, Delay: time.Minute})
	s.Inject(simdisk.Rule{Path: "stuck", Effect: simdisk.Stall})
	done := map[string]time.Duration{}
	for _, path := range []string{"stuck", "late", "prompt"} {
		s.Submit(&host.Op{Kind: host.OpMkdir, Path: path, Done: func(op *host.Op) { done[op.Path] = s.now }})
	}
	for s.Poll(-1) > 0 {
	}
	if done["late"] < time.Minute || done["prompt"] > time.Second || len(done) != 2 || s.InFlight() != 1 {
		t.Errorf("done at %v", done)
	}
	s.Heal()
	if s.Poll(-1) != 1 || s.InFlight() != 0 {
		t.Error("what was stalled is not done after healing")
	}
}
