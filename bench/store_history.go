package main

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
)

const (
	historySnapshots = 50
	historyShare     = 25 // one block in so many is written between two snapshots
)

// benchHistory shows what 50 snapshots cost those who read, and what it costs to be rid
// of them. The baseline is a volume with the same writes and no snapshot.
func benchHistory(r *bench.Run) error {
	return newGround(r, 3<<30, func(g *ground) error {
		var with, without *volume
		for _, v := range []**volume{&with, &without} {
			var err error
			if *v, err = g.fullVolume(firstBytes); err != nil {
				return err
			}
		}
		r.Logf("%d snapshots", historySnapshots)
		var gens []block.Generation
		for range historySnapshots {
			for _, v := range []*volume{with, without} {
				if _, err := v.write(shuffled(v.blocks, v.blocks/historyShare).all(32, 1)); err != nil {
					return err
				}
			}
			gen, _, err := with.snapshot()
			if err != nil {
				return err
			}
			gens = append(gens, gen)
		}
		if err := reportReads(r, with, without, gens); err != nil {
			return err
		}
		if err := reportDeletion(r, with, gens); err != nil {
			return err
		}
		if err := with.close(); err != nil {
			return err
		}
		return without.close()
	})
}

func reportReads(r *bench.Run, with, without *volume, gens []block.Generation) error {
	for _, c := range []struct {
		name string
		gen  block.Generation
		load workload
	}{
		{"read-4k-qd1", 0, workloads[0]},
		{"read-4k-qd32", 0, workloads[1]},
		{"read-4k-qd32-of-a-snapshot", gens[len(gens)/2], workloads[1]},
		{"read-128k-seq", 0, workloads[4]},
	} {
		r.Logf("%s", c.name)
		rounds, err := bench.Alternate(r.Context, r.Rounds,
			func() (bench.Cost, error) { return with.read(c.gen, c.load.load(with.blocks)) },
			func() (bench.Cost, error) { return without.read(0, c.load.load(without.blocks)) })
		if err != nil {
			return err
		}
		goal := bench.RatioAtLeast(0.9)
		if c.load.blocks > 1 {
			goal = bench.None // a run of blocks lies in as many places as it was written in parts
		}
		r.Report(rounds.Compare(bench.Cost.PerSecond).Figure("store/50-snapshots/"+c.name, "1/s", goal))
	}
	return nil
}

// reportDeletion deletes half of the snapshots on an idle volume, and half under load,
// the oldest first, as retention does.
func reportDeletion(r *bench.Run, v *volume, gens []block.Generation) error {
	r.Logf("deletion")
	var idle, busy []float64
	half := len(gens) / 2
	for _, gen := range gens[:half] {
		took, err := v.unsnap(gen)
		if err != nil {
			return err
		}
		idle = append(idle, milliseconds(took))
	}
	stall := time.Duration(0)
	for _, gen := range gens[half:] {
		took, longest, err := v.unsnapUnderLoad(gen)
		if err != nil {
			return err
		}
		busy, stall = append(busy, milliseconds(took)), max(stall, longest)
	}
	r.Report(bench.Single("store/50-snapshots/deletion-idle", "ms/snapshot", bench.Median(idle), bench.None))
	r.Report(bench.Single("store/50-snapshots/deletion-under-load", "ms/snapshot", bench.Median(busy), bench.None))
	r.Report(bench.Single("store/50-snapshots/deletion-longest-write", "ms", milliseconds(stall), bench.None))
	return nil
}

// unsnapUnderLoad deletes a snapshot while blocks are overwritten, and returns how long
// it took and the longest write.
func (v *volume) unsnapUnderLoad(gen block.Generation) (took, longest time.Duration, err error) {
	began, ended := time.Now(), false
	finish := func(e error) { took, ended, err = time.Since(began), true, e }
	v.DeleteSnapshot(gen, func(e error) {
		if e != nil {
			finish(e)
			return
		}
		v.Reclaimed(finish)
	})
	places := randomly(v.blocks)
	c, werr := v.write(load{depth: 4, blocks: 1, next: func(time.Time) (block.Index, bool) {
		at, _ := places()
		return at, !ended
	}})
	if err == nil {
		err = werr
	}
	return took, c.Latency.Max(), err
}
