package store

import (
	"fmt"
	"hash/fnv"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// long asks for the form of a test that takes minutes: see `make test-long`.
var long = os.Getenv("HOLDFAST_LONG") != ""

// stepDisk is a disk that shows itself before each step that it takes.
type stepDisk struct {
	*simdisk.Disk
	before func()
}

func (d *stepDisk) Poll(wait time.Duration) int {
	if d.before != nil {
		d.before()
	}
	return d.Disk.Poll(wait)
}

// The exhaustive tests use a volume that ends a little behind its first region, of which
// they look at a few blocks: at the start, and around the end of the first region.
const exhaustiveSize = (block.PerRegion + 8) * block.Size

func exhaustiveBlocks() (at []block.Index) {
	for i := range block.Index(8) {
		at = append(at, i)
	}
	for i := range block.Index(12) {
		at = append(at, block.PerRegion-4+i)
	}
	return at
}

var tinyOptions = Options{Boot: 1, TablesMax: 8, FilesMax: 8, JournalBlocks: 16}

// base is what a workload begins with.
type base struct {
	name    string
	disk    *simdisk.Disk
	story   *story // no process runs
	crashed bool
}

// bases makes the replicas that workloads begin with: an empty one; one with snapshots,
// overwritten and zeroed blocks, that was closed; and the same after a power loss and
// after a kill, with writes that were not flushed.
func bases(t *testing.T) []base {
	var list []base
	for _, x := range []struct {
		name   string
		writes bool
		death  death
	}{{"empty", false, closed}, {"closed", true, closed}, {"crashed", true, power}, {"killed", true, killed}} {
		d := simdisk.New(simdisk.Options{Seed: 1, InOrder: true})
		s := &story{rig: newRig(t, d, exhaustiveSize, tinyOptions), m: newModel(exhaustiveSize, exhaustiveBlocks()), clones: map[string]cloned{}}
		if x.writes {
			for _, name := range strings.Fields("write cross snapshot write zero clean snapshot cross promise zero") {
				s.play(t, name, 0)
			}
			s.play(t, "write", 1)
		}
		switch x.death {
		case closed:
			s.m.flushed(s.m.coverage())
			s.must(s.close())
		case killed:
			s.r.Abandon()
			d = d.Kill()
		case power:
			s.r.Abandon()
			d = d.Crash(simdisk.KeepSome)
			s.opts.Boot++
		}
		// What a process finds here is learned from a copy: nobody has opened this one.
		s.disk = d.Clone()
		s.must(s.open())
		s.must(s.verify(s.m, x.death))
		if len(s.m.doubt) > 0 {
			t.Fatalf("%s: blocks %v are torn", x.name, s.m.doubt)
		}
		s.drop()
		s.r, s.disk = nil, nil
		list = append(list, base{x.name, d, s, x.death != closed})
	}
	return list
}

// own returns a copy for one test alone.
func (b base) own() base {
	b.disk = b.disk.Clone()
	return b
}

// play does one action and lets the replica come to rest.
func (s *story) play(t *testing.T, name string, place int) {
	t.Helper()
	for _, a := range actions {
		if a.name == name {
			a.start(s, place)
			if err := s.rest(); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("there is no action %q", name)
}

// ending is a way for a process to end.
type ending struct {
	name  string
	death death
	keep  simdisk.Keep
}

var endings = []ending{
	{"kill", killed, 0},
	{"power loss, nothing kept", power, simdisk.KeepNone},
	{"power loss, some kept", power, simdisk.KeepSome},
	{"power loss, all kept", power, simdisk.KeepAll},
}

// end returns the disk after a death, and the options of the next process.
func (e ending) end(d *simdisk.Disk, o Options) (*simdisk.Disk, Options) {
	if e.death == killed {
		return d.Kill(), o
	}
	o.Boot++
	return d.Crash(e.keep), o
}

// explorer crashes a workload at every step.
type explorer struct {
	t        *testing.T
	b        base
	workload string
	counts   *counts
	deeper   int // every so many recoveries are themselves crashed at every step
	again    int // every so many are followed by another death
	seen     map[uint64]bool
}

// counts says how much was looked at.
type counts struct{ workloads, recoveries int }

// run plays the actions one after the other, the last one (or, at once, all of them) with
// a crash at every step. Without actions it is opening that is crashed.
func (x *explorer) run(list []action, atOnce bool) {
	d := &stepDisk{Disk: x.b.disk.Clone()}
	s := x.b.story.fork(&rig{t: x.t, disk: d, opts: x.b.story.opts, dir: "v"})
	defer s.drop()
	crash := func() { x.crashAll(s, d) }
	if len(list) == 0 {
		d.before = crash
	}
	if err := s.open(); err != nil {
		x.t.Fatalf("%s: open: %v", x.workload, err)
	}
	for i, a := range list {
		place := 0
		if atOnce {
			place = i
		}
		if !a.fit(s, place) {
			return
		}
		if i == len(list)-1 || atOnce {
			d.before = crash
		}
		a.start(s, place)
		if !atOnce {
			if err := s.rest(); err != nil {
				x.t.Fatalf("%s: %v", x.workload, err)
			}
		}
	}
	x.counts.workloads++
	err := s.rest()
	if d.before = nil; err == nil {
		err = s.close()
	}
	if err == nil {
		err = s.reopen(closed)
	}
	if err != nil {
		x.t.Fatalf("%s, then closed: %v\n%s", x.workload, err, x.replay())
	}
}

// crashAll tries every ending on the disk as it is now.
func (x *explorer) crashAll(s *story, d *stepDisk) {
	for _, e := range endings {
		if err := x.crash(s, d.Disk, e); err != nil {
			x.t.Fatalf("%s, at operation %d %s: %v\n%s", x.workload, d.Ops(), e.name, err, x.replay())
		}
	}
}

func (x *explorer) replay() string {
	return fmt.Sprintf("replay: go test ./internal/store -run '^%s$'", strings.ReplaceAll(x.t.Name(), "/", "$/^"))
}

// crash ends the process and looks at what the next one finds.
func (x *explorer) crash(s *story, now *simdisk.Disk, e ending) error {
	d, o := now.Clone(), s.opts
	d.Reseed(x.seed(e))
	d, o = e.end(d, o)
	if !x.isNew(d, s, e) {
		return nil
	}
	x.counts.recoveries++
	next := s.fork(&rig{t: x.t, disk: d, opts: o, dir: "v"})
	defer next.drop()
	if x.deeper > 0 && x.counts.recoveries%x.deeper == 0 {
		x.crashRecovery(next, d, e.death)
	}
	if err := next.reopen(e.death); err != nil {
		return err
	}
	if x.again > 0 && x.counts.recoveries%x.again == 0 {
		return x.dieAgain(next, d)
	}
	return nil
}

// isNew reports whether such a disk was not found yet with such a model: many operations
// change nothing that survives.
func (x *explorer) isNew(d *simdisk.Disk, s *story, e ending) bool {
	h := fnv.New64a()
	m := s.m
	fmt.Fprint(h, e.death, d.Dump(), m.size, m.gen, m.promised, m.stamped, m.history, m.acked, m.snapshots, m.regions, m.open, m.maybe, s.clones)
	if x.seen == nil {
		x.seen = make(map[uint64]bool)
	}
	key := h.Sum64()
	known := x.seen[key]
	x.seen[key] = true
	return !known
}

// crashRecovery opens a copy of what a death left, with a crash at every step.
func (x *explorer) crashRecovery(s *story, found *simdisk.Disk, how death) {
	d := &stepDisk{Disk: found.Clone()}
	c := s.fork(&rig{t: x.t, disk: d, opts: s.opts, dir: "v"})
	defer c.drop()
	d.before = func() {
		for _, e := range endings {
			x.counts.recoveries++
			after, o := e.end(d.Clone(), c.opts)
			last := s.fork(&rig{t: x.t, disk: after, opts: o, dir: "v"})
			defer last.drop()
			if err := last.reopen(max(how, e.death)); err != nil {
				x.t.Fatalf("%s, then during recovery at operation %d %s: %v\n%s", x.workload, d.Ops(), e.name, err, x.replay())
			}
		}
	}
	if err := c.open(); err != nil {
		x.t.Fatalf("%s: open: %v", x.workload, err)
	}
	for d.InFlight() > 0 {
		d.Poll(-1)
	}
}

// dieAgain checks that what was shown after one death is shown after the next.
func (x *explorer) dieAgain(s *story, d *simdisk.Disk) error {
	switch x.counts.recoveries / x.again % 3 {
	case 0:
		if err := s.close(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
		if err := s.reopen(closed); err != nil {
			return fmt.Errorf("after a recovery and a close: %w", err)
		}
	case 1:
		s.r.Abandon()
		s.disk = d.Kill()
		if err := s.reopen(killed); err != nil {
			return fmt.Errorf("after a recovery and a kill: %w", err)
		}
	default:
		c := s.m.coverage()
		if err := s.do(&Request{Verb: Flush}); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		s.m.flushed(c)
		s.r.Abandon()
		s.disk = d.Crash(simdisk.KeepNone)
		s.opts.Boot++
		if err := s.reopen(power); err != nil {
			return fmt.Errorf("after a recovery, a flush and a power loss: %w", err)
		}
	}
	return nil
}

func (x *explorer) seed(e ending) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, x.workload, e.name, x.counts.recoveries)
	return h.Sum64()
}

// TestEveryCrashOfEveryShortWorkload plays every workload of up to three actions, from
// an empty replica and from one with a history, and crashes it at every disk operation in
// every way. From what a crash left it plays every single action, or in the long form
// every workload too.
//
// Only the last action of a workload is crashed: what comes before it is another
// workload, which is crashed too.
func TestEveryCrashOfEveryShortWorkload(t *testing.T) {
	for _, b := range bases(t) {
		for i, first := range actions {
			b := b.own()
			t.Run(b.name+"/"+first.name, func(t *testing.T) {
				t.Parallel()
				x := newExplorer(t, b)
				if i == 0 {
					x.play()
				}
				x.play(first)
				for _, second := range actions {
					if b.crashed && !long {
						break
					}
					x.play(first, second)
					for _, third := range actions {
						x.play(first, second, third)
					}
				}
				t.Logf("%d workloads, %d recoveries", x.counts.workloads, x.counts.recoveries)
			})
		}
	}
}

func newExplorer(t *testing.T, b base) *explorer {
	x := &explorer{t: t, b: b, counts: new(counts), deeper: 97, again: 5}
	if long {
		x.deeper, x.again = 7, 1
	}
	return x
}

func (x *explorer) play(list ...action) {
	x.workload = x.b.name + ":"
	for _, a := range list {
		x.workload += " " + a.name
	}
	x.run(list, false)
}

// TestEveryCrashOfEveryPairAtOnce does the same with two actions that are under way
// together.
func TestEveryCrashOfEveryPairAtOnce(t *testing.T) {
	for _, b := range bases(t) {
		if b.crashed && !long {
			continue
		}
		for _, first := range actions {
			b := b.own()
			t.Run(b.name+"/"+first.name, func(t *testing.T) {
				t.Parallel()
				x := newExplorer(t, b)
				for _, second := range actions {
					x.workload = b.name + ": " + first.name + " beside " + second.name
					x.run([]action{first, second}, true)
				}
				t.Logf("%d workloads, %d recoveries", x.counts.workloads, x.counts.recoveries)
			})
		}
	}
}
