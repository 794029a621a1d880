package simdisk_test

import (
	"bytes"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

func TestKillKeepsWhatCompletedAndItsVolatility(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.open("file", host.Create|host.Lock)
	p.write(f, 0, []byte("data"))
	gone := p.create("gone")
	p.write(gone, 0, fill('x', 4096))
	p.remove("gone")

	after := p.on(p.Kill())
	after.check()
	after.expect("file", []byte("data"))
	after.fails(fault.Invalid, &host.Op{Kind: host.OpStat, File: f})
	after.open("file", host.Lock) // the lock went with the process
	if free := after.must(&host.Op{Kind: host.OpSpace}).Space.Free; free != simdisk.CapacityDefault-4096 {
		t.Errorf("%d bytes are free: a removed file that was open holds its space", free)
	}
	after.crash(0, simdisk.KeepNone).expectNames()
}

func TestKillAppliesWritesInFlightInPart(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 4096))
	p.Submit(&host.Op{Kind: host.OpWrite, File: f, Buf: fill('b', 4096)},
		&host.Op{Kind: host.OpRename, Path: "file", To: "moved"})
	found := map[string]bool{}
	for seed := range uint64(100) {
		c := p.Clone()
		c.Reseed(seed)
		after := p.on(c.Kill())
		after.check()
		list := names(after.Disk)
		switch got := after.read(list[0]); {
		case bytes.Equal(got, fill('a', 4096)):
			found["none"] = true
		case bytes.Equal(got, fill('b', 4096)):
			found["all"] = true
		case len(got) == 4096:
			found["part"] = true
		}
		found[list[0]] = true
	}
	if len(found) != 5 {
		t.Errorf("saw only %v", found)
	}
}

// replace is a program that puts data in a file so that a crash leaves the old or the
// new data. Without the sync of the new file it is wrong.
func replace(p process, data string, sync bool) {
	f := p.open("name.new", host.Create)
	p.truncate(f, 0)
	p.write(f, 0, []byte(data))
	if sync {
		p.sync(f)
	}
	p.close(f)
	p.rename("name.new", "name")
	p.syncDir(".")
}

// crashEverywhere runs replace with a crash at every operation, and collects what is
// in the file afterwards.
func crashEverywhere(t *testing.T, sync bool) (found map[string]bool, complete int) {
	p := start(t, simdisk.Options{})
	replace(p, "old", true)
	whole := p.on(p.Clone())
	replace(whole, "new", sync)
	found = map[string]bool{}
	for n := p.Ops(); n <= whole.Ops(); n++ {
		run := p.on(p.Clone())
		run.CrashAfter(n)
		if simdisk.Survives(func() { replace(run, "new", sync) }) {
			complete++
		} else if !run.Dead() || run.Ops() != n || run.InFlight() == 0 {
			t.Fatalf("stopped after %d operations: dead=%v ops=%d", n, run.Dead(), run.Ops())
		}
		for _, keep := range keeps {
			for seed := range uint64(10) {
				after := run.crash(seed, keep)
				found[string(after.read("name"))] = true
				replace(after, "again", true)
				after.crash(seed, keep).expect("name", []byte("again"))
			}
		}
	}
	return found, complete
}

func TestCrashAtEveryOperation(t *testing.T) {
	found, complete := crashEverywhere(t, true)
	if complete != 1 || len(found) != 2 || !found["old"] || !found["new"] {
		t.Errorf("%d runs completed, crashes left %v", complete, found)
	}
}

func TestCrashAtEveryOperationFindsAMissingSync(t *testing.T) {
	if found, _ := crashEverywhere(t, false); !found[""] {
		t.Errorf("crashes left only %v", found)
	}
}

func TestDeadDiskDoesNothing(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.CrashAfter(p.Ops() + 1)
	p.write(f, 0, []byte("x"))
	p.stat(f) // changes nothing, so it is not where the disk dies
	write := &host.Op{Kind: host.OpWrite, File: f, Offset: 1, Buf: []byte("y"), Done: func(*host.Op) {
		t.Error("Done was called by a dead disk")
	}}
	p.Submit(write)
	if p.Poll(0) != 0 || !p.Dead() {
		t.Fatal("the disk lives")
	}
	late := *write
	late.Offset = 2
	p.Submit(&late)
	if p.Poll(0) != 0 || p.InFlight() != 2 {
		t.Errorf("a dead disk goes on: %d in flight", p.InFlight())
	}
	if simdisk.Survives(func() { p.Poll(-1) }) {
		t.Error("waiting for a dead disk came to an end")
	}
	p.expect("file", []byte("x"))
	p.on(p.Crash(simdisk.KeepAll)).expect("file", []byte("xy")) // what was submitted after death never was
}

func TestSurvivesPassesOtherPanicsOn(t *testing.T) {
	defer func() {
		if r := recover(); r != "mine" {
			t.Errorf("recovered %v", r)
		}
	}()
	simdisk.Survives(func() { panic("mine") })
}

func TestDeadProcessUnderASimulatorIsSilent(t *testing.T) {
	s := newSimulation(simdisk.Options{})
	done := 0
	s.Submit(&host.Op{Kind: host.OpMkdir, Path: "d", Done: func(*host.Op) { done++ }})
	after := s.Disk.Kill()
	for s.Poll(-1) > 0 {
	}
	if done != 0 {
		t.Error("Done was called after the process was killed")
	}
	// The new process is on the same event queue.
	op := &host.Op{Kind: host.OpMkdir, Path: "e", Done: func(*host.Op) { done++ }}
	after.Submit(op)
	if s.Poll(-1) != 1 || done != 1 || op.Err != nil {
		t.Errorf("the next process got %d completions, %v", done, op.Err)
	}
}

func TestCloneGoesItsOwnWay(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 3*4096))
	p.sync(f)
	p.write(f, 4096, fill('b', 4096))
	c := p.on(p.Clone())
	p.write(f, 0, []byte("one"))
	c.write(f, 0, []byte("two")) // through the same handle
	p.rename("file", "p")
	c.rename("file", "c")
	c.truncate(f, 10)
	p.expect("p", append([]byte("one"), append(fill('a', 4093), append(fill('b', 4096), fill('a', 4096)...)...)...))
	c.expect("c", append([]byte("two"), fill('a', 7)...))
	p.check()
	c.check()
	c.syncAll()
	p.crash(0, simdisk.KeepNone).expectNames()
	c.crash(0, simdisk.KeepNone).expectNames("c")
}

func TestCloneHasItsOwnFaults(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.Inject(simdisk.Rule{Path: "a", Effect: simdisk.Fail})
	p.Inject(simdisk.Rule{Path: "b", Skip: 1, Effect: simdisk.Fail})
	c := p.on(p.Clone())
	p.fails(fault.Media, &host.Op{Kind: host.OpMkdir, Path: "a"})
	p.mkdir("b")
	c.fails(fault.Media, &host.Op{Kind: host.OpMkdir, Path: "a"})
	c.mkdir("b")
	c.mkdir("a")
}

func TestCloneHasTheOpsInFlight(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.open("file", host.Create|host.Direct)
	buf := host.Buffer(4096)
	copy(buf, fill('a', 4096))
	calls := 0
	p.Submit(&host.Op{Kind: host.OpWrite, File: f, Buf: buf, Done: func(*host.Op) { calls++ }})
	c := p.on(p.Clone())
	p.Poll(-1)
	copy(buf, fill('b', 4096)) // the buffer is the caller's again
	if c.InFlight() != 1 || c.Poll(-1) != 1 || calls != 1 {
		t.Errorf("%d in flight in the clone, Done called %d times", c.InFlight(), calls)
	}
	c.expect("file", fill('a', 4096))
}

func TestCrashingTwiceIsRefused(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.Crash(simdisk.KeepAll)
	defer func() {
		if err, _ := recover().(error); !fault.Is(err, fault.Internal) {
			t.Errorf("panicked with %v", err)
		}
	}()
	p.Kill()
}
