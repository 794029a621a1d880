package simdisk_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// workload submits random operations of every kind on a few names, most of them
// possible, some not.
type workload struct {
	d    host.Disk
	rand *rand.Rand
	open []host.File
	log  []string // what was done, in order, with its outcome
}

func newWorkload(d host.Disk, seed uint64) *workload {
	return &workload{d: d, rand: rand.New(rand.NewPCG(seed, 1))}
}

func (w *workload) path() string {
	return [...]string{"a", "b", "c", "d/a", "d/b", "d/e/a", "d", "d/e", "f"}[w.rand.IntN(9)]
}

func (w *workload) file() host.File {
	if len(w.open) == 0 {
		return 0
	}
	return w.open[w.rand.IntN(len(w.open))]
}

// next returns a random operation.
func (w *workload) next() *host.Op {
	op := &host.Op{Path: w.path(), To: w.path(), File: w.file()}
	op.Offset, op.Length = w.rand.Int64N(60000), 1+w.rand.Int64N(20000)
	if w.rand.IntN(2) == 0 {
		op.Offset, op.Length = op.Offset&^4095, op.Length&^4095+4096
	}
	kinds := [...]host.Kind{host.OpRead, host.OpWrite, host.OpWrite, host.OpWrite, host.OpWrite, host.OpSync,
		host.OpPunch, host.OpAllocate, host.OpTruncate, host.OpStat, host.OpOpen, host.OpOpen, host.OpClose,
		host.OpRename, host.OpLink, host.OpRemove, host.OpMkdir, host.OpList, host.OpSyncDir, host.OpSyncAll, host.OpSpace}
	switch op.Kind = kinds[w.rand.IntN(len(kinds))]; op.Kind {
	case host.OpRead, host.OpWrite:
		op.Buf = fill(byte('a'+w.rand.IntN(26)), int(op.Length))
	case host.OpOpen:
		op.Flags = host.Flags(w.rand.IntN(32)) | host.Create
		op.Flags &^= host.Direct
	case host.OpSyncDir:
		op.Path = [...]string{".", "d", "d/e"}[w.rand.IntN(3)]
	case host.OpSyncAll:
		if w.rand.IntN(4) > 0 {
			op.Kind = host.OpSync
		}
	}
	op.Done = w.done
	return op
}

func (w *workload) done(op *host.Op) {
	w.log = append(w.log, fmt.Sprint(op.Kind, op.Err, op.N, op.Stat, op.Space, op.Entries))
	if op.Err != nil {
		return
	}
	switch op.Kind {
	case host.OpOpen:
		w.open = append(w.open, op.File)
	case host.OpClose:
		w.open = slices.DeleteFunc(w.open, func(f host.File) bool { return f == op.File })
	}
}

// run submits n operations with up to depth in flight.
func (w *workload) run(n, depth int) {
	for range n {
		w.d.Submit(w.next())
		for w.d.InFlight() >= depth {
			w.d.Poll(-1)
		}
	}
}

func (w *workload) drain() {
	for w.d.InFlight() > 0 {
		w.d.Poll(-1)
	}
}

func TestRandomOperationsKeepTheBooks(t *testing.T) {
	for seed := range uint64(60) {
		p := start(t, simdisk.Options{Seed: seed, Capacity: 300 << 10})
		if seed%2 == 1 {
			p.SetOdds(simdisk.Odds{WriteError: .05, SyncError: .1, Lose: .05, Misdirect: .05, Rot: .1,
				Stall: .1, StallMax: time.Second})
		}
		w := newWorkload(p.Disk, seed)
		for round := range 30 {
			w.run(20, 1+int(seed%5))
			p.check()
			clone := p.on(p.Clone())
			clone.check()
			seen := p.Dump()
			for _, keep := range keeps {
				after := p.crash(seed, keep)
				again := after.Dump()
				if got := after.crash(seed, keep).Dump(); got != again {
					t.Fatalf("seed %d round %d keep=%v: a second crash found\n%safter\n%s", seed, round, keep, got, again)
				}
				newWorkload(after.Disk, seed).run(20, 4)
				after.check()
			}
			if got := p.Dump(); got != seen {
				t.Fatalf("seed %d round %d: what clones did changed\n%sto\n%s", seed, round, seen, got)
			}
			newWorkload(p.Disk, seed).run(1, 1)
			clone.check()
			after := p.on(clone.Kill())
			after.check()
		}
		w.drain()
		p.check()
		beforeKill := p.Dump()
		if after := p.on(p.Kill()); after.Dump() != beforeKill {
			t.Fatalf("seed %d: killing an idle process changed\n%sto\n%s", seed, beforeKill, after.Dump())
		}
	}
}

func TestCrashKeepsAllOrWhatWasSyncedLast(t *testing.T) {
	for seed := range uint64(60) {
		p := start(t, simdisk.Options{Seed: seed})
		w := newWorkload(p.Disk, seed)
		w.run(100, 8)
		w.drain()
		if got, want := p.crash(0, simdisk.KeepAll).Dump(), p.Dump(); got != want {
			t.Fatalf("seed %d: keep=all left\n%swant\n%s", seed, got, want)
		}
		p.syncAll()
		for _, keep := range keeps {
			if got, want := p.crash(seed, keep).Dump(), p.Dump(); got != want {
				t.Fatalf("seed %d: after SyncAll keep=%v left\n%swant\n%s", seed, keep, got, want)
			}
		}
	}
}

// TestSurvivorsAreVersionsThatWereThere writes random sectors of one file, syncs now
// and then, and checks every sector that a crash leaves against all that were written
// to it since the last sync.
func TestSurvivorsAreVersionsThatWereThere(t *testing.T) {
	const sectors = 64
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		p := start(t, simdisk.Options{Seed: seed})
		f := p.create("file")
		p.truncate(f, sectors*512)
		p.syncAll()
		var versions [sectors][]byte // of each sector, durable one first
		for s := range versions {
			versions[s] = []byte{0}
		}
		for step := range 200 {
			at := r.IntN(sectors)
			n := 1 + r.IntN(min(16, sectors-at))
			version := byte(1 + step)
			p.write(f, int64(at)*512, fill(version, n*512))
			for s := at; s < at+n; s++ {
				versions[s] = append(versions[s], version)
			}
			if r.IntN(10) == 0 {
				p.sync(f)
				for s, v := range versions {
					versions[s] = v[len(v)-1:]
				}
			}
			for _, keep := range keeps {
				data := p.crash(seed+uint64(step), keep).read("file")
				for s, v := range versions {
					got := data[s*512]
					ok := slices.Contains(v, got)
					switch keep {
					case simdisk.KeepNone:
						ok = got == v[0]
					case simdisk.KeepAll:
						ok = got == v[len(v)-1]
					}
					if !ok || !bytes.Equal(data[s*512:s*512+512], fill(got, 512)) {
						t.Fatalf("seed %d step %d keep=%v: sector %d holds %d, was %v", seed, step, keep, s, got, v)
					}
				}
			}
		}
	}
}

func TestSameSeedAndCallsGiveTheSameTrace(t *testing.T) {
	odds := simdisk.Odds{ReadError: .02, WriteError: .02, SyncError: .05, Lose: .02, Misdirect: .02, Rot: .02,
		Stall: .05, StallMax: time.Millisecond}
	run := func(seed uint64) (trace []string) {
		d := simdisk.New(simdisk.Options{Seed: seed, Trace: func(line string) { trace = append(trace, line) }})
		d.SetOdds(odds)
		for range 5 {
			w := newWorkload(d, 1)
			w.run(100, 16)
			d = d.Kill()
			w = newWorkload(d, 2)
			w.run(100, 16)
			d = d.Crash(simdisk.KeepSome)
			trace = append(trace, d.Dump())
			trace = append(trace, w.log...)
		}
		return trace
	}
	for seed := range uint64(10) {
		a, b := run(seed), run(seed)
		if !slices.Equal(a, b) {
			t.Fatalf("seed %d gave two traces", seed)
		}
		if slices.Equal(a, run(seed+100)) {
			t.Errorf("seeds %d and %d gave the same trace", seed, seed+100)
		}
	}
}

func TestCloneMakesTheSameChoices(t *testing.T) {
	for seed := range uint64(10) {
		d := simdisk.New(simdisk.Options{Seed: seed})
		w := newWorkload(d, seed)
		w.run(100, 8)
		w.drain()
		c := d.Clone()
		a, b := newWorkload(d, 99), newWorkload(c, 99)
		a.open, b.open = slices.Clone(w.open), slices.Clone(w.open)
		a.run(200, 8)
		b.run(200, 8)
		if !slices.Equal(a.log, b.log) || d.Dump() != c.Dump() {
			t.Fatalf("seed %d: a clone went another way", seed)
		}
		if d.Crash(simdisk.KeepSome).Dump() != c.Crash(simdisk.KeepSome).Dump() {
			t.Fatalf("seed %d: a clone crashed in another way", seed)
		}
	}
}
