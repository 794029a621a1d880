package main

import (
	"math"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/store"
)

var snapshotBenchmarks = []bench.Benchmark{{
	Name: "snapshot/stall",
	What: "the longest write while a snapshot of three replicas is taken, against a while without one",
	Run:  func(r *bench.Run) error { return onSnapshots(r, benchStall) },
}, {
	Name: "snapshot/first-write",
	What: "the first write to blocks after a snapshot, against writing them again",
	Run:  func(r *bench.Run) error { return onSnapshots(r, benchFirstWrites) },
}, {
	Name: "snapshot/delete-100",
	What: "taking and deleting 100 snapshots of three replicas, each with 256 blocks of its own",
	Run:  func(r *bench.Run) error { return onSnapshots(r, benchDeletion) },
}, {
	Name: "snapshot/clone",
	What: "a clone of a volume in a cluster of three real nodes, until it is ready",
	Run:  benchCloneOfVolume,
}}

// onSnapshots gives a full volume of three replicas to a benchmark.
func onSnapshots(r *bench.Run, use func(*replicated) error) error {
	return newGround(r, 4*replicatedBytes+2<<30, func(g *ground) error {
		v, err := newReplicated(g, replicatedBytes, 3, true)
		if err != nil {
			return err
		}
		defer v.close()
		if err := v.fill(); err != nil {
			return err
		}
		return use(v)
	})
}

// stallSamples is how many snapshots each round takes.
const stallSamples = 20

func benchStall(v *replicated) error {
	r := v.on.run
	var with, without []time.Duration
	var heads []float64 // ms that the head took
	sample := func(snapshot bool) (time.Duration, error) {
		var failed error
		done := make(chan struct{})
		began := time.NewTimer(50 * time.Millisecond)
		go func() {
			defer close(done)
			<-began.C
			if !snapshot {
				return
			}
			g, took, err := v.Snapshot(v.on.ctx())
			if failed = err; err == nil {
				heads = append(heads, float64(took.Microseconds())/1e3)
				_, failed = v.DeleteSnapshot(v.on.ctx(), g)
			}
		}()
		c, err := v.run(randomly(v.blocks).lasting(200*time.Millisecond, 8, 1), store.Write)
		<-done
		if err == nil {
			err = failed
		}
		if err != nil {
			return 0, err
		}
		return c.Latency.Max(), nil
	}
	turn := func(snapshot bool, all *[]time.Duration) func() (float64, error) {
		return func() (float64, error) {
			var ms []float64
			for range stallSamples {
				d, err := sample(snapshot)
				if err != nil {
					return 0, err
				}
				*all = append(*all, d)
				ms = append(ms, float64(d.Microseconds())/1e3)
			}
			return bench.Median(ms), nil
		}
	}
	rounds, err := bench.Alternate(r.Context, r.Rounds, turn(true, &with), turn(false, &without))
	if err != nil {
		return err
	}
	same := func(ms float64) float64 { return ms }
	r.Report(rounds.Compare(same).Figure("snapshot/stall/median", "ms", bench.None))
	p99 := func(list []time.Duration) float64 {
		slices.Sort(list)
		return float64(list[int(math.Ceil(0.99*float64(len(list))))-1].Microseconds()) / 1e3
	}
	c := bench.Compared{Value: p99(with), Baseline: p99(without)}
	c.Ratio = c.Value / c.Baseline
	r.Report(c.Figure("snapshot/stall/p99", "ms", bench.ValueAtMost(10)))
	r.Report(bench.Single("snapshot/stall/taken", "ms", bench.Median(heads), bench.None))
	return nil
}

func benchFirstWrites(v *replicated) error {
	r := v.on.run
	const blocks = 16384
	write := func() (bench.Cost, error) { return v.run(shuffled(blocks, blocks).all(32, 1), store.Write) }
	rounds, err := bench.Alternate(r.Context, r.Rounds, func() (bench.Cost, error) {
		if _, _, err := v.Snapshot(v.on.ctx()); err != nil {
			return bench.Cost{}, err
		}
		return write()
	}, write)
	if err != nil {
		return err
	}
	reported(r, rounds, "snapshot/first-write/4k-qd32/", bench.None)
	return nil
}

func benchDeletion(v *replicated) error {
	r := v.on.run
	const snapshots, each = 100, 256
	var taken, deleted []float64 // ms
	for range r.Rounds {
		var list []block.Generation
		var taking, deleting time.Duration
		for range snapshots {
			g, took, err := v.Snapshot(v.on.ctx())
			if err != nil {
				return err
			}
			list, taking = append(list, g), taking+took
			if _, err := v.run(shuffled(v.blocks, each).all(32, 1), store.Write); err != nil {
				return err
			}
		}
		for _, g := range list {
			took, err := v.DeleteSnapshot(v.on.ctx(), g)
			if err != nil {
				return err
			}
			deleting += took
		}
		taken, deleted = append(taken, float64(taking.Milliseconds())), append(deleted, float64(deleting.Milliseconds()))
	}
	r.Report(bench.Single("snapshot/delete-100/taken", "ms", bench.Median(taken), bench.None))
	r.Report(bench.Single("snapshot/delete-100/deleted", "ms", bench.Median(deleted), bench.None))
	return nil
}
