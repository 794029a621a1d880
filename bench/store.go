package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

var storeBenchmarks = []bench.Benchmark{{
	Name: "store/steady",
	What: "a full volume, read and overwritten, against a full file on the same disk and ring",
	Run:  benchSteady,
}, {
	Name: "store/clean-region",
	What: "the first write to a clean region, against the next one to it",
	Run:  benchCleanRegion,
}, {
	Name: "store/first-write-after-snapshot",
	What: "the first write of each block after a snapshot, against overwriting it",
	Run:  benchAfterSnapshot,
}, {
	Name: "store/fill",
	What: "a thin volume filled at random, against a preallocated and a sparse file",
	Run:  benchFill,
}, {
	Name: "store/snapshot",
	What: "snapshots and opening of 1 TiB, against 1 GiB",
	Run:  benchSnapshot,
}, {
	Name: "store/clone",
	What: "a clone of 100 GiB",
	Run:  benchClone,
}, {
	Name: "store/50-snapshots",
	What: "reads after 50 snapshots, against none; and their deletion",
	Run:  benchHistory,
}, {
	Name: "store/wide",
	What: "reads all over a volume with more files and tables than memory holds",
	Run:  benchWide,
}}

const (
	steadyBytes = 2 << 30 // of the volume, and of the file
	sampleTime  = 600 * time.Millisecond
)

// workload is one way to read or write.
type workload struct {
	name   string
	write  bool
	blocks int
	depth  int
}

var workloads = []workload{
	{"read-4k-qd1", false, 1, 1},
	{"read-4k-qd32", false, 1, 32},
	{"write-4k-qd1", true, 1, 1},
	{"write-4k-qd32", true, 1, 32},
	{"read-128k-seq", false, 32, 8},
	{"write-128k-seq", true, 32, 8},
}

// order is where the workload goes: single blocks at random, larger runs in turn.
func (w workload) order(blocks int) order {
	if w.blocks == 1 {
		return randomly(blocks)
	}
	return inTurn(blocks, w.blocks)
}

func (w workload) load(blocks int) load {
	return w.order(blocks).lasting(sampleTime, w.depth, w.blocks)
}

func (w workload) onFile(g *ground, f host.File, blocks int) func() (bench.Cost, error) {
	kind := host.OpRead
	if w.write {
		kind = host.OpWrite
	}
	return func() (bench.Cost, error) { return w.load(blocks).run(g.ctx(), g.disk, rawLane(g.disk, f, kind)) }
}

func (w workload) onVolume(v *volume) func() (bench.Cost, error) {
	verb := store.Read
	if w.write {
		verb = store.Write
	}
	return func() (bench.Cost, error) {
		return w.load(v.blocks).run(v.on.ctx(), v.on.disk, storeLane(v.Replica, verb, 0))
	}
}

// goal is on operations a second.
func (w workload) goal() bench.Goal {
	if w.write {
		return bench.RatioAtLeast(0.85)
	}
	return bench.RatioAtLeast(0.90)
}

// benchSteady shows what the store costs where nothing is new: tables are in memory,
// regions dirty, blocks have their slots.
func benchSteady(r *bench.Run) error {
	return newGround(r, 6<<30, func(g *ground) error {
		name, file, err := g.fullFile(steadyBytes)
		if err != nil {
			return err
		}
		v, err := g.fullVolume(steadyBytes)
		if err != nil {
			return err
		}
		if _, err := v.write(inTurn(v.blocks, fillStep).lasting(sampleTime, 8, fillStep)); err != nil { // makes regions dirty
			return err
		}
		for _, w := range workloads {
			r.Logf("%s", w.name)
			rounds, err := bench.Alternate(r.Context, r.Rounds, w.onVolume(v), w.onFile(g, file, v.blocks))
			if err != nil {
				return err
			}
			reportSteady(r, w, rounds)
		}
		if err := compareFio(r, g, name, file); err != nil {
			return err
		}
		if err := benchFlush(r, g, v, file); err != nil {
			return err
		}
		return v.close()
	})
}

// noAllocs is none in steady state: a request makes two on its first use, and here that is
// one in a thousand.
var noAllocs = bench.ValueAtMost(0.01)

func reportSteady(r *bench.Run, w workload, rounds bench.Rounds[bench.Cost]) {
	name := "store/steady/" + w.name + "/"
	latency := bench.None
	if w.depth == 1 {
		latency = bench.RatioAtMost(1.15)
	}
	r.Report(rounds.Compare(bench.Cost.PerSecond).Figure(name+"iops", "1/s", w.goal()))
	r.Report(rounds.Compare(bench.Quantile(0.5)).Figure(name+"p50", "us", latency))
	r.Report(rounds.Compare(bench.Quantile(0.99)).Figure(name+"p99", "us", bench.None))
	r.Report(rounds.Compare(bench.Quantile(0.999)).Figure(name+"p99.9", "us", bench.None))
	r.Report(rounds.Compare(bench.Cost.CPUPerOp).Figure(name+"cpu", "us/op", bench.None))
	r.Report(bench.Single(name+"allocs", "allocs/op", rounds.Value(bench.Cost.AllocsPerOp), noAllocs))
}

// compareFio shows that the file through our ring, the baseline, is as fast as fio.
func compareFio(r *bench.Run, g *ground, name string, f host.File) error {
	for _, kind := range []string{"randread", "randwrite"} {
		w := workload{kind, kind == "randwrite", 1, 32}
		r.Logf("the baseline against fio, %s", kind)
		rounds, err := bench.Alternate(r.Context, 3, w.onFile(g, f, steadyBytes/block.Size), func() (bench.Cost, error) {
			return bench.Fio{File: filepath.Join(g.root, name), Kind: kind, Block: block.Size, Depth: w.depth, Time: time.Second}.Run(r.Context)
		})
		if err != nil {
			return err
		}
		r.Report(rounds.Compare(bench.Cost.PerSecond).Figure(fmt.Sprintf("store/steady/baseline-against-fio/%s-qd32", kind), "1/s", bench.None))
	}
	return nil
}

// benchFlush is a database's log: a write, and a flush that waits for it.
func benchFlush(r *bench.Run, g *ground, v *volume, f host.File) error {
	r.Logf("write and flush")
	write := workload{"", true, 1, 1}
	flushed := func(l lane, flush func(done func(error))) func() (bench.Cost, error) {
		return func() (bench.Cost, error) {
			return write.load(v.blocks).run(g.ctx(), g.disk, func(blocks int, done func(error)) func(block.Index) {
				return l(blocks, func(err error) {
					if err != nil {
						done(err)
						return
					}
					flush(done)
				})
			})
		}
	}
	sync := &host.Op{Kind: host.OpSync, File: f}
	kept := []*host.Op{sync}
	q := &store.Request{Verb: store.Flush}
	rounds, err := bench.Alternate(r.Context, r.Rounds,
		flushed(storeLane(v.Replica, store.Write, 0), func(done func(error)) {
			q.Done = func(q *store.Request) { done(q.Err) }
			v.Submit(q)
		}),
		flushed(rawLane(g.disk, f, host.OpWrite), func(done func(error)) {
			sync.Done = func(op *host.Op) { done(op.Err) }
			g.disk.Submit(kept...)
		}))
	if err != nil {
		return err
	}
	r.Report(rounds.Compare(bench.Quantile(0.5)).Figure("store/steady/write-4k-flush/p50", "us", bench.None))
	r.Report(rounds.Compare(bench.Cost.CPUPerOp).Figure("store/steady/write-4k-flush/cpu", "us/op", bench.None))
	return nil
}
