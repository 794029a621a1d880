package main

import (
	"errors"
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

// stallSamples is how many snapshots each round takes, and looks at as long without one.
const stallSamples = 20

// stalled is what a user saw of a while.
type stalled struct {
	longest time.Duration // of the writes that were under way in it
	span    time.Duration
	held    time.Duration // that the volume's head held writes in it
}

// benchStall has a user write block after block, which leaves the disk time, and compares
// the longest write while a snapshot is taken with the longest one of a while that is as
// long. What the snapshot itself costs at most is how long the head held writes.
func benchStall(v *replicated) error {
	r := v.on.run
	span := 10 * time.Millisecond // of the last snapshot
	var with, without, held, taken []float64
	turn := func(snapshot bool) func() (float64, error) {
		return func() (float64, error) {
			var ms []float64
			for range stallSamples {
				s, err := v.stall(snapshot, span)
				if err != nil {
					return 0, err
				}
				ms = append(ms, inMs(s.longest))
				if snapshot {
					span = s.span
					held, taken, with = append(held, inMs(s.held)), append(taken, inMs(s.span)), append(with, inMs(s.longest))
				} else {
					without = append(without, inMs(s.longest))
				}
			}
			return bench.Median(ms), nil
		}
	}
	rounds, err := bench.Alternate(r.Context, r.Rounds, turn(true), turn(false))
	if err != nil {
		return err
	}
	same := func(ms float64) float64 { return ms }
	r.Report(rounds.Compare(same).Figure("snapshot/stall/median", "ms", bench.None))
	c := bench.Compared{Value: p99(with), Baseline: p99(without)}
	c.Ratio = c.Value / c.Baseline
	r.Report(c.Figure("snapshot/stall/p99", "ms", bench.ValueAtMost(10)))
	r.Report(bench.Single("snapshot/stall/held", "ms", bench.Median(held), bench.None))
	r.Report(bench.Single("snapshot/stall/held-p99", "ms", p99(held), bench.ValueAtMost(10)))
	r.Report(bench.Single("snapshot/stall/taken", "ms", bench.Median(taken), bench.None))
	return nil
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// p99 returns what 99 % of the values do not exceed. It sorts them.
func p99(values []float64) float64 {
	slices.Sort(values)
	return values[int(math.Ceil(0.99*float64(len(values))))-1]
}

// stall looks at a while of a load: that in which a snapshot is taken, or one of so long.
func (v *replicated) stall(snapshot bool, span time.Duration) (s stalled, err error) {
	type write struct{ began, ended time.Time }
	var writes []write
	l := randomly(v.blocks).lasting(200*time.Millisecond, 1, 1)
	l.ended = func(began, now time.Time) { writes = append(writes, write{began, now}) }
	var from, until time.Time
	var failed error
	done := make(chan struct{})
	before := v.Stats().Held
	begin := time.NewTimer(50 * time.Millisecond)
	go func() {
		defer close(done)
		<-begin.C
		from = time.Now()
		if until = from.Add(span); snapshot {
			var g block.Generation
			if g, _, failed = v.Snapshot(v.on.ctx()); failed == nil {
				until = time.Now()
				_, failed = v.DeleteSnapshot(v.on.ctx(), g)
			}
		}
	}()
	_, err = v.run(l, store.Write)
	<-done
	if err = errors.Join(err, failed); err != nil {
		return s, err
	}
	for _, w := range writes {
		if w.ended.After(from) && w.began.Before(until) {
			s.longest = max(s.longest, w.ended.Sub(w.began))
		}
	}
	s.span, s.held = until.Sub(from), v.Stats().Held-before
	return s, nil
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
